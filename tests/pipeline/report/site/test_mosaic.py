"""The mosaic: the label of each head at each step, when it formed, and steps that are left out."""

import numpy as np
import pytest

from pipeline.findings.heads import onsets
from pipeline.report.site import mosaic
from pipeline.report.site.heads import Head, main_scores
from pipeline.report.site.run_data import Run, opened
from pipeline.report.site.scores import scores_of
from tests.pipeline.report import fake
from tests.pipeline.report.site import pages, stores

STEPS = np.arange(0, 2000, 100)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Return a run whose L0H1 gets two labels: at 0.31 from step 500 on, another from 1,000 on."""
    scores = fake.head_scores(STEPS)
    planted = {"previous_token": np.where(STEPS < 500, 0.29, 0.31),
               "current_token": np.where(STEPS < 1000, 0.05, 0.6)}  # fmt: skip
    for name, values in planted.items():
        every = scores[name].values.copy()
        every[:, 0, 1] = values
        scores[name] = scores[name].copy(data=every)
    uri = stores.stored(f"{tmp_path_factory.mktemp('run')}/run.zarr", STEPS, head_scores=scores)
    return opened({"run": uri})[0]


def spec_of(run: Run) -> dict:
    """Return the specification of the mosaic, in which heads have their onsets of induction."""
    formed = {(one.layer, one.head): one for one in onsets(main_scores(run)[1], "induction")}
    heads = [
        Head(*place, {"induction": formed[place]} if place in formed else {}, pattern="induction")
        for place in np.ndindex(2, 4)
    ]
    return mosaic.mosaic_figure(run, heads, scores_of(run)).spec


def test_a_label_is_the_pattern_that_exceeds_its_null_most(run):
    spec = spec_of(run)
    labels = spec["labels"]
    assert labels["names"] == ["induction", "previous token", "duplicate token", "current token",
                               "first token"]  # fmt: skip
    assert labels["roles"][1] == "previous_token"
    codes = pages.numbers(labels["values"])[:, 1, 1]  # the last layer is at the top
    assert np.isnan(codes[:5]).all()
    assert codes[5:10].tolist() == [1] * 5
    assert codes[10:].tolist() == [3] * 10


def test_codes_agree_with_the_excess_of_every_head_at_every_step(run):
    spec = spec_of(run)
    scores = run.tree["head_scores"].to_dataset()
    codes = pages.numbers(spec["labels"]["values"])[:, ::-1]
    for (step, layer, head), code in np.ndenumerate(codes):
        at = {"step": step, "layer": layer, "head": head}
        excess = [
            float(scores[name.replace(" ", "_")].isel(at)) for name in spec["labels"]["names"]
        ]
        best = int(np.argmax(excess))  # nulls are 0 in these runs
        assert (code == best) if excess[best] >= 0.3 else np.isnan(code)
    assert set(codes[-1, 1, [1, 3]]) == {0} and codes[-1, 0, 2] == 1


def test_a_head_formed_at_its_onset(run):
    spec = spec_of(run)
    formed = pages.numbers(spec["onsets"]).reshape(2, 4)[::-1]
    expected = {(one.layer, one.head): one.step for one in onsets(main_scores(run)[1], "induction")}
    # Half of a rise to 0.95 is at step 900; 0.3 is reached between steps 800 and 900.
    assert expected[1, 1] == 900 == formed[1, 1]
    assert formed[1, 3] == expected[1, 3]
    assert np.isnan(formed[1, 0])


def test_steps_that_are_not_drawn_are_counted(run, monkeypatch):
    monkeypatch.setattr(mosaic, "MOST_FRAMES", 5)
    spec = spec_of(run)
    drawn = spec["frames"]["steps"]
    assert len(drawn) == 5 and drawn[0] == 0 and drawn[-1] == 1900
    assert spec["of"] == spec["frames"]["total"] == 20
    assert mosaic.said_about(spec).endswith("5 of 20 checkpoints are shown.")
    stored = run.tree["head_scores"]["induction"].sel(step=drawn).values
    scores = {one["name"]: one for one in spec["frames"]["scores"]}
    assert np.array_equal(pages.numbers(scores["induction"]["values"])[:, ::-1], stored)
    assert pages.numbers(spec["labels"]["values"]).shape == (5, 2, 4)


def test_without_labels_there_are_none(tmp_path):
    quiet = fake.head_scores(STEPS)
    for name in ("induction", "previous_token", "duplicate_token"):
        quiet[name] = quiet[name] * 0.1
    uri = stores.stored(str(tmp_path / "run.zarr"), STEPS, head_scores=quiet)
    spec = spec_of(opened({"run": uri})[0])
    assert "labels" not in spec and "onsets" not in spec and "of" not in spec
