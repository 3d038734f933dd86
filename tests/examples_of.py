"""The examples, loaded with another layer in the place of bnjax's."""

import importlib.util
from pathlib import Path

import jax

_EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name, **replaced):
    """The module of an example, with other values for some of its names."""
    spec = importlib.util.spec_from_file_location(name, _EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for key, value in replaced.items():
        assert hasattr(module, key)
        setattr(module, key, value)
    return module


def first_costs(module, *start, steps=5):
    """The costs of an example's first steps."""
    images, labels = module.digits()[0]
    with jax.enable_x64(False):  # as in the example
        states, costs = module.start(*start), []
        for i in range(steps):
            batch = slice(i * module.BATCH, (i + 1) * module.BATCH)
            *states, cost = module.step(*states, images[batch], labels[batch])
            costs.append(float(cost))
    return costs
