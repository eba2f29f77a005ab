"""Small runs for the check on a GPU: trained briefly, or random, and analyses of them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Analysis
from pipeline.training import load_training, train
from pipeline.training.schedule import Schedule

ROOT = Path(__file__).parents[2]
COMMAND = "import ontogeny; ontogeny.main()"

# Modules of these names that cannot be imported come before the installed ones.
_ABSENT = ("ray", "prefect")


def trained(preset: str, folder: Path, steps: int, every: int) -> Path:
    """Train the first steps of a packaged run; save each `every`-th."""
    schedule = Schedule(log_until=0, every=every)
    changes = {"output": str(folder), "steps": steps, "checkpoints": schedule}
    return train(load_training(preset).model_copy(update=changes))


def write_analysis(
    file: Path, preset: str, run: Path, store: Path, workers: Mapping[str, Any], **more: Any
) -> Analysis:
    """Write a packaged analysis of another run, with other workers, as a YAML file.

    more: fields of the analysis, which replace those of the preset.
    """
    packaged = ROOT / "pipeline" / "presets" / f"{preset}.yaml"
    content = yaml.safe_load(packaged.read_text())
    content |= {"checkpoints": str(run), "store": str(store), "workers": dict(workers), **more}
    file.write_text(yaml.safe_dump(content))
    return Analysis.model_validate(content)


def without_ray_and_prefect(folder: Path) -> dict[str, str]:
    """Return an environment in which neither Ray nor Prefect can be imported."""
    for name in _ABSENT:
        package = folder / "absent" / name
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(f"raise ImportError('{name} is not installed')\n")
    path = [str(folder / "absent"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def started(environment: Mapping[str, str], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `ontogeny` with some arguments in a folder."""
    command = [sys.executable, "-c", COMMAND, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdout=pipe, stderr=pipe, text=True
    )
