"""What a report says of recordings that are made up, and the page that it is on."""

import base64
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from pages import Page

from bnjax import geometry, identities
from bnjax.geometry import Recording, empty_look
from bnjax.report import document, words
from bnjax.report.finding import outstanding


def recording(norm=(True, True, False), steps=(0, 100, 200), names=None, **planted):
    """Looks at healthy layers, with something planted: field -> (place, value)."""
    layers = len(norm)
    looks = np.array([empty_look(layers)] * len(steps))
    for name in ("error", "propagated", "W", "turning", "W_bar", "covariance", "gamma_bar"):
        looks[name] = 1
    looks["means"] = np.where(norm, 0, 0.5)
    looks["removed"], looks["eps_share"], looks["gamma"] = 0.3, 1e-6, 1
    for name in ("dead", "handed_to_gamma", "stopped", "synced", "largest_group", "zero_gamma"):
        looks[name] = 0
    looks["saturated"], looks["bounded"] = 0.1, 1
    # |cos| of 0.125, in the middle of a bin: what chance makes it of 40 samples
    for name in ("cos1", "cos2", "cos3"):
        looks[name][..., [17, 22]] = 0.5
    for name, (at, value) in planted.items():
        looks[name][at] = value
    names = names or [f"params['block{k}']['conv']['kernel']" for k in range(layers)]
    static = (tuple(names), tuple(norm), ("",) * layers, (), (40,) * layers)
    return Recording(*static, np.array(steps), looks)


PLAIN = (False, False, False)


def said(*recordings, **more):
    """The findings, by name."""
    return {one.name: one for one in geometry.report(*recordings, **more).findings}


def test_of_a_healthy_network_nothing_stands_out():
    report = geometry.report(recording())
    found = {one.name: one for one in report.findings}
    assert "wrong" not in found and report.short == ()
    assert found["handed"].says == "No neuron handed its learning to γ at any look."
    assert found["synced"].says == "No weight had stopped so at any look."
    assert all(set(one.tags) <= {each.tag for each in identities.all()} for one in report.findings)
    assert "nan" not in str(report) and "  " not in str(report)


def test_what_is_planted_is_said_with_its_place_and_figure():
    found = said(
        recording(
            handed_to_gamma=((1, 1), 0.25),
            stopped=((2, 0), 0.125),
            eps_share=((2, 1), 0.2),
            turning=((2, 0), 0.25),
            gamma=((2, 1), 0.01),
            error=((1, 0), 0.002),
        )
    )
    assert found["handed"].says == (
        "25 % of the neurons of layer 1 (block1) handed their learning to γ at step 100, and "
        "0 % at the last look."
    )
    assert "12 % of the weights of layer 0 (block0)" in found["synced"].says
    assert "in layer 1 (block1) ε was 20 % of" in f"i{found['epsilon'].says[1:]}"
    assert "0.25 times as far as at the first" in found["rate"].says
    assert "γ is 0.0100 in layer 1" in found["gamma"].says
    assert "layer 0 (block0) was 1/500 of the length" in found["errors"].says
    assert "1.0 times at the last look" in found["errors"].says


def test_faults_come_first_and_say_what_to_do():
    everywhere = slice(None)
    report = geometry.report(
        recording(zero_gamma=((everywhere, [0, 1]), [0.9, 0.6]), dead=((everywhere, 1), 0.5))
    )
    wrong = report.short[0]
    assert wrong.name == "wrong" and [*wrong.items] == ["Dead neurons", "γ is zero"]
    assert "Layer 0 (block0) and layer 1 (block1): at worst, in layer 0" in wrong.says
    assert "90 % of the neurons" in wrong.says and "weight decay" in " ".join(wrong.advice)
    assert "50 % of the neurons" in wrong.says


def test_two_networks_are_held_against_each_other():
    plain = recording(PLAIN, W_bar=((1, 0), 0.01), means=((slice(None), 2), 10.0))
    found = said(plain, recording(), titles=("the baseline", "the other"))
    assert found["amplitudes"].says.startswith(
        "At step 100, in layer 0 (block0) the gradients were 100 times as large in the other as in "
        "the baseline; at the last look they are as large in both."
    )
    assert found["amplitudes"].figures["compared"]["ratio"] == 100
    assert found["averages"].figures["the baseline"]["value"] == 10
    assert "the means dominate" in " ".join(found["wrong"].items).lower()
    assert [one.name for one in outstanding([*found.values()])] == [
        *("wrong", "amplitudes", "averages")
    ]
    alike = said(recording(), recording(), titles=("a", "b"))["amplitudes"]
    assert "differed by less than a factor of 2" in alike.says and alike.strength == 0


