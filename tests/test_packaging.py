"""The wheel, built from the sdist, in a fresh environment outside of the checkout."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.flows.planted_store import Planted

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "ray", "prefect", "botocore", "huggingface_hub", "pyarrow")
MEASURED = """
import json, sys, time
from pathlib import Path
began = time.process_time()
from pipeline import open_run
open_run(sys.argv[1])
seconds = time.process_time() - began
began = time.process_time()
site = Path(json.__file__).parents[1] / "site-packages"
site = Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
print(json.dumps({"seconds": seconds, "mib": size / 2**20, "modules": sorted(sys.modules)}))
"""


class Environment:
    """A fresh virtual environment, in which the core of the package is installed."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        pip = [self.bin / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", ROOT / "constraints.txt", wheel], check=True)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, with a home and a working folder of its own."""
        home = {"HOME": str(self.folder), "PATH": f"{self.bin}:{os.environ['PATH']}"}
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder, env=home, capture_output=True, text=True, timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the sdist of this checkout, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def core(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    (wheel,) = built.glob("*.whl")
    return Environment(tmp_path_factory.mktemp("core"), wheel)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Planted().write(tmp_path_factory.mktemp("stores") / "planted.zarr")


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
    names = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} < names


def test_the_core_needs_no_torch_ray_or_prefect(core: Environment, store: str) -> None:
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


def test_the_core_answers_from_a_store(core: Environment, store: str) -> None:
    listed = json.loads(core.run("ontogeny", "query", store, "--json").stdout)
    assert {"token_loss", "head_scores"} == {row["group"] for row in listed}
    means = core.run("ontogeny", "query", store, "token_loss/mean", "--json").stdout
    assert [row["step"] for row in json.loads(means)][:3] == [1, 2, 3]
    for command in ("transitions", "losses", "report"):
        done = core.run("ontogeny", command, store)
        assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip())
    assert "head_scores" in page.read_text()
    described = core.run("ontogeny", "measures", store)
    assert described.stdout.startswith("head_scores")


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
