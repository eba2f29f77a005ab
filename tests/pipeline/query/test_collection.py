"""Several runs in one tree: aligned, comparable, and with missing entries marked."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.query import Asked, ask, select, to_frame
from pipeline.query.collection import open_runs
from pipeline.store.store_names import store_names
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, scores, values_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    small = synthetic.run(folder / "small.zarr", [scores(), losses()], [0, 2, 4])
    large = synthetic.run(folder / "large.zarr", [scores(layers=3)], [2, 4, 8], edition=1)
    return {"small": small.uri, "large": large.uri}


def induction(template, step: int, edition: int = 0) -> np.ndarray:
    return values_of(template, step, edition)["induction"]


def test_each_run_has_its_own_numbers(runs):
    tree = open_runs(runs, mixed=True)
    scored = tree["scores"]["induction"]
    assert scored.dims[0] == "run" and set(scored.dims) == {"run", "step", "layer", "head"}
    assert scored["step"].values.tolist() == [0, 2, 4, 8]
    for step in (0, 2, 4):
        shown = scored.sel(run="small", step=step, layer=[0, 1])
        assert np.array_equal(shown.values, induction(scores(), step), equal_nan=True)
    for step in (2, 4, 8):
        shown = scored.sel(run="large", step=step)
        expected = induction(scores(layers=3), step, edition=1)
        assert np.array_equal(shown.values, expected, equal_nan=True)


def test_what_a_run_does_not_have_is_absent_and_no_zero(runs):
    tree = open_runs(runs, mixed=True)
    present = tree["scores"]["present"]
    assert present.sel(run="small").values.tolist() == [True, True, True, False]
    assert present.sel(run="large").values.tolist() == [False, True, True, True]
    assert np.isnan(tree["scores"]["count"].sel(run="small", step=8))
    assert np.isnan(tree["scores"]["induction"].sel(run="small", layer=2)).all()


def test_a_group_is_of_the_runs_that_have_it(runs):
    tree = open_runs(runs, mixed=True)
    assert tree["losses"]["run"].values.tolist() == ["small"]


def test_other_parameters_are_refused_unless_asked_for(runs):
    with pytest.raises(InputError, match="'scores' was not measured alike: its parameters"):
        open_runs(runs)


def test_runs_are_aligned_on_tokens(runs):
    tree = open_runs(runs, align="tokens_seen", mixed=True)
    counts = tree["scores"]["count"]
    assert counts.dims == ("run", "tokens_seen")
    assert counts["tokens_seen"].values.tolist() == [0, 2000, 4000, 8000]
    assert counts.sel(run="small", tokens_seen=4000) == values_of(scores(), 4)["count"]
    assert tree["scores"]["step"].sel(run="large", tokens_seen=8000) == 8


def test_runs_are_aligned_on_the_moment_of_change(runs):
    tree = open_runs(runs, origin={"small": 2, "large": 4}, mixed=True)
    counts = tree["scores"]["count"]
    assert counts["since_origin"].values.tolist() == [-2, 0, 2, 4]
    assert counts.sel(run="small", since_origin=0) == values_of(scores(), 2)["count"]
    wide = scores(layers=3)
    assert counts.sel(run="large", since_origin=0) == values_of(wide, 4, edition=1)["count"]
    assert tree["scores"]["step"].sel(run="large", since_origin=4) == 8


def test_the_moment_of_change_is_found_in_each_run(runs):
    highest = {
        "small": {step: np.nanmax(induction(scores(), step)) for step in (0, 2, 4)},
        "large": {step: np.nanmax(induction(scores(layers=3), step, 1)) for step in (2, 4, 8)},
    }
    limit = min(found[max(found)] for found in highest.values()) - 1e-3  # past it at the last step
    tree = open_runs(runs, origin=f"scores/induction > {limit}", mixed=True)
    for run, found in highest.items():
        below = [step for step, value in found.items() if value <= limit]
        moment = min(step for step in found if step > max(below, default=-1))
        assert tree["scores"]["step"].sel(run=run, since_origin=0) == moment


def test_nothing_is_read_before_it_is_needed(runs, monkeypatch):
    monkeypatch.setattr("pipeline.store.lazy.StoredArray.read", _only_labels)
    assert open_runs(runs, mixed=True)["scores"]["induction"].shape == (2, 4, 3, 3)


def _only_labels(stored, key):
    assert len(stored.shape) == 1, "only what labels a step is read"
    return np.zeros([len(range(*k.indices(n))) for k, n in zip(key, stored.shape, strict=True)])


def test_collections_are_asked_like_runs(runs):
    tree = open_runs(runs, mixed=True)
    frame = to_frame(select(tree, "scores/induction", layer=1, head=2, step=4))
    assert list(frame.columns)[:2] == ["run", "step"]
    assert frame["run"].tolist() == ["small", "large"]
    (found,) = ask(tree, "scores/count", Asked(sort="count", descending=True, limit=1))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"align": "tokens"}, "cannot align runs on 'tokens'; did you mean 'tokens_seen'"),
        ({"origin": {"small": 1}}, "no origin is given for the run 'large'"),
        ({"origin": "scores/induction"}, "expected GROUP/VARIABLE > NUMBER"),
        ({"origin": "scores/induction > much"}, "expected GROUP/VARIABLE > NUMBER"),
        ({"origin": "scores/inductoin > 1"}, "did you mean 'induction'"),
        ({"origin": "scores/induction > 1000"}, "'small': .* at none of its steps"),
    ],
)
def test_what_cannot_be_aligned_is_one_sentence(runs, options, sentence):
    with pytest.raises(InputError, match=sentence):
        open_runs(runs, **options)


def test_unknown_tokens_cannot_be_aligned_on(tmp_path: Path):
    store = synthetic.run(tmp_path / "odd.zarr", [scores()], [1, 2])
    with pytest.raises(InputError, match="run 'odd': the tokens seen are not known"):
        open_runs([store.uri], align="tokens_seen")


def test_runs_of_one_name_get_names_that_tell_them_apart(tmp_path: Path):
    for folder in ("s1", "s2"):
        synthetic.run(tmp_path / folder / "a.zarr", [scores()], [0, 1])
    stores = [str(tmp_path / folder / "a.zarr") for folder in ("s1", "s2")]
    assert open_runs(stores)["scores"]["run"].values.tolist() == ["s1/a", "s2/a"]
    assert store_names([*stores, "s3://b/c.zarr"]) == {
        "s1/a": stores[0], "s2/a": stores[1], "b/c": "s3://b/c.zarr"
    }  # fmt: skip
    assert store_names(["x/a.zarr", "y/b.zarr/"]) == {"a": "x/a.zarr", "b": "y/b.zarr/"}
    with pytest.raises(InputError, match=r"a\.zarr is given twice"):
        open_runs([stores[0], stores[0]])
