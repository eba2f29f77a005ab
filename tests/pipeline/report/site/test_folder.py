"""The files that a site leaves in its folder, and those that it removes."""

import json

import pytest

from pipeline.report.site.folder import LIST, SiteFolder


def site_of(folder, *names: str) -> None:
    site = SiteFolder(folder)
    for name in names:
        site.write(name, name)
    site.finish()


def files_in(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_second_site_removes_what_only_the_first_had(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.html").write_text("mine")
    site_of(tmp_path, "index.html", "run/head-L0H0.html", "other/data/a.js")
    site_of(tmp_path, "index.html", "run/overview.html")
    mine = {"notes.txt", "run/mine.html"}
    assert files_in(tmp_path) == {"index.html", "run/overview.html", LIST} | mine
    assert not (tmp_path / "other").exists()


def test_a_site_that_was_not_finished_loses_nothing_of_the_earlier_one(tmp_path):
    site_of(tmp_path, "index.html", "run/overview.html")
    SiteFolder(tmp_path).write("index.html", "new")
    assert (tmp_path / "index.html").read_text() == "new"
    assert (tmp_path / "run" / "overview.html").read_text() == "run/overview.html"


def test_what_a_killed_site_has_left_goes_with_the_next(tmp_path):
    site_of(tmp_path, "index.html", "old.html")
    killed = SiteFolder(tmp_path)
    for i in range(100):
        killed.write(f"run/{i}.html", "")
    assert (tmp_path / "old.html").exists()
    site_of(tmp_path, "index.html")
    assert files_in(tmp_path) == {"index.html", LIST}


@pytest.mark.parametrize(
    "listed", ['["a.txt"]', "{", '{"files": [1, null]}', '{"files": 3}', '{"other": 1}', ""]
)
def test_a_list_that_is_not_ours_removes_nothing(tmp_path, listed):
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / LIST).write_text(listed)
    site_of(tmp_path, "index.html")
    assert files_in(tmp_path) == {"a.txt", "index.html", LIST}


def test_nothing_outside_the_folder_is_removed(tmp_path):
    outside, folder = tmp_path / "outside.txt", tmp_path / "site"
    outside.write_text("mine")
    folder.mkdir()
    names = ["../outside.txt", str(outside), "link/outside.txt", ".", "a\0b"]
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    (folder / LIST).write_text(json.dumps({"files": names}))
    site_of(folder, "index.html")
    assert outside.read_text() == "mine"


def test_the_assets_are_those_of_the_package(tmp_path):
    site = SiteFolder(tmp_path)
    site.copy_assets()
    site.finish()
    names = {"list.js", "plot.js", "site.css", "site.js", "LICENSES.txt"}
    assert files_in(tmp_path) == {f"assets/{name}" for name in names} | {LIST}