def test_nothing_is_said_of_what_has_no_figure():
    everywhere = slice(None), slice(None)
    none = dict.fromkeys(("W_bar", "error", "turning", "gamma", "saturated"), (everywhere, 0))
    text = str(geometry.report(recording(**none), recording(), titles=("dead", "alive")))
    assert "nan" not in text and "inf" not in text
    unknown = {name: (everywhere, np.nan) for name in recording().looks.dtype.names[3:]}
    assert {*said(recording(**unknown))} == {"angles"}


def test_what_was_not_measured_is_listed():
    seen = replace(
        recording(), unfollowed=("", "u is permuted", ""), skipped=(("params['x']", "in a cond"),)
    )
    found = said(seen)["unmeasured"]
    assert found.items["params['x']"].startswith("in a cond")
    assert found.items["layer 1 (block1)"].startswith("u is permuted")


HOSTILE = ("<script>alert(1)</script>", "$\\frac{", "\ud800", "a" * 5000, "x & 'y'", "\x1b[2J", "")


@pytest.fixture(scope="module")
def deep():
    """A report on fifty layers with the worst of names, and two of one layer."""
    pytest.importorskip("matplotlib")
    names = [*HOSTILE, *(f"params['{k}']" for k in range(43))]
    seen = recording((True,) * 49 + (False,), names=names, zero_gamma=((slice(None), 0), 1.0))
    return geometry.report(seen, titles=["<b>$\ud800"])


def test_a_page_of_fifty_hostile_layers_is_whole_and_loads_nothing(deep, tmp_path):
    deep.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = Page(text)
    assert found.open == [] and len(found.ids) == len(set(found.ids))
    assert all(address.startswith("data:") for address in found.loads)
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert "<script" not in text and "<b>" not in text and "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert text.index("What to do") > text.index("The words of this page")
    for address in found.loads:
        drawn = base64.b64decode(address.split(",", 1)[1]).decode()
        assert not drawn or drawn.rstrip().endswith("</svg>")
        assert not re.search(r'(href|src)="http', drawn)


def test_a_notebook_shows_the_page_in_a_frame_without_scripts(monkeypatch):
    monkeypatch.setattr(document.page, "write", lambda report: '<p title="&">')
    cell = geometry.report(recording())._repr_html_()
    assert 'srcdoc="&lt;p title=&quot;&amp;&quot;&gt;"' in cell and " sandbox " in cell


def test_words_need_no_matplotlib_and_pictures_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = geometry.report(recording())
    assert "How far ε matters" in str(report)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'bnjax\[cli\]'"):
        report.html()


def test_a_page_that_cannot_be_written_leaves_the_old_one(monkeypatch, tmp_path):
    (tmp_path / "page").mkdir()
    monkeypatch.setattr(document.page, "write", lambda report: "new")
    with pytest.raises(OSError):
        geometry.report(recording()).write(tmp_path / "page")
    assert [each.name for each in tmp_path.iterdir()] == ["page"]


def test_bad_arguments_are_one_clear_error():
    with pytest.raises(TypeError, match="must be a geometry.Recording; got int"):
        geometry.report(3)
    with pytest.raises(ValueError, match="must hold a look"):
        geometry.report()
    with pytest.raises(ValueError, match="one entry per recording; got 2 for 1"):
        geometry.report(recording(), titles=("a", "b"))


@pytest.mark.parametrize("samples", [2, 3, 40])
def test_chance_is_the_mean_cosine_of_random_vectors(samples, rng):
    a, b = rng.normal(size=(2, 20_000, samples))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    # six standard errors of the mean
    assert (
        abs(np.abs(cosines).mean() - words.chance(samples)) < 6 / np.sqrt(20_000 * samples) + 1e-9
    )


def test_numbers_are_written_as_one_says_them():
    assert words.number(0.0123) == "0.0123" and words.number(-4.567e-6) == "−4.57·10⁻⁶"
    assert words.number(12345.6) == "12,346" and words.number(0.0) == "0"
    assert words.times(1.44) == "1.4 times" and words.times(1234.5) == "1,234 times"
    assert words.number(0.99996) == "1.00" and words.number(float("nan")) == "nan"
    assert words.share(0.0004) == "under 0.1 %" and words.share(0.25) == "25 %"
    assert words.listed(["a", "b", "c"]) == "a, b and c" and words.listed(["a"]) == "a"
