"""Tell by a digest of the source files whether a worker has the code of the driver."""

import hashlib
import platform
from functools import cache
from pathlib import Path

from pipeline.errors import InputError


@cache
def code_digest() -> str:
    """Return the sha256 of the source of `pipeline` and `flows`, as imported in this process."""
    state, root = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(
        path for name in ("pipeline", "flows") for path in root.glob(f"{name}/**/*.py")
    ):
        state.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return state.hexdigest()


def check_code(digest: str) -> None:
    """Raise InputError if the code of this process has another digest."""
    if code_digest() != digest:
        raise InputError(
            f"a worker on {platform.node()} has imported {Path(__file__).parents[1]}, which "
            "differs from this run's code: install the same version of ontogeny on every machine"
        )
