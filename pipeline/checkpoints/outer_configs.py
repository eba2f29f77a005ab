"""Find a config.json for checkpoints that have none: in a folder around them, or as given.

accelerate's `save_state` writes weights alone, `run/step_1000/model.safetensors`, and scripts keep
one `run/config.json` beside the folders.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.checkpoints.configs import is_config_of_a_model
from pipeline.checkpoints.contents import format_of_files
from pipeline.checkpoints.layouts import ADAPTER
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.stored import Folder, StoredFile
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
    around = _Around(run, folders)
    completed: list[Folder] = []
    used: Counter[str] = Counter()
    for folder in folders:
        config = None
        if folder.files and _lacks_config(folder):
            config = given or around.config_for(folder)
        if config is not None:
            used[f"{config.at}/{config.real_name or CONFIG}"] += 1
            folder = replace(folder, files={**folder.files, CONFIG: config})
        completed.append(folder)
    notes = [f"{count:,} checkpoints without a {CONFIG} use {path}" for path, count in used.items()]
    return completed, notes


def _lacks_config(folder: Folder) -> bool:
    """Return whether a checkpoint that is no adapter has no config.json that is of a model.

    Trainers with formats of their own, such as OLMo-core, save their settings under that name.
    """
    if ADAPTER in folder.files:
        return False
    if CONFIG not in folder.files:
        return True
    is_own_format = format_of_files(folder.files) is not None
    return is_own_format and not is_config_of_a_model(place_of(folder.uri), folder)


def _given(address: str) -> StoredFile:
    """Return the file at the address of a config."""
    at, _, name = address.rpartition("/")
    if (file := place_of(at).file_in(at, name)) is None:
        raise InputError(f"config: {address}: there is no such file: give a config.json")
    return replace(file, name=CONFIG, at=at, real_name="" if name == CONFIG else name)


class _Around:
    """The configs in the folders around the checkpoints of a run; each is looked for once."""

    def __init__(self, run: Folder | str, folders: Sequence[Folder]) -> None:
        self._run = (run if isinstance(run, str) else run.uri).rstrip("/")
        # For a list of addresses, the run's own files are those of one of its checkpoints.
        self._is_around = all(folder.uri.rstrip("/") != self._run for folder in folders)
        self._known: dict[str, StoredFile | None] = {}
        if isinstance(run, Folder):
            self._known[self._run] = _of_a_model(self._run, run.files.get(CONFIG))

    def config_for(self, folder: Folder) -> StoredFile | None:
        """Return the config of the innermost folder around one, within the run; None if none."""
        if folder.uri.startswith("hf://"):
            return None
        found = (self._config_at(uri) for uri in self._folders_around(folder.uri.rstrip("/")))
        return next((config for config in found if config is not None), None)

    def _folders_around(self, uri: str) -> Iterator[str]:
        around = uri.rpartition("/")[0]
        if not f"{around}/".startswith(f"{self._run}/"):
            # What a link leads to, or an address in a list: the folder around it, then the run.
            yield from (around, *([self._run] if self._is_around else []))
            return
        while f"{around}/".startswith(f"{self._run}/"):
            yield around
            around = around.rpartition("/")[0]

    def _config_at(self, uri: str) -> StoredFile | None:
        if uri not in self._known:
            self._known[uri] = _of_a_model(uri, place_of(uri).file_in(uri, CONFIG))
        return self._known[uri]


def _of_a_model(uri: str, file: StoredFile | None) -> StoredFile | None:
    """Return the config.json of a folder, if it is there and that of a model."""
    if file is None or not is_config_of_a_model(place_of(uri), Folder("", uri, {CONFIG: file})):
        return None
    return replace(file, at=uri)
