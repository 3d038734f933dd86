"""The optimized programs of this tree beside those of another commit: the same, but for names?

Run: python benchmarks/programs.py --against REV [--only TEXT ...] [--show NAME] [--rounds N]

Compiles a list of programs with both versions of bnjax in one process and compares the optimized
HLO, without names, metadata and the order of independent instructions. Programs that differ are
timed, interleaved, as new over old. Eight CPU devices are simulated for the sharded ones.
"""

import argparse
import difflib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from types import ModuleType
from typing import Any, NamedTuple

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from _timing import machine  # noqa: E402
from _versions import ROOT, checkout, load  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

RULES = ("vjp", "jvp", "autodiff")
SHAPES = (
    ((64, 128), -1),
    ((8192, 512), -1),
    ((65536, 3), -1),
    ((16, 28, 28, 64), -1),
    ((16, 64, 28, 28), 1),
)


class Program(NamedTuple):
    """A function to compile, and its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    jit: dict[str, Any] = {}


def draw(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def differentiated(bnjax: ModuleType, *, moments: bool = False, **options: Any) -> Callable:
    """(x, γ, β, ȳ) -> y and its gradients, with the moments among the outputs if asked for."""

    def run(x, gamma, beta, y_bar, where=None):
        def forward(x, gamma, beta):
            y, found = bnjax.batch_norm(x, gamma, beta, where=where, **options)
            return (y, found.mean, found.var) if moments else y

        y, pull = jax.vjp(forward, x, gamma, beta)
        bars = (y_bar, *(jnp.ones_like(m) for m in y[1:])) if moments else y_bar
        return y, pull(bars)

    return run


def normalizations(bnjax: ModuleType) -> Iterator[tuple[str, Program]]:
    for shape, axis in SHAPES:
        x, y_bar = draw(*shape), draw(*shape, seed=1)
        channels = draw(shape[axis]) + 2
        arrays = x, channels, channels
        name = "x".join(map(str, shape))
        for rule in RULES:
            options = dict(axis=axis, rule=rule)
            forward = partial(bnjax.batch_norm, **options)
            yield f"{name} {rule} forward", Program(forward, arrays)
            yield f"{name} {rule}", Program(differentiated(bnjax, **options), (*arrays, y_bar))
        statistics_ = draw(shape[axis]), draw(shape[axis]) ** 2
        given = partial(bnjax.normalize, axis=axis)
        yield f"{name} normalize", Program(given, (x, *statistics_, channels, channels))
    x, y_bar, channels = draw(512, 64), draw(512, 64, seed=1), draw(64) + 2
    masks = {
        "mask": draw(512, 1) > 0,
        "weights": draw(512, 1) ** 2,
        "full weights": draw(512, 64) ** 2,
    }
    for rule in RULES:
        for kind, where in masks.items():
            run = differentiated(bnjax, rule=rule)
            yield f"{kind} {rule}", Program(run, (x, channels, channels, y_bar, where))
        run = differentiated(bnjax, rule=rule, moments=True)
        yield f"moments {rule}", Program(run, (x, channels, channels, y_bar))
        half = x.astype(jnp.bfloat16), channels, channels, y_bar.astype(jnp.bfloat16)
        yield f"bfloat16 {rule}", Program(differentiated(bnjax, rule=rule), half)
        plain = partial(lambda rule, x: bnjax.batch_norm(x, rule=rule)[0].sum(), rule)
        yield f"no affine {rule}", Program(jax.grad(plain), (x,))
        several = differentiated(bnjax, rule=rule, axis=(1, 3))
        x4, c4 = draw(8, 4, 6, 5), draw(4, 5)
        yield f"axes {rule}", Program(several, (x4, c4, c4, draw(8, 4, 6, 5, seed=1)))
    if hasattr(bnjax, "renorm"):
        for rule in RULES:

            def renormalized(x, gamma, beta, y_bar, rule=rule):
                f = partial(bnjax.renorm, rule=rule)
                y, pull, _ = jax.vjp(
                    lambda x, *affine: f(x, (beta, gamma), *affine), x, gamma, beta, has_aux=True
                )
                return y, pull(y_bar)

            yield f"renorm {rule}", Program(renormalized, (x, channels, channels, y_bar))
    for rule in ("jvp", "autodiff"):
        push = partial(
            lambda rule, x, t: jax.jvp(partial(bnjax.batch_norm, rule=rule), (x,), (t,)), rule
        )
        yield f"pushed {rule}", Program(push, (x, y_bar))
    wide = x, channels, channels**2, channels, channels
    grads = jax.grad(lambda *args: jnp.sum(bnjax.normalize(*args) ** 2), (0, 1, 2, 3, 4))
    yield "normalize gradients", Program(grads, wide)


def sharded(bnjax: ModuleType) -> Iterator[tuple[str, Program]]:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, y_bar, channels = draw(512, 64), draw(512, 64, seed=1), draw(64) + 2
    where = draw(512, 1) ** 2
    for rule in RULES:
        run = differentiated(bnjax, rule=rule, moments=True, axis_name="data")
        for check in (True, False):
            # unchecked, each device's γ̄ is its own part
            spec = P() if check else P("data")
            outs = ((P("data"), P(), P()), (P("data"), spec, spec))
            for kind, weights in (("", ()), (" weights", (where,))):
                ins = (P("data"), P(), P(), P("data"), *(P("data") for _ in weights))
                mapped = jax.shard_map(
                    run, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=check
                )
                args = x, channels, channels, y_bar, *weights
                checked = "checked" if check else "unchecked"
                yield f"shard_map {checked}{kind} {rule}", Program(mapped, args)
        data = jax.sharding.NamedSharding(mesh, P("data"))
        args = (*jax.device_put((x, y_bar), data), channels)
        run = differentiated(bnjax, rule=rule)
        plain = partial(lambda run, x, y_bar, c: run(x, c, c, y_bar), run)
        yield f"jit on a sharded batch {rule}", Program(plain, args)
        mapped = jax.vmap(
            differentiated(bnjax, rule=rule, axis_name="rows"), (0, None, None, 0), axis_name="rows"
        )
        rows = x.reshape(8, 64, 64), channels, channels, y_bar.reshape(8, 64, 64)
        yield f"vmap with a name {rule}", Program(mapped, rows)


def networks(bnjax: ModuleType) -> Iterator[tuple[str, Program]]:
    x = draw(100, 20)
    targets = (draw(100, 5) > 0).astype(np.float32)
    where = draw(100) ** 2
    for kind, options in (("baseline", {"norm": False}), ("bn", {})):
        net = bnjax.Network((20, 16, 16, 5), **options)
        optimizer = optax.sgd(0.1)
        start = bnjax.training.init(net, optimizer, jax.random.key(0))
        for gradient in ("rule", "hand", "autodiff"):
            for size in (20, 30):  # whole batches, and a last one that is masked
                order = np.asarray(bnjax.training.shuffle(jax.random.key(1), 100, size))
                epoch = bnjax.training.make_epoch(net, optimizer, gradient=gradient)
                yield f"epoch {kind} {gradient} {size}", Program(epoch, (start, order, x, targets))
        for name, weights in (("", None), (" weights", where)):
            hand = partial(bnjax.backprop.value_and_grad, net, where=weights)
            yield f"by hand {kind}{name}", Program(hand, (start.params, x, targets))
        run = partial(bnjax.bn_apply, net, train=False)
        yield f"evaluation {kind}", Program(run, (start.params, start.state, x))
    everything = partial(bnjax.backprop.intermediates, net)
    yield "intermediates", Program(everything, (start.params, x, targets))
    population, Moments = bnjax.population, bnjax.Moments
    found = Moments(draw(9, 16), draw(9, 16) ** 2, np.full((9, 16), 4, np.float32))
    yield "average", Program(population.average, (found,))
    yield "pool", Program(population.pool, (found,))
    jacobian = bnjax.jacobian
    u, W, gamma = draw(6, 4), draw(4, 3), draw(3)
    yield "kernel", Program(jacobian.kernel, (u @ W, gamma))
    yield "kernel_product", Program(jacobian.kernel_product, (u @ W, u @ W, gamma))
    yield "weight_jacobian", Program(jacobian.weight_jacobian, (u, W, gamma))
    yield "staged_chain", Program(bnjax.backprop.staged_chain, (u @ W, gamma, u @ W))
    summarize = partial(bnjax.geometry.summarize, net)
    yield "geometry.summarize", Program(summarize, (start.params, x, targets))
    observe = partial(bnjax.geometry.observe, net)
    yield "geometry.observe", Program(observe, (start.params, x, targets))


def programs(bnjax: ModuleType, only: list[str]) -> dict[str, Program]:
    rooms = normalizations, sharded, networks
    found = (pair for room in rooms for pair in room(bnjax))
    return {name: one for name, one in found if not only or any(part in name for part in only)}


def compiled(program: Program) -> Any:
    return jax.jit(lambda *args: program.function(*args)).lower(*program.args).compile()


def plain(text: str) -> str:
    """Leave out of HLO where it comes from."""
    text = re.sub(r"(?ms)^(FileNames|FunctionNames|FileLocations|StackFrames)\n.*?\n\n", "", text)
    return re.sub(r", metadata=\{[^{}]*\}", "", text)


def renamed(text: str) -> list[str]:
    """Rename what plain HLO names in order of appearance."""
    names: dict[str, str] = {}
    text = re.sub(r"%[\w.\-]+", lambda m: names.setdefault(m.group(), f"%{len(names)}"), text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def digest(text: str) -> str:
    """Reduce plain HLO to a digest of what each instruction computes from the arguments.

    Names, the order of independent instructions and the order in which operands of fusions and
    branches are listed change nothing; an instruction more or less, or another fusion, does.
    """
    bodies: dict[str, list[tuple[str, str, str]]] = {}
    computation = ""
    for line in text.splitlines():
        if defined := re.match(r"(ROOT )?(%[\w.\-]+) = (.*)", line.strip()):
            bodies[computation].append((defined[2], defined[3], defined[1] or ""))
        elif opened := re.match(r"(?:ENTRY )?(%[\w.\-]+) ", line.strip()):
            computation = opened[1]
            bodies[computation] = []
    executed: list[str] = []

    def value(computation: str, args: list[Any], *, fused: bool) -> Any:
        values: dict[str, Any] = {}
        for name, rest, root in bodies[computation]:
            values[name] = one = instruction(rest, values, args, fused=fused)
            if not fused and isinstance(one, str):
                executed.append(one)
            if root:
                result = one
        return result

    def instruction(rest: str, values: dict[str, Any], args: list[Any], *, fused: bool) -> Any:
        kind, op, operands, attributes = parts(rest)
        if op == "parameter":
            return args[int(operands)]
        inputs = [values[name] for name in re.findall(r"%[\w.\-]+", operands)]
        if op == "tuple":
            return inputs
        if op == "get-tuple-element" and isinstance(inputs[0], list):
            return inputs[0][int(re.search(r"index=(\d+)", attributes)[1])]
        called = re.findall(r"%[\w.\-]+", attributes)
        attributes = re.sub(r"\w+=(%[\w.\-]+|\{%[^}]*\})", "", attributes)
        if op == "call":
            return value(called[0], inputs, fused=fused)
        if op == "fusion":
            inner: Any = value(called[0], inputs, fused=True)
        elif op == "conditional":
            inner = [value(c, [a], fused=fused) for c, a in zip(called, inputs[1:], strict=True)]
            if all(isinstance(one, list) for one in inner):
                return [hashed(op, inputs[0], each) for each in zip(*inner, strict=True)]
        else:
            symbols = [f"symbol {i}" for i in range(16)]
            inner = [value(c, symbols, fused=True) for c in called if c in bodies]
        if op == "fusion" and isinstance(inner, list):
            return [hashed(op, attributes, one) for one in inner]
        own = "" if op == "fusion" else (inputs if inputs else operands)
        return hashed(kind, op, attributes, inner, own)

    entry = re.search(r"(?m)^ENTRY (%[\w.\-]+) ", text)[1]
    count = len(bodies[entry])
    root = value(entry, [f"argument {i}" for i in range(count)], fused=False)
    return hashed(root, sorted(executed))


def parts(rest: str) -> tuple[str, str, str, str]:
    """Split the right-hand side of an instruction: type, operation, operands, attributes."""
    kind, rest = re.match(r"(\(.*?\)(?= [\w\-]+\()|\S+) (.*)", rest).groups()
    op, rest = re.match(r"([\w\-]+)\((.*)", rest).groups()
    depth = accumulate((letter == "(") - (letter == ")") for letter in "(" + rest)
    end = next(at for at, open_ in enumerate(depth) if not open_) - 1
    return kind, op, rest[:end], rest[end + 1 :]


def hashed(*things: Any) -> str:
    return hashlib.sha256(repr(things).encode()).hexdigest()


def faster(old: Callable[[], Any], new: Callable[[], Any], rounds: int) -> float:
    """Time both in turn; the best new over the best old."""
    best = dict.fromkeys((old, new), float("inf"))
    repeat = 1
    while True:  # at least a millisecond a reading
        started = time.perf_counter()
        for _ in range(repeat):
            jax.block_until_ready(old())
        if time.perf_counter() - started > 1e-3:
            break
        repeat *= 2
    for turn in range(rounds):
        for one in (old, new) if turn % 2 else (new, old):
            started = time.perf_counter()
            for _ in range(repeat):
                jax.block_until_ready(one())
            best[one] = min(best[one], time.perf_counter() - started)
    return best[new] / best[old]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="HEAD", metavar="REV")
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("--show", metavar="NAME", help="print the difference of one program")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    only = [options.show] if options.show else options.only
    print(machine())
    with checkout(options.against) as folder:
        old, new = (programs(load(root), only) for root in (folder, ROOT))
        same, different = 0, []
        for name, program in new.items():
            if name not in old:
                print(f"{name}: new")
                continue
            pair = [(compiled(one), one.args) for one in (old[name], program)]
            texts = [plain(one.as_text()) for one, _ in pair]
            if digest(texts[0]) == digest(texts[1]):
                same += 1
                continue
            lines = list(difflib.unified_diff(*map(renamed, texts), lineterm="", n=1))
            if options.show:
                print("\n".join(lines))
            changed = sum(line[0] in "+-" and line[:3] not in ("+++", "---") for line in lines)
            ratio = faster(
                *(partial(one, *jax.device_put(args)) for one, args in pair), options.rounds
            )
            different.append(name)
            print(
                f"{name}: {changed} of {len(renamed(texts[1]))} lines differ, new / old {ratio:.3f}"
            )
        print(f"{same} programs are the same but for names, {len(different)} differ")


if __name__ == "__main__":
    main()
