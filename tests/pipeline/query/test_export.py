"""An export opens with nothing of ours, and holds what the store shows."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline import InputError, extras, open_run
from pipeline.query import export as module
from pipeline.query.export import export
from pipeline.store import Store
from pipeline.store.trajectories import publish
from tests.flows.test_cli import answer, ontogeny, refused
from tests.pipeline.checkpoints.servers import Proxy
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, scores

TEMPLATES = [scores(), losses()]
OURS = ("ontogeny", "pipeline", "flows", "infra", "__editable__", "aaa_tree", "base.pth")

# Reads a target in a process in which none of our packages can be imported.
ALONE = """
import sys
sys.path.append(sys.argv[1])
import json
try:
    import pipeline
    raise SystemExit("our package is here")
except ModuleNotFoundError:
    pass
import xarray as xr
assert "ontogeny" not in xr.backends.list_engines()
tree = xr.open_datatree(sys.argv[2])
group = tree["losses"]
print(json.dumps({
    "groups": sorted(tree.children),
    "masked": tree.attrs["masked"],
    "loss": group["loss"].sel(step=2).fillna(-1).values.tolist(),
    "attributes": dict(group["loss"].attrs),
    "uri": [str(one) for one in group["uri"].values],
}))
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Trajectories of four steps, one more row of each group, and a masked step."""
    made = synthetic.run(tmp_path / "run.zarr", TEMPLATES, range(4))
    publish(made)
    synthetic.run(made.uri, TEMPLATES, range(5))
    made.set_verdict({"faults": 1}, {3: "a copy of step 2"})
    return made


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all installed packages but ours."""
    folder = tmp_path_factory.mktemp("site")
    for place in (Path(path) for path in sys.path if path.endswith("site-packages")):
        for path in place.iterdir():
            if not path.name.startswith(OURS) and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


def assert_same(opened: xr.DataTree, store: Store) -> None:
    wanted = open_run(store)
    assert opened.children.keys() == wanted.children.keys()
    for name in wanted.children:
        ours, theirs = (tree[name].to_dataset().load() for tree in (wanted, opened))
        xr.testing.assert_equal(theirs, ours)
        for variable in ours.variables:
            assert theirs[variable].attrs == ours[variable].attrs
            assert theirs[variable].dims == ours[variable].dims


