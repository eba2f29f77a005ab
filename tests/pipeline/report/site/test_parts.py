"""Arrays in a page, thumbnails, and the words of titles."""

import numpy as np
import pytest
from markupsafe import Markup

from pipeline.report.site.arrays import coloured, exact, integers, script_json
from pipeline.report.site.run_data import opened
from pipeline.report.site.text import linked, title_of
from pipeline.report.site.thumbnails import extremes, thumbnail
from tests.pipeline.report import fake
from tests.pipeline.report.site import pages, stores


def test_exact_arrays_come_back_bit_for_bit():
    dice = np.random.default_rng(0)
    single = dice.standard_normal((3, 4)).astype("f4")
    single[0, 0] = np.nan
    assert pages.numbers(exact(single)).tobytes() == single.tobytes()
    double = dice.standard_normal(50)
    assert np.array_equal(pages.numbers(exact(double)), double)
    assert exact(np.array([1.0, np.inf, np.nan])) == [1.0, None, None]


@pytest.mark.parametrize(
    ("values", "spelling"),
    [
        ([0, 1, 2, 4, 8, 9, 10, 11, 12], {"from": 0, "by": [[1, 2], [2, 1], [4, 1], [1, 4]]}),
        ([7] * 5, {"from": 7, "by": [[0, 4]]}),
        ([3, 1, 4, 1], [3, 1, 4, 1]),
        ([5], {"from": 5, "by": []}),
        ([], []),
    ],
)
def test_whole_numbers_come_back_from_their_differences(values, spelling):
    made = integers(np.array(values, dtype=np.int64))
    assert made == spelling and pages.numbers(made).tolist() == values


def test_colours_are_off_by_at_most_half_of_a_254th():
    values = np.random.default_rng(1).uniform(-2, 3, 1000)
    values[3] = np.nan
    given = pages.numbers(coloured(values, -2, 3))
    assert np.isnan(given[3])
    assert np.nanmax(np.abs(given - values)) <= 0.5 / 254 * 5 + 1e-6


def test_json_cannot_end_its_element_or_hold_control_characters():
    text = script_json({"</script>": ["<!--", "\x1b[2J", float("nan")]})
    assert "<" not in text and "\x1b" not in text and text.endswith("null]}")


@pytest.mark.parametrize("seed", range(5))
def test_thumbnails_keep_every_spike(seed):
    dice = np.random.default_rng(seed)
    values = 0.1 * dice.standard_normal(600)
    spikes = dice.choice(600, 8, replace=False)
    values[spikes] += 5 * dice.choice([-1, 1], 8)
    kept = extremes(values)
    assert len(kept) <= 62
    assert {0, 599, int(values.argmax()), int(values.argmin())} <= set(kept.tolist())
    # By brute force: the extremes of each of 30 parts of 20 checkpoints.
    for part in values.reshape(30, 20):
        assert {part.min(), part.max()} <= set(values[kept].tolist())


def test_thumbnails_leave_out_what_is_not_finite():
    values = np.array([0.0, np.nan, 1.0, np.inf, 0.5])
    assert extremes(values).tolist() == [0, 2, 4]
    drawn = thumbnail(values, 0, 1, "induction", "<b>")
    assert "0,21.0 60,1.0 120,11.0" in drawn and "&lt;b&gt;" in drawn


def test_heads_in_sentences_become_links_and_the_rest_is_escaped():
    said = linked("L1H2 & <i>L0H0</i>, L9H9\x07", {"L1H2", "L0H0"})
    assert said == Markup(
        '<a href="head-L1H2.html">L1H2</a> &amp; &lt;i&gt;<a href="head-L0H0.html">L0H0</a>'
        "&lt;/i&gt;, L9H9\\x07"
    )


def test_titles_are_findings(tmp_path):
    def title(name, **groups):
        uri = stores.stored(str(tmp_path / f"{name}.zarr"), **groups)
        return title_of(opened({name: uri})[0])

    assert title("a", head_scores=fake.head_scores()).startswith("Induction heads form")
    flat = fake.head_scores().isel(step=slice(0, 6))
    assert title("b", head_scores=flat) == "No induction head formed by step 16"
    grokking = fake.modular_addition(fake.STEPS)
    assert title("c", modular_addition=grokking).startswith("The model generalises by step")


def test_slugs_are_names_of_folders_that_differ(tmp_path):
    names = ["../Evil run", "evil run", "données", "assets"]
    uris = {
        name: stores.stored(str(tmp_path / f"{i}.zarr"), weight_norm=fake.weight_norm())
        for i, name in enumerate(names)
    }
    slugs = [run.slug for run in opened(uris)]
    assert slugs == ["evil-run", "evil-run-2", "donn-es", "run-assets"]
