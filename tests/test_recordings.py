"""`geometry.Recorder`, `Recording` and `faults`: what a training looked like, and what is wrong."""

import dataclasses
import io
import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_jit
from jax import lax

from bnjax import batch_norm, geometry
from bnjax.geometry import Recorder, Recording

RELU, SIGMOID, PLAIN = "params['relu']['W']", "params['sigmoid']['W']", "params['plain']"


def mlp_loss(params, x, targets):
    """Two normalized layers, one without normalization, and the last."""
    h = x
    for name in ("relu", "sigmoid"):
        p = params[name]
        h = getattr(jax.nn, name)(batch_norm(h @ p["W"], p["gamma"], p["beta"])[0])
    h = jnp.tanh((h - params["mean"]) @ params["plain"])
    return ((h @ params["head"] - targets) ** 2).mean()


@pytest.fixture
def mlp():
    """Parameters and a batch that nothing is wrong with."""
    rng = np.random.default_rng(0)

    def layer(n_in, n_out):
        return {
            "W": rng.normal(size=(n_in, n_out)),
            "gamma": np.ones(n_out),
            "beta": np.zeros(n_out),
        }

    params = {"relu": layer(6, 8), "sigmoid": layer(8, 8), "plain": rng.normal(size=(8, 8))}
    params |= {"mean": np.array(0.5), "head": rng.normal(size=(8, 2)) / 8}
    return params, rng.normal(size=(64, 6)), rng.normal(size=(64, 2))


def faults(params, x, targets, loss=mlp_loss):
    """The faults found in one look: (layer, name) to figure."""
    with Recorder(loss, every=1) as recorder:
        recorder.look(0, params, x, targets)
    found = geometry.faults(recorder.recording)
    assert all(one.layer in str(one) and one.fault.advice in str(one) for one in found)
    return {(one.layer, one.fault.name): round(one.figure, 3) for one in found}


def dead(params, x):
    params["relu"]["beta"][2] = -50
    return {(RELU, "dead neurons"): 1 / 8, (SIGMOID, "constant inputs"): 1 / 8}


def constant_inputs(params, x):
    x[:, 1] = 3
    return {(RELU, "constant inputs"): 1 / 6}


def copied_inputs(params, x):
    x[:, 1] = 2 - 3 * x[:, 0]
    return {(RELU, "copies of inputs"): 2 / 6}


def synced_inputs(params, x):
    x[:, 1] = -x[:, 0]
    params["relu"]["W"][:, 4] = [1, -1, 0, 0, 0, 0]  # sees nothing else
    return {(RELU, "copies of inputs"): 2 / 6, (RELU, "synced inputs"): 1 / 8}


def copied_neurons(params, x):
    params["relu"]["W"][:, 3] = 2 * params["relu"]["W"][:, 5]
    return {(RELU, "copies of neurons"): 2 / 8, (SIGMOID, "copies of inputs"): 2 / 8}


def constant_neuron(params, x):
    params["sigmoid"]["W"][:, 0] = 0
    return {(SIGMOID, "constant neurons"): 1 / 8, (PLAIN, "constant inputs"): 1 / 8}


def zero_gamma(params, x):
    params["sigmoid"]["gamma"][[1, 2]] = 0
    return {(SIGMOID, "γ is zero"): 2 / 8, (PLAIN, "constant inputs"): 2 / 8}


def swallowing_eps(params, x):
    params["sigmoid"]["W"][:, 7] *= 1e-5
    return {(SIGMOID, "ε exceeds the variance"): 1 / 8}


def saturated(params, x):
    params["sigmoid"]["gamma"][:] = 100
    y = params["sigmoid"]["gamma"][0] * np.random.default_rng(1).normal(size=10**5)
    return {(SIGMOID, "saturated activation"): np.mean(np.abs(y) > 4.585)}


def dominating_means(params, x):
    params["plain"] -= params["plain"].mean(0, keepdims=True)  # a shift of h changes no output
    params["mean"][...] = -20
    return {(PLAIN, "the means dominate"): ...}


FAULTS = (dead, constant_inputs, copied_inputs, synced_inputs, copied_neurons, constant_neuron)
FAULTS += (zero_gamma, swallowing_eps, saturated, dominating_means)


