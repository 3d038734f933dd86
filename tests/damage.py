"""Damage to a run folder: to its files as bytes, as JSON, as arrays with the right digest."""

import copy
import json
import os
import shutil

import numpy as np

from bnjax.app.io import arrays as npz

DEEP = "@deep@"  # stands for lists in lists, deeper than any parser goes
_VALUES = (
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.0, 10**18, -(10**18), 10**400, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "x", "nan", "\ud800", "\x1b[2J", "../..", "5" * 5000),
    *([], {}, [[]], [None], {"a": 1}, [0] * 1000, [10**9], [0.5, "x"], DEEP),
)
_SPECIAL = {  # what a value of a certain name may be that fits its type and no memory or patience
    "hidden": ([10**9], [10**12, 10**12], [1] * 3000, [], [0], [-4]),
    "epochs": (10**18, 10**30, 0, 2),
    "batch_size": (10**12, 1, "full", 2),
    "diagnostics": (10**18, 2, 0),
    "keep": (10**18, 0),
    "data": ("/dev/zero", "pipe.npz", "/", "nothing.csv", "digits\0", "x" * 5000, "$\\foo$.csv"),
    "test_fraction": (1e-300, 0.999999),
    "max_size": (1e300, 1e-9, float("nan")),
    "devices": (10**6, 0, "all"),
    "seed": (2**32 - 1, 2**63),
    "epoch": (10**18, 0, -1, 2**31),
    "seconds": (1e308, -1.0),
    "neuron": (10**18, -7),
}


def choose(rng, options):
    return options[int(rng.integers(len(options)))]


def _places(value, found, depth=0):
    """Every container in a value."""
    if isinstance(value, dict | list):
        found.append(value)
        for child in value.values() if isinstance(value, dict) else value[:20]:
            _places(child, found, depth + 1)
    return found


def changed_json(rng, value):
    """A value of JSON with one thing wrong."""
    value = copy.deepcopy(value)
    place = choose(rng, _places(value, []) or [[value]])
    keys = [*place] if isinstance(place, dict) else [*range(len(place))]
    if not keys:
        return choose(rng, _VALUES)
    key, how = choose(rng, keys), int(rng.integers(8))
    match how:
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place["colour"] = choose(rng, _VALUES)
        case 1:
            place.extend(place[:1] * 1000)
        case 2 if isinstance(place, dict):
            place[f"{key} "] = place.pop(key)
        case 3:
            other = choose(rng, keys)
            place[key], place[other] = place[other], place[key]
        case 4 | 5 if known := [*_SPECIAL.keys() & place] if isinstance(place, dict) else []:
            key = choose(rng, sorted(known))
            place[key] = choose(rng, _SPECIAL[key])
        case _:
            place[key] = choose(rng, _VALUES)
    return value


def as_json(value):
    text = json.dumps(value).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)
    return text.encode()


