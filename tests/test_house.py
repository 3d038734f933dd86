"""The house: who may import whom, what importing costs, and what tests may draw from."""

import ast
import subprocess
import symtable
import sys
from pathlib import Path

import pytest

import bnjax

PACKAGE = Path(bnjax.__file__).parent
TESTS = Path(__file__).parent
# a room may import from the rooms below it only
FLOORS = (
    "__init__",
    "layers",
    "report",
    "claims",
    "identities",
    "own_rules",
    "training",
    "geometry",
    "backprop",
    "folding",
    "network",
    "conversion",
    "renormalization",
    "population",
    "jacobian",
    "matrix",
    "accumulation",
    "costs",
    "activations",
    "ghost",
    "norm",
    "rules",
    "kernel",
    "moments",
    "effective_counts",
    "audit",
    "_marks",
    "_checks",
    "collectives",
    "layout",
    "powers_of_two",
    "_xla",
)
# a door that opens upwards: `geometry.report` imports its room when it is called
DOORS = {("geometry", "report")}
# all that `batch_norm`, `normalize` and `Moments` load
NORM = {
    "bnjax",
    *("bnjax._checks", "bnjax._marks", "bnjax._xla", "bnjax.collectives", "bnjax.kernel"),
    "bnjax.layout",
    *("bnjax.moments", "bnjax.norm", "bnjax.rules"),
    *("bnjax.rules.forward", "bnjax.rules.given", "bnjax.rules.jvp", "bnjax.rules.vjp"),
    *("bnjax.effective_counts", "bnjax.powers_of_two", "bnjax.rules.vmapped"),
    "bnjax.rules.correction",
}
# what `import bnjax` never loads: what the extras cli, peers, notebooks and test bring
HEAVY = {
    *("matplotlib", "msgspec", "platformdirs", "rich", "sklearn", "tyro"),
    *("equinox", "flax", "haiku", "keras", "torch"),
    *("IPython", "ipykernel", "nbclient", "nbconvert", "hypothesis", "pytest"),
}


def imports(file):
    """All modules that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(file):
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "bnjax" and len(parts) > 1:
            yield parts[1]


def files(room):
    """The file of a room, or those of a room with rooms of its own."""
    file = PACKAGE / f"{room}.py"
    return [file] if file.exists() else sorted((PACKAGE / room).glob("*.py"))


def test_every_room_is_on_a_floor():
    found = {file.stem for file in PACKAGE.glob("*.py")}
    found |= {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert found == {*FLOORS, "app", "__main__"}


@pytest.mark.parametrize("room", FLOORS)
def test_imports_point_downwards(room):
    below = FLOORS[FLOORS.index(room) + 1 :]
    found = {other for file in files(room) for other in rooms(file)}
    found -= {other for below_it, other in DOORS if below_it == room}
    modules = {other for other in found if other in FLOORS or other == "app"}
    assert modules <= {*below, room}


@pytest.mark.parametrize("room", FLOORS)
def test_who_may_import_more_than_jax(room):
    heads = {name.split(".")[0] for file in files(room) for name in imports(file)}
    allowed = {"jax", "bnjax", *sys.stdlib_module_names}
    # training's NumPy holds data on the host, before they are spread over devices
    more = {
        "training": {"optax", "numpy"},
        "identities": {"numpy", "optax"},
        "own_rules": {"numpy"},
        "claims": {"numpy", "optax"},
    }
    more["geometry"] = {"numpy"}  # a recording is on the host
    more["report"] = {"numpy", "matplotlib"}
    more["folding"] = {"numpy"}  # float64 on the host, whatever JAX may hold
    more["layers"] = {"equinox", "flax", "haiku", "keras", "numpy"}
    more["audit"] = {"numpy"}  # it judges on the host in float64, whatever JAX is set to
    allowed |= more.get(room, set())
    assert heads <= allowed


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.name)
def test_public_jax_only(file):
    assert "jax._src" not in file.read_text()


@pytest.mark.parametrize(
    ("names", "rooms"), [("", {"bnjax"}), (".batch_norm, bnjax.normalize, bnjax.Moments", NORM)]
)
def test_importing_bnjax_loads_what_is_asked_for(names, rooms):
    code = f"import sys, bnjax; bnjax{names}; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    loaded = set(process.stdout.split())
    assert not (HEAVY | {"optax"}) & loaded
    assert {name for name in loaded if name.split(".")[0] == "bnjax"} == rooms
    assert ("jax" in loaded) == bool(names)


def test_importing_the_layers_loads_no_framework():
    code = "import sys, bnjax.layers.common, bnjax.layers.inference; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(process.stdout.split())


def test_all_public_names_exist_and_are_listed():
    assert all(hasattr(bnjax, name) for name in bnjax.__all__)
    assert set(bnjax.__all__) <= set(dir(bnjax))
    with pytest.raises(AttributeError, match="no attribute 'batchnorm'"):
        _ = bnjax.batchnorm


def generators(source):
    """The names of a module's own random generators."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func).endswith("default_rng"):
                yield from (target.id for target in node.targets)


def reads(table, names):
    """Whether a function, or one inside of it, reads one of the module's names."""
    here = any(symbol.is_global() and symbol.get_name() in names for symbol in table.get_symbols())
    return here or any(reads(child, names) for child in table.get_children())


def drawing(source):
    """The functions and classes of a module that draw from a generator of the module's."""
    names = set(generators(source))
    for child in symtable.symtable(source, "a test", "exec").get_children():
        # a comprehension at module level draws once, at import
        if child.get_name() not in ("listcomp", "setcomp", "dictcomp", "genexpr"):
            if reads(child, names):
                yield child.get_name()


@pytest.mark.parametrize("file", sorted(TESTS.glob("*.py")), ids=lambda file: file.name)
def test_no_test_draws_from_a_generator_that_others_draw_from(file):
    # run alone it would see other numbers: the fixture `rng` is a generator for each test
    assert not list(drawing(file.read_text()))


def test_a_shared_generator_is_found():
    source = """
rng = np.random.default_rng(0)
X = [rng.normal() for _ in range(3)]
def test_its_own(rng): rng.normal()
def test_shared(): rng.normal()
def inside(): return lambda: rng.normal()
class Held:
    def draw(self): return [rng.normal() for _ in X]
"""
    assert list(drawing(source)) == ["test_shared", "inside", "Held"]