def test_nothing_is_wrong_with_a_healthy_model(mlp):
    assert faults(*mlp) == {}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_constructed_fault_of_an_mlp_is_found_by_name(mlp, fault):
    params, x, targets = mlp
    wanted = fault(params, x)
    found = faults(params, x, targets)
    assert found.keys() == wanted.keys()
    for key, figure in wanted.items():
        assert figure is ... or abs(found[key] - figure) < 0.02, key


def test_relu_that_is_nearly_never_active_is_told_from_a_saturated_sigmoid(mlp):
    params, x, targets = mlp
    params["relu"]["beta"][:] = -2.2
    found = faults(params, x, targets)
    assert found[RELU, "inactive activation"] > 0.95
    assert not any(name == "saturated activation" for _, name in found)


def test_few_samples_are_not_judged_and_a_figure_is_the_median_of_the_last_looks(mlp):
    params, *batch = mlp
    with Recorder(mlp_loss, every=1) as recorder:
        for step, beta in enumerate((-50, -50, 0, -50, -50, 0, 0)):
            params["relu"]["beta"][2] = beta
            recorder.look(step, params, *batch)
    recording = recorder.recording
    assert geometry.faults(recording) == ()
    recording = replace(recording, steps=recording.steps[:-1], looks=recording.looks[:-1])
    assert [one.layer for one in geometry.faults(recording)] == [RELU, SIGMOID]
    assert geometry.faults(replace(recording, samples=(15, 16, 16, 16)))[0].layer == SIGMOID


def same(a, b):
    """Whether two recordings are the same."""
    fields = all(getattr(a, f.name) == getattr(b, f.name) for f in dataclasses.fields(a)[:5])
    looks = all(np.array_equal(a.looks[f], b.looks[f], equal_nan=True) for f in a.looks.dtype.names)
    return fields and looks and np.array_equal(a.steps, b.steps)


@pytest.fixture
def record(mlp, tmp_path):
    """Record steps 0 to 9, each with its own parameters, to a file."""

    def record(name, steps=range(10), **options):
        params, *batch = mlp
        with Recorder(mlp_loss, tmp_path / name, every=3, **options) as recorder:
            for step in steps:
                params["sigmoid"]["beta"][:] = step / 10
                recorder.look(step, params, *batch)
        return tmp_path / name, recorder.recording

    return record


def test_a_recording_is_read_as_it_was_recorded(record):
    path, recording = record("run.jsonl")
    assert same(Recording.read(path), recording)
    assert list(recording.steps) == [0, 3, 6, 9] and recording.samples == (64,) * 4
    assert recording.names == (RELU, SIGMOID, PLAIN, "params['head']")
    assert recording.norm == (True, True, False, False) and recording.skipped == ()
    looks = recording.looks
    assert looks["cos3"].shape == (4, 4, 40) and looks["dead"].shape == (4, 4)
    np.testing.assert_allclose(looks["cos2"].sum(-1), 1, rtol=1e-4)
    assert np.all(np.isnan(looks["gamma"]) == [False, False, True, True])
    assert np.all(looks["means"][:, :2] == 0) and np.all(looks["means"][:, 2:] > 0)


def test_a_recording_goes_on_as_if_nothing_had_happened(record):
    path, _ = record("run.jsonl")
    whole = path.read_bytes()
    path.unlink()
    record("run.jsonl", range(4))
    record("run.jsonl", range(4, 10))
    assert path.read_bytes() == whole
    record("run.jsonl", range(5, 10), start=5)  # the look at step 6 is taken again
    assert path.read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    for kept, begun in ((0, 0), (0, 1), (0, 30), (1, 0), (1, 5), (2, len(lines[2]) - 1)):
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:begun])  # torn
        if kept:
            assert len(Recording.read(path).steps) == kept - 1
        _, recording = record("run.jsonl", range(max(0, 3 * (kept - 1)), 10))
        assert path.read_bytes() == whole and same(recording, Recording.read(path))


