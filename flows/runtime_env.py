"""The runtime environment of a Ray job, read from a file of the user's."""

import re
from pathlib import Path
from typing import Any

from pipeline.addresses import faults_within
from pipeline.config.yaml_files import read_yaml
from pipeline.errors import InputError, suggestion

_SECRET = re.compile(r"SECRET|TOKEN(?!IZ)|PASSWORD|API_KEY|ACCESS_KEY|AUTH_STRING", re.IGNORECASE)
_FIELDS = (
    "pip", "uv", "conda", "py_modules", "working_dir", "env_vars", "excludes", "image_uri",
    "worker_process_setup_hook", "nsight", "config",
)  # fmt: skip


def read_runtime_env(file: str) -> dict[str, Any]:
    """Return the fields of a runtime environment of Ray, with an absolute local working folder.

    Raises InputError for a field that Ray does not have, variables that are no text, a working
    folder that is not here, and values that look like secrets: the printed script holds them.
    """
    given = read_yaml(Path(file))
    for name in given:
        if name not in _FIELDS:
            raise InputError(f"{file}: {name}: is no field of Ray's; {suggestion(name, _FIELDS)}")
    _require_texts(file, given.get("env_vars", {}))
    for place, sentence in faults_within(given):
        raise InputError(f"{file}: {place}: {sentence}")
    folder = given.get("working_dir")
    return given if folder is None else {**given, "working_dir": _folder(file, folder)}


def _require_texts(file: str, variables: Any) -> None:
    """Raise InputError unless these are environment variables, none of them a secret by name."""
    if not isinstance(variables, dict):
        raise InputError(f"{file}: env_vars: expected names with values, as in THREADS: '2'")
    for name, value in variables.items():
        if not isinstance(value, str):
            raise InputError(f"{file}: env_vars.{name}: expected text, put the value in quotes")
        if _SECRET.search(name):
            raise InputError(
                f"{file}: env_vars.{name}: looks like a secret, which the job's records would "
                "show: set it in the environment of the cluster's nodes"
            )


def _folder(file: str, folder: Any) -> str:
    """Return the absolute path of a working folder; a relative one is beside the file."""
    path = Path(file).parent / str(folder)
    if not path.is_dir():
        raise InputError(f"{file}: working_dir: {folder}: expected a folder on this machine")
    return str(path.resolve())
