"""The wheel, built from the sdist, in a fresh environment outside of the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.flows.planted_store import Planted

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OLD_STORE = ROOT / "tests" / "data" / "stored-by-0.1.tar.xz"
HEAVY = ("torch", "transformers", "ray", "prefect", "botocore", "huggingface_hub", "pyarrow")
MEASURED = """
import json, sys, sysconfig, time
from pathlib import Path
began = time.process_time()
from pipeline import open_run
open_run(sys.argv[1])
seconds = time.process_time() - began
files = [path for path in Path(sysconfig.get_path("purelib")).rglob("*") if path.is_file()]
size = sum(path.stat().st_size for path in files)
print(json.dumps({"seconds": seconds, "mib": size / 2**20, "modules": sorted(sys.modules)}))
"""


class Environment:
    """A fresh virtual environment, in which the core of the package is installed."""

    def __init__(self, folder: Path, built: Path, python: str) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True)
        (wheel,) = built.glob("*.whl")
        options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        pip = [self.bin / "pip", "install", *options, "-c", ROOT / "constraints.txt", wheel]
        subprocess.run(pip, check=True)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, with a home and a working folder of its own."""
        home = {"HOME": str(self.folder), "PATH": f"{self.bin}:{os.environ['PATH']}"}
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder, env=home, capture_output=True, text=True, timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the sdist of this checkout, and the wheel that is built from it.

    A build writes into the folder of the sources, from which other processes import meanwhile.
    """
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, found.split("\0")):
        if (ROOT / name).is_file():  # not deleted
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def interpreter(version: str) -> str:
    """Return a Python of a version that is installed here. Skips the test if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [*pyenv.glob(f"versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
    if found[0] is None:
        pytest.skip(f"there is no Python {version} on this machine")
    return str(found[0])


@pytest.fixture(scope="module")
def core(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("core"), built, sys.executable)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Planted().write(tmp_path_factory.mktemp("stores") / "planted.zarr")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD_STORE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "small.zarr"


def test_the_wheel_has_every_file_of_the_packages(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    tracked = subprocess.run(
        ["git", "ls-files", "pipeline", "flows"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert set(tracked) - packed == set()
    assert {"ontogeny.py", "ontogeny_xarray.py"} < packed


def test_the_sdist_has_the_license(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} < names


def test_the_core_needs_no_torch_ray_or_prefect(core: Environment, store: str) -> None:
    core.run("python", "-c", MEASURED, store)  # compiles what it imports
    done = core.run("python", "-c", MEASURED, store)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(
        f"\ncore: {found['mib']:.0f} MiB installed, open_run after {found['seconds']:.2f} s of CPU"
    )
    installed = json.loads(core.run("pip", "list", "--format", "json").stdout)
    names = {one["name"].lower().replace("-", "_") for one in installed}
    assert names.isdisjoint(HEAVY)
    assert set(found["modules"]).isdisjoint(HEAVY)


def test_the_core_answers_from_a_store(core: Environment, store: str, old: Path) -> None:
    listed = json.loads(core.run("ontogeny", "query", store, "--json").stdout)
    assert {"token_loss", "head_scores"} == {row["group"] for row in listed}
    means = core.run("ontogeny", "query", store, "token_loss/mean", "--json").stdout
    assert [row["step"] for row in json.loads(means)][:3] == [1, 2, 3]
    assert "head_scores/induction L0H1" in core.run("ontogeny", "transitions", store).stdout
    assert "age" in core.run("ontogeny", "losses", store).stdout
    assert core.run("ontogeny", "measures", old).stdout.startswith("modular_addition")
    done = core.run("ontogeny", "report", old, "--output", "site")
    assert done.returncode == 0, done.stderr
    overview = core.folder / "site" / "small" / "overview.html"
    assert "modular_addition" in overview.read_text()


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_core_works_on_other_pythons(
    version: str, built: Path, store: str, tmp_path: Path
) -> None:
    other = Environment(tmp_path, built, interpreter(version))
    listed = other.run("ontogeny", "query", store, "token_loss/mean", "--json")
    assert [row["step"] for row in json.loads(listed.stdout)][:3] == [1, 2, 3]


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("analyze", "analysis.yaml", "--serial"), "engine"),
        (("train", "induction"), "engine"),
        (("query", "s3://bucket/run.zarr"), "s3"),
        (("checkpoints", "hf://owner/run"), "hub"),
        (("query", "STORE", "token_loss/mean", "--format", "parquet"), "parquet"),
        (("ui",), "flows"),
    ],
)
def test_what_the_core_lacks_is_named(
    core: Environment, store: str, command: tuple[str, ...], extra: str
) -> None:
    (core.folder / "analysis.yaml").write_text(
        "checkpoints: runs\nstore: a.zarr\nmeasures: {weight_norm: }\n"
    )
    done = core.run("ontogeny", *(store if one == "STORE" else one for one in command))
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f"pip install 'ontogeny[{extra}]'")
    assert len(done.stderr.strip().splitlines()) == 1
