"""A run that was moved goes on in its store; another run is refused."""

import shutil
from pathlib import Path

import pytest

from pipeline import Analysis, analyze, open_run
from pipeline.errors import InputError


def analysis(folder: Path, store: Path) -> Analysis:
    return Analysis(checkpoints=str(folder), store=str(store), measures=["weight_norm"])  # type: ignore[arg-type]


def test_a_project_that_was_moved_goes_on_where_it_was(make_run, tmp_path: Path):
    project = make_run(steps=(0, 1, 2)).parent
    analyze(analysis(project / "run", project / "store.zarr"))
    moved = tmp_path / "laptop"
    moved.mkdir()
    for name in ("run", "store.zarr"):
        shutil.move(project / name, moved / name)
    make_run(steps=(3,), name="laptop/run")
    summary = analyze(analysis(moved / "run", moved / "store.zarr"))
    assert (summary.computed, summary.complete) == ([3], 3)
    run = open_run(moved / "store.zarr")
    assert run["weight_norm"]["step"].values.tolist() == [0, 1, 2, 3]
    assert run.attrs["identity"]["checkpoints"] == str(moved / "run")


@pytest.mark.parametrize("other", [0, 2, 4])
def test_another_run_is_refused_by_the_step_that_differs(make_run, tmp_path: Path, other: int):
    run, store = make_run(steps=(0, 1, 2, 3, 4)), tmp_path / "store.zarr"
    analyze(analysis(run, store))
    shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(tmp_path / f"copy/step-{other}")
    make_run(steps=(17,), name="another")
    shutil.move(tmp_path / "another/step-17", tmp_path / f"copy/step-{other}")
    with pytest.raises(InputError, match=rf"weights at step {other} are [0-9a-f]{{16}}, and those"):
        analyze(analysis(tmp_path / "copy", store))
    assert open_run(store).attrs["identity"]["checkpoints"] == str(run)


def test_weights_that_change_in_their_place_are_computed_again(make_run, tmp_path: Path):
    run, store = make_run(steps=(0, 1)), tmp_path / "store.zarr"
    analyze(analysis(run, store))
    make_run(steps=(9,), name="another")
    shutil.rmtree(run / "step-1")
    shutil.move(tmp_path / "another/step-9", run / "step-1")
    assert analyze(analysis(run, store)).computed == [1]
