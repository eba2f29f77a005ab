"""The analyses of a folder of runs, such as a sweep's: one of each run."""

from pathlib import Path

from pipeline.checkpoints.files import RUN_FILE
from pipeline.config import Analysis


def analyses_of(analysis: Analysis) -> list[Analysis]:
    """Return the analysis itself or, for a folder of runs, the same analysis of each run in it.

    The run `a` of the folder has its store at `<store>/a.zarr`. A folder that holds checkpoints,
    or a `training.yaml`, is one run.
    """
    folder = Path(analysis.checkpoints)
    if "://" in analysis.checkpoints or not folder.is_dir() or (folder / RUN_FILE).is_file():
        return [analysis]
    runs = sorted(inside.name for inside in folder.iterdir() if (inside / RUN_FILE).is_file())
    return [
        analysis.model_copy(
            update={
                "checkpoints": str(folder / run),
                "store": f"{analysis.store.rstrip('/')}/{run}.zarr",
            }
        )
        for run in runs
    ] or [analysis]
