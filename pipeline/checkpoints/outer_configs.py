"""Find a config.json for checkpoints that have none: in a folder around them, or as given.

accelerate's `save_state` writes weights alone, `run/step_1000/model.safetensors`, and scripts keep
one `run/config.json` beside the folders.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pipeline.checkpoints.contents import is_config_of_a_model
from pipeline.checkpoints.layouts import ADAPTER
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.stored import Files, Folder, StoredFile
from pipeline.config import RunLayout
from pipeline.errors import InputError

CONFIG = "config.json"


def with_outer_configs(
    folders: Sequence[Folder], run: Folder | str, layout: RunLayout
) -> tuple[list[Folder], list[str]]:
    """Return the folders with the config.json of an outer folder, if they have none, and notes.

    Adapters are left as they are: their config is that of their base model. Raises InputError if
    there is no file at the address of the layout's `config`.
    """
    given = None if layout.config is None else _given(layout.config)
    around = _Around(run)
    completed: list[Folder] = []
    used: Counter[str] = Counter()
    for folder in folders:
        config = None
        if folder.files and not {CONFIG, ADAPTER} & folder.files.keys():
            config = given or around.config_for(folder)
        if config is not None:
            used[f"{config.at}/{config.real_name or CONFIG}"] += 1
            folder = replace(folder, files={**folder.files, CONFIG: config})
        completed.append(folder)
    notes = [f"{count:,} checkpoints without a {CONFIG} use {path}" for path, count in used.items()]
    return completed, notes


def _given(address: str) -> StoredFile:
    """Return the file at the address of a config."""
    at, _, name = address.rpartition("/")
    (files,) = place_of(at).files_of([at])
    if name not in files:
        raise InputError(f"config: {address}: there is no such file")
    real_name = "" if name == CONFIG else name
    return replace(files[name], name=CONFIG, at=at, real_name=real_name)


class _Around:
    """The configs in the folders around the checkpoints of a run; each folder is listed once."""

    def __init__(self, run: Folder | str) -> None:
        self._run = run if isinstance(run, str) else run.uri
        self._known: dict[str, StoredFile | None] = {}
        if isinstance(run, Folder):
            self._known[run.uri.rstrip("/")] = _config_in(run.uri, run.files)

    def config_for(self, folder: Folder) -> StoredFile | None:
        """Return the config of the innermost folder around one, within the run; None if none."""
        if folder.uri.startswith("hf://"):
            return None
        outermost = self._run.rstrip("/")
        at = folder.uri.rstrip("/").rpartition("/")[0]
        while at == outermost or at.startswith(f"{outermost}/"):
            if (config := self._config_at(at)) is not None:
                return config
            at = at.rpartition("/")[0]
        return None

    def _config_at(self, uri: str) -> StoredFile | None:
        if uri not in self._known:
            self._known[uri] = _config_in(uri, place_of(uri).files_of([uri])[0])
        return self._known[uri]


def _config_in(uri: str, files: Files) -> StoredFile | None:
    """Return the config.json in a folder, if it is that of a model."""
    if CONFIG not in files or not is_config_of_a_model(place_of(uri), Folder("", uri, files)):
        return None
    return replace(files[CONFIG], at=uri.rstrip("/"))