def damaged(lines):
    """What a file may hold that is no whole recording, and what is said of it."""
    first, look, *_ = lines
    other = json.loads(look)
    yield [b"step,loss\n", look], "is not a recording of bnjax: line 1: it is not JSON"
    yield [], "is not a recording of bnjax: line 1"
    yield [b"3\n"], "line 1: it is not a JSON object"
    yield [first.replace(b"1,", b"9,", 1)], 'line 1: "bnjax recording" is 9, not 1'
    yield [first.replace(b'"samples": [64, ', b'"samples": [')], "line 1: .*one entry per layer"
    yield [first.replace(b'"norm": [true', b'"norm": [2')], 'line 1: "norm" is .*not a list of bool'
    yield [first, look[:-9] + b"\n", look], "is damaged: line 2: it is not JSON"
    yield [first, look, look], "is damaged: line 3: step 0 follows step 0"
    yield [first, json.dumps(other | {"dead": [0, 1]}).encode() + b"\n"], 'line 2: "dead" has shape'
    yield [first, json.dumps(other | {"W": "x"}).encode() + b"\n"], 'line 2: "W" is not an array'
    yield [first, json.dumps(other | {"step": 0.5}).encode() + b"\n"], 'line 2: "step" is 0.5'
    del other["W"]
    yield [first, json.dumps(other).encode() + b"\n"], 'line 2: "W" is missing'


def test_a_damaged_file_is_refused_and_left_as_it_is(record):
    path, _ = record("run.jsonl", range(4))
    for lines, message in damaged(path.read_bytes().splitlines(keepends=True)):
        path.write_bytes(b"".join(lines))
        with pytest.raises(ValueError, match=message):
            Recording.read(path)
        if lines:
            with pytest.raises(ValueError, match=message):
                Recorder(mlp_loss, path)
        assert path.read_bytes() == b"".join(lines)
    with pytest.raises(FileNotFoundError):
        Recording.read(path.with_name("none"))


def test_what_cannot_be_recorded_is_refused(record, mlp):
    path, recording = record("run.jsonl", range(4))
    params, *batch = mlp
    whole = path.read_bytes()
    with Recorder(mlp_loss, path) as recorder:
        assert same(recorder.recording, recording)
        with pytest.raises(ValueError, match="must be after the last look, 3; got 0"):
            recorder.look(0, params, *batch)
    with pytest.raises(ValueError, match="is closed"):
        recorder.look(100, params, *batch)
    path.write_bytes(whole.replace(b"'plain'", b"'other'"))
    with Recorder(mlp_loss, path, start=0) as recorder:
        with pytest.raises(ValueError, match="must be those of .*run.jsonl, whose names are"):
            recorder.look(0, params, *batch)
    assert path.read_bytes() == whole.replace(b"'plain'", b"'other'")
    with pytest.raises(ValueError, match="there was no look yet"):
        _ = Recorder(mlp_loss).recording
    for options, error in ({"every": 0}, ValueError), ({"start": 1.5}, TypeError):
        with pytest.raises(error, match="^geometry.Recorder: `(every|start)` must be"):
            Recorder(mlp_loss, **options)


def test_a_full_disk_leaves_no_part_of_a_look(record, mlp):
    path, _ = record("run.jsonl", range(4))
    whole = path.read_bytes()
    params, *batch = mlp

    class Full(io.FileIO):
        def write(self, line):
            return super().write(line[:100])

    with Recorder(mlp_loss, path, every=1) as recorder:
        recorder.look(4, params, *batch)
        after = path.read_bytes()
        recorder._file.close()
        recorder._file = Full(path, "a")
        with pytest.raises(OSError, match="No space left"):
            recorder.look(5, params, *batch)
        assert path.read_bytes() == after and list(recorder.recording.steps) == [0, 3, 4]
    assert after.startswith(whole)


@pytest.mark.slow
def test_looks_inside_of_a_scan_are_those_from_outside(mlp, tmp_path):
    params, *batch = jax.tree.map(jnp.asarray, mlp)

    def train(recorder, step, params):
        recorder.look(step, params, *batch)
        grads = jax.grad(mlp_loss)(params, *batch)
        return jax.tree.map(lambda a, b: a - 0.1 * b, params, grads)

    with Recorder(mlp_loss, tmp_path / "in.jsonl", every=2) as inside:
        body = partial(train, inside)
        run = quick_jit(lambda p: lax.scan(lambda p, k: (body(k, p), None), p, jnp.arange(7))[0])
        run(params)
    with Recorder(mlp_loss, every=2) as outside:
        for step in range(7):
            params = train(outside, step, params)
    a, b = Recording.read(tmp_path / "in.jsonl"), outside.recording
    assert list(a.steps) == list(b.steps) == [0, 2, 4, 6]
    for name in a.looks.dtype.names:
        np.testing.assert_allclose(a.looks[name], b.looks[name], rtol=1e-4, atol=1e-9)