def changed_arrays(rng, arrays):
    """Arrays with one thing wrong, of which a file will have the right digest."""
    arrays = {name: array for name, array in arrays.items() if name != "sha256"}
    name = choose(rng, sorted(arrays))
    array = arrays[name]
    if "about" in arrays and rng.random() < 0.5:
        about = json.loads(arrays["about"].tobytes())
        arrays["about"] = np.frombuffer(as_json(changed_json(rng, about)), np.uint8)
        return arrays
    match int(rng.integers(12)):
        case 0:
            del arrays[name]
        case 1:
            arrays[f"{name}x"] = array
        case 2:
            arrays[name] = array[None]
        case 3:
            arrays[name] = array.reshape(-1)[:-1]
        case 4 if array.dtype.names is None:
            kinds = (np.complex64, np.int8, "U3", "S4", bool, "M8[s]", np.float16, "O", ">f8")
            with np.errstate(all="ignore"):
                arrays[name] = np.zeros(array.shape, choose(rng, kinds))
        case 4:
            field = choose(rng, array.dtype.names)
            dtype = [
                (each, "<U4" if each == field else array.dtype[each])
                for each in array.dtype.names
                if rng.random() < 0.97 or each == field
            ]
            arrays[name] = np.zeros(array.shape, dtype)
        case 5:
            arrays[name] = np.zeros((0, *array.shape[1:]), array.dtype)
        case 6 if array.dtype.kind == "f":
            arrays[name] = np.full_like(array, choose(rng, (np.nan, np.inf, -1, 0, 1e300)))
        case 6 if array.dtype.names:
            array = arrays[name] = array.copy()
            field = choose(rng, array.dtype.names)
            array[field] = choose(rng, (-1, 0, 2**31 - 1, 7))
        case 7:
            arrays[name] = np.array(3.0)
        case 8:
            other = choose(rng, sorted(arrays))
            arrays[name], arrays[other] = arrays[other], arrays[name]
        case 9:
            arrays[name] = np.repeat(array, 50, axis=0) if array.ndim else array
        case 10:
            arrays[name] = np.zeros((3, 0), array.dtype)
        case _:
            layers = [each for each in arrays if each.startswith("layer")]
            for each in layers[len(layers) // 2 :]:
                del arrays[each]
    return arrays


def _rewrite_json(rng, file):
    if file.suffix == ".jsonl":
        lines = file.read_bytes().splitlines()
        at = int(rng.integers(len(lines)))
        lines[at] = as_json(changed_json(rng, json.loads(lines[at])))
        file.write_bytes(b"\n".join(lines) + b"\n")
    else:
        file.write_bytes(as_json(changed_json(rng, json.loads(file.read_bytes()))))


def _rewrite_arrays(rng, file):
    arrays = changed_arrays(rng, npz.load(file))
    with file.open("wb") as out:
        if rng.random() < 0.05:
            np.savez_compressed(out, **arrays, zeros=np.zeros(2**27, np.int8))
        elif any(array.dtype == object for array in arrays.values()):
            np.savez(out, **arrays)  # pickled
        else:
            npz.save(out, arrays)


def damage(rng, folder, outside):
    """Damage one file of a folder, and say how; `outside` is a file that is not the run's."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    named = {file.suffix: [each for each in files if each.suffix == file.suffix] for file in files}
    of_numbers = [*named[".json"] * 2, *named[".jsonl"] * 3, *named[".npz"]]
    file, how = choose(rng, files), int(rng.integers(20))
    content = bytearray(file.read_bytes())
    match how:
        case 0:
            file.write_bytes(content[: int(rng.integers(len(content)))])
        case 1:
            file.write_bytes(content + rng.bytes(30))
        case 2:
            for at in rng.integers(8 * len(content), size=int(rng.integers(1, 6))):
                content[at // 8] ^= 1 << (at % 8)
            file.write_bytes(content)
        case 3:
            file.write_bytes(rng.bytes(len(content)) if rng.random() < 0.5 else b"")
        case 4:
            file.unlink()
            kind = int(rng.integers(4))
            if kind == 0:
                file.mkdir()
                (file / "somebody's").write_text("own")
            elif kind == 1:
                os.mkfifo(file)
            elif kind == 2:
                file.symlink_to(choose(rng, (outside, file, outside.parent, "nothing")))
        case 5:
            other = choose(rng, [each for each in files if each != file])
            shutil.copy(file, folder / "x")
            shutil.copy(other, file)
            os.replace(folder / "x", other)
        case 6 if rng.random() < 0.3:
            file.chmod(0)
        case 6:
            os.truncate(file, 2**33)  # a hole: no disk is filled
        case 7:
            shutil.rmtree(checkpoints := folder / "checkpoints")
            kind = int(rng.integers(4))
            if kind == 0:
                checkpoints.symlink_to(outside.parent)
            elif kind == 1:
                checkpoints.write_text("x")
            elif kind == 2:
                for name in ("epoch_2.npz", "epoch_99999.npz", "epoch_²"):
                    (checkpoints / name).mkdir(parents=True)
        case _:
            file = choose(rng, of_numbers)
            (_rewrite_arrays if file.suffix == ".npz" else _rewrite_json)(rng, file)
    return f"{how} of {file.relative_to(folder)}"
