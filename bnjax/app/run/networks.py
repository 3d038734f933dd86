"""What `train` and `sweep` begin with: the data, the size of a batch, a network, an optimizer."""

import operator

import optax

from bnjax.app import data as datasets
from bnjax.app.data import Data
from bnjax.app.errors import UserError
from bnjax.app.io.terminal import say
from bnjax.app.options import Task
from bnjax.app.run import processes
from bnjax.network import Network

TITLES = {"baseline": "the baseline", "bn": "the normalized network"}
NAMES = tuple(TITLES)
_MOST_WEIGHTS = 2**31


def load(options: Task, *, seed: int) -> tuple[Data, int]:
    """Load the data, split by `seed`; return them and the number of samples in a batch.

    Raises:
        UserError: The data cannot be read or do not fit, or they are fewer than a batch.
    """
    data = datasets.load(
        options.data,
        cost=options.cost,
        label=options.label,
        test_fraction=options.test_fraction,
        seed=seed,
        scale=options.scale,
        scale_targets=options.scale_targets,
        missing=options.missing,
        max_size=options.max_size,
    )
    if processes.is_first():
        for note in data.notes:
            say(note)
    return data, choose_batch_size(options, len(data.x_train))


def choose_batch_size(options: Task, samples: int) -> int:
    """Return the number of samples in a batch.

    Raises:
        UserError: There are fewer samples.
    """
    batch_size = samples if options.batch_size == "full" else options.batch_size
    if batch_size > samples:
        raise UserError(
            f"--batch-size: expected at most {samples}, the size of the training set, got "
            f"{batch_size}; use a smaller batch, or full"
        )
    return batch_size


def make_network(
    options: Task,
    n_in: int,
    n_out: int,
    name: str,
    *,
    decay: float | None,
    other_decays: tuple[float | None, ...] = (),
) -> Network:
    """Build the network of a name in `NAMES`: the baseline, or the normalized one.

    Raises:
        UserError: It has more weights than JAX counts.
    """
    sizes = (n_in, *options.hidden, n_out)
    weights = sum(map(operator.mul, sizes, sizes[1:]))
    if weights >= _MOST_WEIGHTS:
        raise UserError(
            f"--hidden: expected a network with fewer than {_MOST_WEIGHTS:,} weights, got "
            f"{weights:,}; use smaller layers"
        )
    return Network(
        sizes,
        activation=options.activation,
        cost=options.cost,
        norm=name == "bn",
        norm_output=name == "bn" and options.norm_output,
        eps=options.eps,
        decay=decay,
        other_decays=other_decays,
        initializer=options.initializer,
        init_scale=options.init_scale,
    )


def make_optimizer(
    name: str, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Build the optimizer that `--optimizer` names; the learning rate may be traced."""
    match name:
        case "sgd":
            return optax.sgd(learning_rate)
        case "momentum":
            return optax.sgd(learning_rate, momentum=0.9)
        case _:
            return optax.adam(learning_rate)
