"""The commands of the README, literally and in order, as someone who has just installed it.

`pip install` is the one command that is replaced: the wheel is built from the tree and installed
into a fresh environment, which takes the dependencies from that of the tests, since installing them
takes minutes. The home folder and the caches are fresh and empty, and the working folder is outside
of the checkout. `ontogeny ui` gets a free port, as tests may run side by side.
"""

import os
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.analysis.draft.choose import workers_for
from pipeline.analysis.draft.seen import Machine
from pipeline.config import parse_yaml
from tests.benchmarks.servers import free_port

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INSTALL = "pip install '.[all]'"
ENDLESS = ("ontogeny ui", "ontogeny watch")


def commands(page: str) -> list[str]:
    """Return the indented lines of a page, without comments."""
    lines = re.findall(r"^    (\S.*)$", FENCE.sub("", page), re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines]


def fenced(page: str, language: str) -> str:
    """Return the one block of a language."""
    (block,) = [code for found, code in FENCE.findall(page) if found == language]
    return block


def test_commands_are_found() -> None:
    found = commands("text\n\n    a b  # c\n    d '#e'\n\n```sh\n    f\n```\n- item\n  more\n")
    assert found == ["a b", "d '#e'"]
    assert commands(README)[0] == INSTALL
    assert all(one.startswith("ontogeny ") for one in commands(README)[1:])
    assert sum(one.startswith(ENDLESS) for one in commands(README)) == len(ENDLESS)


@dataclass(frozen=True)
class Newcomer:
    """A fresh environment, home and working folder."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """Run a command that ends; return what it prints on stdout."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        told = f"{command[-1]}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert done.returncode == 0 and "Traceback" not in done.stderr, told
        return done.stdout

    @contextmanager
    def running(self, command: str, ready: str) -> Iterator[None]:
        """Run an endless command in the block, once it has printed `ready`; end it by Ctrl-C."""
        with (self.folder.parent / "endless.txt").open("w+") as told:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment,
                stdout=subprocess.PIPE, stderr=told, text=True,
                # A shell's background jobs ignore SIGINT, and their children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
            try:
                assert process.stdout is not None
                # Its output ends where the command does: nothing is waited for in vain.
                assert any(ready in line for line in process.stdout), told.seek(0) or told.read()
                yield
                process.send_signal(signal.SIGINT)
                assert process.wait(300) in (0, 130)
            finally:
                process.kill()


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    """Install the wheel of this tree into a fresh environment."""
    bin_folder = installed(tmp_path)
    home = tmp_path / "home"
    places = {"HOME": home, "HF_HOME": home / "hf", "PREFECT_HOME": home / "prefect"}
    places |= {f"XDG_{one}_HOME": home / one for one in ("CACHE", "CONFIG", "DATA", "STATE")}
    home.mkdir()
    (tmp_path / "work").mkdir()
    environment = {name: str(place) for name, place in places.items()}
    path = f"{bin_folder}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return Newcomer(tmp_path / "work", environment | {"PATH": path, "LC_ALL": "C.UTF-8"})


def installed(folder: Path) -> Path:
    """Build a wheel of the tree and install it; return the folder of its commands."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "ontogeny.py", "ontogeny_xarray.py",
                 "pipeline", "flows"):  # fmt: skip
        (source / name).symlink_to(ROOT / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    made = folder / "environment"
    venv.create(made)
    install = ["--python", str(made / "bin" / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, *install, str(wheel)], check=True)
    (packages,) = made.glob("lib/python*/site-packages")
    # Plain folders: their own .pth files, by which the checkout is installed, are not read.
    others = [one for one in sys.path if one.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others))
    return made / "bin"


def without_workers(text: str) -> list[str]:
    """Return the lines of an analysis but for its workers, which fit the machine at hand."""
    lines = text.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("workers:")]
    return [*lines[: at - 1], *lines[at + 1 :]]


def test_workers_are_those_of_two_cores() -> None:
    said = parse_yaml(fenced(README, "yaml"), "README.md")
    assert workers_for(Machine(2, 16 * 2**30, 0), 46, 45_440).value == said["workers"]


@pytest.mark.slow
@pytest.mark.timeout(1500)  # some three minutes of computing, on a machine that may be busy
def test_a_newcomer_meets_no_error(newcomer: Newcomer) -> None:
    where = newcomer.run("python", "-c", "import pipeline, flows; print(pipeline.__file__)")
    assert where.startswith(str(newcomer.folder.parent / "environment"))
    done = [line for line in commands(README)[1:] if not line.startswith(ENDLESS)]
    for line in done:
        newcomer.run("bash", "-c", line)
        if line.startswith("ontogeny init"):
            written = (newcomer.folder / "my-model.yaml").read_text()
            assert without_workers(written) == without_workers(fenced(README, "yaml"))
    newcomer.run("python", "-c", fenced(README, "python"))
    ui, watch = [line for line in commands(README) if line.startswith(ENDLESS)]
    with (
        newcomer.running(f"{ui} --port {free_port()}", "http://"),
        newcomer.running(watch, "Ctrl-C ends this"),
    ):
        newcomer.run("bash", "-c", "ontogeny checkpoints runs/my-model")
    assert "Traceback" not in (newcomer.folder.parent / "endless.txt").read_text()
