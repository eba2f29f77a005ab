from pathlib import Path

import numpy as np
import pytest

from pipeline.writing import whole_file, whole_folder


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with whole_file(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old" and draft.parent == tmp_path
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), whole_file(path) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_keeps_the_suffix_that_a_library_goes_by(tmp_path: Path) -> None:
    with whole_file(tmp_path / "corpus.npy") as draft:
        np.save(draft, np.arange(3))
    assert np.load(tmp_path / "corpus.npy").tolist() == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_in_its_draft_is_overwritten(tmp_path: Path) -> None:
    left = tmp_path / ".step-3"
    left.mkdir()
    (left / "half.bin").write_bytes(b"?")
    with whole_folder(tmp_path / "step-3", left) as draft:
        draft.mkdir()
        (draft / "whole.bin").write_bytes(b"!")
    assert [path.name for path in tmp_path.rglob("*")] == ["step-3", "whole.bin"]


def test_of_two_who_make_a_folder_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with whole_folder(path) as second:
        second.mkdir()
        (second / "by").write_text("second")
        with whole_folder(path) as first:
            first.mkdir()
            (first / "by").write_text("first")
    assert (path / "by").read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_nobody_could_make_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "kept"):
        pass  # nothing was made
    assert not list(tmp_path.iterdir())
