"""Short commands import only what they need: each is run in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.start import ARRAYS, COMMANDS, HERE, Command, make_files

# Loaded before anything is computed, they would take most of a command's time.
HEAVY = (
    "torch",
    "transformers",
    "prefect",
    "ray",
    "distributed",
    "dask",
    "scipy",
    "huggingface_hub",
)
OF_ARRAYS = ("xarray", "zarr", "pandas", "pyarrow", "fsspec")

RUN = """
import json, sys
import ontogeny
try:
    ontogeny.main()
finally:
    print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    make_files(folder)
    return folder


def modules_after(*arguments: str, code: int = 0) -> set[str]:
    """Return the modules that are loaded at the end of a command."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=HERE, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.name)
def test_a_short_command_imports_only_what_it_needs(command: Command, made: Path) -> None:
    arguments = [argument.format(folder=made) for argument in command.arguments]
    loaded = modules_after(*arguments, code=command.code)
    needless = HEAVY if command.peer == ARRAYS else (*HEAVY, *OF_ARRAYS)
    assert loaded.isdisjoint(needless)
    assert ("xarray" in loaded) == (command.peer == ARRAYS)  # absence would be noticed
    assert "flows.cli.runs" in loaded  # the command was run at all
