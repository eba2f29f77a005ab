"""Code that an analysis runs, and who allows it: a file at this machine, never a flow parameter.

Whoever can ask the Prefect server for a flow run chooses its parameters. Code runs only if the
command `ontogeny watch FILE` serves that file, or if the environment of the run's process lists it:

    ONTOGENY_TRUSTED_ANALYSES=/home/me/my-model.yaml:/home/me/other.yaml
"""

import os
import stat
from pathlib import Path

from pipeline.config import Analysis, load_analysis
from pipeline.errors import InputError
from pipeline.measures.names import split_key

TRUSTED = "ONTOGENY_TRUSTED_ANALYSES"


def code_of(analysis: Analysis) -> frozenset[str]:
    """Return what an analysis runs beside this package: a run's own code, and measures' files."""
    run = {f"the code of {analysis.checkpoints}"} if analysis.trust_remote_code else set()
    measures = {f"the measure {split_key(key)[0]}" for key in analysis.measures if ":" in key}
    return frozenset(run | measures)


def code_of_trusted_files() -> frozenset[str]:
    """Return the code of the analyses that the environment of this process lists.

    Raises InputError if another user could have written one of these files.
    """
    files = [Path(name) for name in os.environ.get(TRUSTED, "").split(os.pathsep) if name]
    for file in files:
        _require_own(file)
    return frozenset(code for file in files for code in code_of(load_analysis(file)))


def refusal(analysis: Analysis, allowed: frozenset[str]) -> str | None:
    """Return the sentence that refuses an analysis whose code is not allowed; None if all is."""
    if not (refused := sorted(code_of(analysis) - allowed)):
        return None
    return (
        f"refused: the parameters ask to run {', '.join(refused)}, and parameters cannot allow "
        "code: run `ontogeny analyze FILE` or `ontogeny watch FILE` with a file that does, or list "
        f"that file in {TRUSTED} in the environment of the deployment's runs"
    )


def _require_own(file: Path) -> None:
    """Raise InputError if someone else than this user or root can change or replace a file."""
    place = file.resolve()
    for one in (place, *place.parents):
        try:
            status = one.stat()
        except OSError as error:
            raise InputError(f"{TRUSTED}: {one}: cannot be read ({error.strerror})") from None
        if status.st_uid not in (0, os.geteuid()):
            raise InputError(
                f"{TRUSTED}: {one} belongs to user {status.st_uid}: list a file that is yours, in "
                "folders that are yours or root's"
            )
        if _is_writable_by_others(status):
            raise InputError(
                f"{TRUSTED}: {one} can be changed by other users (mode "
                f"{stat.S_IMODE(status.st_mode):o}): `chmod go-w` it"
            )


def _is_writable_by_others(status: os.stat_result) -> bool:
    # In a folder with the sticky bit, such as /tmp, a file is replaced by its owner only.
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return False
    # The user's own group: many systems give each user one, and let it write by default.
    group = status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid())
    return bool(status.st_mode & stat.S_IWOTH or group)