@pytest.mark.parametrize("name", ["plain.zarr", "plain.nc"])
def test_it_opens_where_nothing_of_ours_is_installed(
    store: Store, others: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / name
    export(store.uri, target, "netcdf" if name.endswith("nc") else "zarr")
    command = [sys.executable, "-I", "-S", "-W", "error::RuntimeWarning", "-c", ALONE]
    done = subprocess.run([*command, others, target], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    loss = open_run(store)["losses"]["loss"]
    assert said["groups"] == ["losses", "scores"]
    assert said["loss"] == loss.sel(step=2).fillna(-1).values.tolist()
    assert said["attributes"] == loss.attrs
    assert said["uri"] == [f"run/step-{step}" for step in (0, 1, 2, 4)]
    masked = said["masked"]
    assert (masked if name == "plain.zarr" else json.loads(masked)) == {"3": "a copy of step 2"}


def test_zarr_holds_all_that_the_store_shows(store: Store, tmp_path: Path) -> None:
    done = export(store.uri, tmp_path / "plain.zarr")
    assert (done.groups, done.variables) == (2, 4)
    opened = xr.open_datatree(tmp_path / "plain.zarr", engine="zarr", consolidated=True)
    assert_same(opened, store)
    assert opened.attrs["identity"] == synthetic.IDENTITY
    assert opened["scores"].attrs == open_run(store)["scores"].attrs
    root = zarr.open_consolidated(str(tmp_path / "plain.zarr"))
    assert root.metadata.zarr_format == 3
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("plain.zarr", "run.zarr")] == []


def test_netcdf_holds_all_that_the_store_shows(store: Store, tmp_path: Path) -> None:
    export(store.uri, tmp_path / "plain.nc", "netcdf")
    assert_same(xr.open_datatree(tmp_path / "plain.nc"), store)


def test_large_variables_are_copied_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.chunk_shapes._CHUNK", 32)
    monkeypatch.setattr("pipeline.store.chunk_shapes._SHARD", 64)
    store = synthetic.run(tmp_path / "run.zarr", [losses(8, 6)], range(5))
    export(store.uri, tmp_path / "plain.zarr")
    array = zarr.open_array(str(tmp_path / "plain.zarr" / "losses" / "loss"))
    assert array.shards is not None and np.prod(array.chunks) < np.prod(array.shards)
    assert_same(xr.open_datatree(tmp_path / "plain.zarr"), store)


def test_a_model_without_heads(tmp_path: Path) -> None:
    store = synthetic.run(tmp_path / "run.zarr", [scores(layers=0)], range(3))
    for name, format in (("plain.zarr", "zarr"), ("plain.nc", "netcdf")):
        export(store.uri, tmp_path / name, format)
        assert xr.open_datatree(tmp_path / name)["scores"]["induction"].shape == (3, 0, 3)


class TestRefusals:
    def test_a_target_that_exists(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        with pytest.raises(InputError, match="there: exists already: choose another place"):
            export(store.uri, tmp_path / "there")

    @pytest.mark.parametrize("inside", ["", "/plain.zarr"])
    def test_a_target_in_the_store(self, store: Store, inside: str) -> None:
        with pytest.raises(InputError, match="lies in the store"):
            export(store.uri, store.uri + inside)

    def test_a_store_that_holds_nothing(self, tmp_path: Path) -> None:
        store = Store(str(tmp_path / "run.zarr"))
        store.create_or_open(synthetic.IDENTITY)
        with pytest.raises(InputError, match="holds nothing yet"):
            export(store.uri, tmp_path / "plain.zarr")

    def test_netcdf_without_its_library(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "find_spec", lambda name: None)
        monkeypatch.setattr(extras, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"pip install 'ontogeny\[netcdf\]'"):
            export(store.uri, tmp_path / "plain.nc", "netcdf")

    def test_netcdf_on_s3(self, store: Store) -> None:
        with pytest.raises(InputError, match="written to a disk only"):
            export(store.uri, "s3://stores/plain.nc", "netcdf")

    @pytest.mark.parametrize("format", ["zarr", "netcdf"])
    def test_an_error_on_the_way_leaves_nothing(
        self, store: Store, tmp_path: Path, format: str
    ) -> None:
        def fail(done: int, total: int, group: str) -> None:
            if done == 1:
                raise OSError("no space left")

        with pytest.raises(OSError, match="no space left"):
            export(store.uri, tmp_path / "target", format, fail)
        assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]


class TestOnS3:
    @pytest.fixture
    def remote(self, s3: Proxy) -> Iterator[Store]:
        store = synthetic.run("s3://stores/run.zarr", TEMPLATES, range(3))
        publish(store)
        yield store

    def test_from_s3_to_s3(self, remote: Store) -> None:
        target = "s3://stores/exported/plain.zarr"
        export(remote.uri, target)
        assert_same(xr.open_datatree(target, engine="zarr"), remote)
        with pytest.raises(InputError, match="exists already"):
            export(remote.uri, target)

    def test_from_s3_to_a_disk(self, remote: Store, tmp_path: Path) -> None:
        export(remote.uri, tmp_path / "plain.zarr")
        assert_same(xr.open_datatree(tmp_path / "plain.zarr"), remote)

    def test_a_bucket_that_is_not_there(self, remote: Store) -> None:
        with pytest.raises(InputError, match="no such bucket"):
            export(remote.uri, "s3://absent/plain.zarr")

    def test_an_interrupted_export_does_not_open(self, remote: Store) -> None:
        def stop(done: int, total: int, group: str) -> None:
            if done == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export(remote.uri, "s3://stores/half.zarr", progress=stop)
        with pytest.raises(FileNotFoundError):
            xr.open_datatree("s3://stores/half.zarr", engine="zarr")


class TestCommand:
    def test_progress_and_an_answer(self, store: Store, tmp_path: Path) -> None:
        done = ontogeny("store", "export", store.uri, tmp_path / "plain.zarr")
        assert done.exit_code == 0, done.output
        assert f"export {store.uri}: 2 of 2 (scores)" in done.stderr
        assert f"{tmp_path / 'plain.zarr'}: 2 groups with 4 variables" in done.stdout

    def test_json(self, store: Store, tmp_path: Path) -> None:
        target = tmp_path / "plain.nc"
        said = answer("store", "export", store.uri, target, "--format", "netcdf", "--json")
        assert said["target"] == str(target)
        assert (said["format"], said["groups"], said["variables"]) == ("netcdf", 2, 4)

    def test_an_unknown_format(self, store: Store, tmp_path: Path) -> None:
        sentence = refused("store", "export", store.uri, tmp_path / "x", "--format", "zar")
        assert "did you mean 'zarr'?" in sentence
