"""The file of a draft: named as the run, and never one that is there. Imports no torch."""

import os
import re
from pathlib import Path

from pipeline.errors import InputError


def file_for(uri: str) -> Path:
    """Return the file of a run's analysis by default: its name, in the working directory."""
    path = uri.partition("://")[2].partition("@")[0] if "://" in uri else os.path.realpath(uri)
    name = re.sub(r"\.(pth|pt)$", "", path.rstrip("/").rpartition("/")[2])
    plain = re.sub(r"[^\w.+-]+", "-", name).strip("-.")
    return Path(f"{plain or 'run'}.yaml")


def new_file(file: Path) -> Path:
    """Return the path of a file that is to be written. Raises InputError if it is there."""
    if os.path.lexists(file):
        raise InputError(
            f"{file}: exists already, and is not overwritten: remove it, or give another --output"
        )
    if not file.parent.is_dir():
        raise InputError(f"{file.parent}: is no folder: make it, or give another --output")
    return file
