"""xarray opens a store by itself, and labels its plots with units."""

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from xarray.backends.plugins import guess_engine

from ontogeny_xarray import OntogenyBackend
from pipeline import Analysis, InputError, analyze, open_run, open_runs
from pipeline.store import Store
from pipeline.store.reclaim import reclaim
from pipeline.store.trajectories import publish
from tests.conftest import MakeRun
from tests.pipeline.checkpoints.servers import Proxy
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, scores

TEMPLATES = [scores(), losses()]
OLD_STORE = Path(__file__).parents[2] / "data" / "stored-by-0.1.tar.xz"

PLOT = Path(__file__).with_name("plotting.py").read_text()
# What xarray imports of ours when it opens something else.
ELSEWHERE = """
import sys
import xarray as xr

before = set(sys.modules)
xr.backends.list_engines()
xr.open_dataset(sys.argv[1])
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new & {"pipeline", "flows", "ontogeny", "ontogeny_xarray", "torch", "ray"}))
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Trajectories of four steps, and one more row of each group."""
    made = synthetic.run(tmp_path / "run.zarr", TEMPLATES, range(4))
    publish(made)
    return synthetic.run(made.uri, TEMPLATES, range(5))


@pytest.fixture
def old_store(tmp_path: Path) -> Path:
    with tarfile.open(OLD_STORE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "small.zarr"


def python(script: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestOpening:
    def test_it_opens_what_open_run_opens(self, store: Store) -> None:
        assert xr.open_datatree(store.uri).identical(open_run(store))

    @pytest.mark.parametrize("form", ["{}", "{}/", "file://{}"])
    def test_an_address_in_any_form(self, store: Store, form: str) -> None:
        assert guess_engine(form.format(store.uri)) == "ontogeny"
        assert xr.open_datatree(form.format(store.uri)).identical(open_run(store))

    def test_a_path_below_the_working_folder(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(Path(store.uri).parent)
        assert xr.open_datatree(Path("run.zarr")).identical(open_run(store))

    def test_stored_chunks_are_those_of_dask(self, store: Store) -> None:
        tree = xr.open_datatree(store.uri, chunks={})
        assert tree["losses"]["loss"].chunks == ((4, 1), (4,), (6,)), (
            "the shard of the trajectories"
        )
        assert tree.load().identical(open_run(store))

    def test_one_group_and_without_some_variables(self, store: Store) -> None:
        wanted = open_run(store)["losses"].to_dataset()
        assert xr.open_dataset(store.uri, group="/losses").identical(wanted)
        some = xr.open_dataset(store.uri, group="losses", drop_variables="loss")
        assert some.identical(wanted.drop_vars("loss"))
        assert xr.open_datatree(store.uri, group="losses").to_dataset().identical(wanted)
        assert set(xr.open_groups(store.uri, drop_variables=["loss"])) == {
            "/", "/losses", "/scores",
        }  # fmt: skip

    def test_an_older_variant(self, store: Store) -> None:
        synthetic.run(store.uri, [scores(version=2)], range(2))
        old = {"scores": scores().variant}
        opened = xr.open_datatree(store.uri, variants=old)
        assert opened.identical(open_run(store, old))

    def test_a_store_of_layout_1(self, old_store: Path) -> None:
        assert guess_engine(str(old_store)) == "ontogeny"
        assert xr.open_datatree(old_store).identical(open_run(old_store))

    def test_a_group_must_be_chosen_and_exist(self, store: Store) -> None:
        with pytest.raises(InputError, match=r"group=.*\(losses, scores\).*open_datatree"):
            xr.open_dataset(store.uri)
        with pytest.raises(InputError, match="did you mean 'losses'"):
            xr.open_dataset(store.uri, group="loses")

    def test_a_store_on_s3(self, s3: Proxy) -> None:
        uri = "s3://stores/some/run.zarr"
        store = synthetic.run(uri, TEMPLATES, range(3))
        s3.forget()
        assert guess_engine(uri) == "ontogeny"
        assert len(s3.requests) == 1
        assert xr.open_datatree(uri).identical(open_run(store))


class TestGuessing:
    def test_plain_zarr_is_left_to_zarr(self, tmp_path: Path) -> None:
        plain = xr.Dataset({"a": ("x", np.arange(3))})
        plain.to_zarr(tmp_path / "plain.zarr", consolidated=False)
        zarr.open_group(tmp_path / "plain.zarr", mode="a").create_group("versions")
        zarr.open_group(tmp_path / "plain.zarr", mode="a").create_group("rows")
        assert guess_engine(str(tmp_path / "plain.zarr")) == "zarr"

    @pytest.mark.parametrize(
        "address",
        [
            "nowhere.zarr",
            "https://example.invalid/run.zarr",
            "gs://bucket/run.zarr",
            "s3://stores/measured.nc",
            b"CDF",
            None,
        ],
    )
    def test_everything_else_is_refused_without_a_request(self, address: object) -> None:
        assert OntogenyBackend().guess_can_open(address) is False  # pyright: ignore[reportArgumentType]

    def test_what_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "rows").mkdir()
        (tmp_path / "rows" / "zarr.json").write_text("{")
        assert OntogenyBackend().guess_can_open(tmp_path) is False

    def test_plain_zarr_on_s3(self, s3: Proxy) -> None:
        assert OntogenyBackend().guess_can_open("s3://stores/plain.zarr") is False
        assert len(s3.requests) <= 3

    def test_s3_that_cannot_be_reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key-of-these-tests")
        assert OntogenyBackend().guess_can_open("s3://stores/unreachable.zarr") is False

    def test_opening_other_files_imports_nothing_of_ours(self, tmp_path: Path) -> None:
        xr.Dataset({"a": ("x", np.arange(3))}).to_zarr(tmp_path / "plain.zarr")
        assert python(ELSEWHERE, tmp_path / "plain.zarr").split() == ["ontogeny_xarray"]


class TestWithoutAnImport:
    """In another process, whose script imports xarray alone."""

    def test_plots_carry_units(self, make_run: MakeRun, store: Store, tmp_path: Path) -> None:
        analysis = Analysis(
            checkpoints=str(make_run()),
            store=str(tmp_path / "analysed.zarr"),
            measures=["head_scores"],  # type: ignore[arg-type]
        )
        analyze(analysis)
        lines = python(PLOT, analysis.store, store.uri, cwd=tmp_path).splitlines()
        assert lines[0] == "training step [steps]; induction [1]"
        assert lines[1].startswith("loss [nats]; step = 0 [steps], tokens_seen = 0.0 [tokens]")

    def test_a_module_of_the_same_name_in_the_folder(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "pipeline.py").write_text("raise SystemExit('another module')")
        script = (
            "import sys, xarray; print(*xarray.open_datatree(sys.argv[1]), 'torch' in sys.modules)"
        )
        assert python(script, store.uri, cwd=tmp_path).split() == ["losses", "scores", "False"]

    def test_another_module_of_the_same_name_is_not_replaced(
        self, store: Store, tmp_path: Path
    ) -> None:
        (tmp_path / "pipeline.py").write_text("here = True")
        script = (
            "import sys; sys.path.insert(0, '')\n"
            "import pipeline, xarray\n"
            "try: xarray.open_datatree(sys.argv[1])\n"
            "except ImportError as error: print(pipeline.here, error)"
        )
        said = python(script, store.uri, cwd=tmp_path)
        assert said.startswith("True this is a store of Ontogeny")
        assert "ontogeny store export" in said


class TestAttributes:
    def test_coordinates_are_described(self, store: Store) -> None:
        group = open_run(store)["losses"]
        assert group["step"].attrs == {
            "long_name": "training step",
            "units": "steps",
            "definition": "optimizer steps taken when the checkpoint was saved",
        }
        assert group["tokens_seen"].attrs["units"] == "tokens"
        assert group["position"].attrs["definition"].startswith("position t: ")
        assert "units" not in group["position"].attrs

    def test_runs_side_by_side_keep_them(self, store: Store) -> None:
        pair = open_runs({"a": store.uri, "b": store.uri}, origin={"a": 1, "b": 2})
        axis = pair["scores"]["since_origin"].attrs
        assert axis["long_name"] == "training step since the origin"
        assert axis["units"] == "steps"
        assert pair["scores"]["tokens_seen"].attrs["units"] == "tokens"

    def test_an_old_store_has_them(self, old_store: Path) -> None:
        loss = open_run(old_store)["modular_addition"]["test_loss"]
        assert (loss.attrs["long_name"], loss.attrs["units"]) == ("test loss", "nats")
        assert loss["step"].attrs["units"] == "steps"


class TestZarrAlone:
    def test_it_lists_the_published_arrays(self, store: Store) -> None:
        publish(store)
        published = zarr.open_group(store.uri, mode="r")["published"]
        assert isinstance(published, zarr.Group)
        names = [name for name, _ in published.members(max_depth=None)]
        (loss,) = [
            name for name in names if name.endswith("/loss") and published[name].shape[0] == 5
        ]
        assert str(published.tree()).count("induction") == 2, "and the ones before"
        values = np.asarray(published[loss])  # type: ignore[arg-type]
        np.testing.assert_array_equal(values, open_run(store)["losses"]["loss"])

    def test_a_published_group_is_a_dataset(self, store: Store) -> None:
        publish(store)
        folder = store.version().published["losses"].folder
        opened = xr.open_zarr(f"{store.uri}/published/{folder}")
        wanted = open_run(store)["losses"].to_dataset()
        xr.testing.assert_equal(opened.load(), wanted)
        assert opened["loss"].attrs == wanted["loss"].attrs
        assert opened["step"].attrs == wanted["step"].attrs

    def test_generations_without_arrays_are_reclaimed(self, store: Store) -> None:
        publish(store)
        for _ in range(2):
            reclaim(store, older_than=0)
            synthetic.run(store.uri, TEMPLATES, range(5), edition=_ + 1)
            publish(store)
        reclaim(store, older_than=0)
        groups = [key for key in store.objects.list("published") if key.count("/") == 2]
        used = {
            folder.partition("/")[0]
            for one in store.version().published.values()
            for folder in (one.folder, one.previous)
            if folder
        }
        assert groups == sorted(f"published/{generation}/zarr.json" for generation in used)
