"""A run on the Hub whose checkpoints are the state dicts of one folder, as the attention-only toy
models of TransformerLens have them:

    config.json                        sizes, `tokens_per_step`
    model_init.pth                     the initialisation, if it was kept
    checkpoints/tokens_000000262144.pth, ...

The number in a name counts tokens where the largest is above 10^9, and else steps
(TransformerLens, `get_checkpoint_labels`). Each file is shown as a folder of its own: `config.json`
is the organism's, made from the repository's, and `pytorch_model.bin` is the file, whose tensors
are given the organism's names when they are read.
"""

import json
import re
from typing import Any

from pipeline.checkpoints import transformerlens
from pipeline.checkpoints.hub_api import Address, files_in, read_part
from pipeline.checkpoints.stored import Files, Folder, StoredFile
from pipeline.errors import CheckpointError, InputError

_FOLDER = "checkpoints"
_WEIGHTS = "pytorch_model.bin"
_NUMBERED = re.compile(r".*_(\d{1,15})\.pth")
_INITIAL = re.compile(r"(.*_)?init\.pth")
_MOST_STEPS = 10**9


def folders(commit: Address) -> list[Folder]:
    """One folder for each state dict; none where there is no such folder of them."""
    at_top = files_in(commit)
    numbers = _numbered(commit) if "config.json" in at_top else {}
    if not numbers:
        return []
    named = _named(commit, numbers)
    initial = [name for name in at_top if _INITIAL.fullmatch(name)]
    if initial and "step0" not in named:
        named["step0"] = initial[0]
    places = {name: Address(commit.repo, commit.ref, path) for name, path in named.items()}
    return [Folder(name, str(place), files(place)) for name, place in places.items()]


def files(address: Address) -> Files:
    """The two files that a state dict is shown as."""
    folder, _, name = str(address.path).rpartition("/")
    commit = Address(address.repo, address.ref)
    state, described = files_in(commit, folder).get(name), files_in(commit).get("config.json")
    shown: dict[str, StoredFile] = {}
    if state is not None:
        shown[_WEIGHTS] = StoredFile(_WEIGHTS, state.size, state.identity, state.sha256)
    if described is not None:
        identity = f"organism of {described.identity}"
        shown["config.json"] = StoredFile("config.json", described.size, identity)
    return shown


def config(address: Address) -> bytes:
    """The organism's config.json. Raises InputError for architectures that no organism has."""
    commit = Address(address.repo, address.ref)
    try:
        described = transformerlens.described_by(_said(commit))
    except (InputError, KeyError) as error:
        raise InputError(f"{commit}/config.json: {error}: this suite cannot be read") from error
    return json.dumps(transformerlens.AS_ORGANISM | described).encode()


def _numbered(commit: Address) -> dict[int, str]:
    try:
        names = list(files_in(commit, _FOLDER))
    except CheckpointError:  # no such folder
        return {}
    matches = {name: _NUMBERED.fullmatch(name) for name in names}
    return {int(match[1]): f"{_FOLDER}/{name}" for name, match in matches.items() if match}


def _named(commit: Address, numbers: dict[int, str]) -> dict[str, str]:
    """The path of each state dict by a checkpoint's usual name."""
    if max(numbers) <= _MOST_STEPS:
        return {f"step{number}": path for number, path in numbers.items()}
    each = int(_said(commit).get("tokens_per_step") or 0)
    if each < 1:
        raise InputError(
            f"{commit}/config.json: says no tokens_per_step, and {_FOLDER}/ counts in tokens: its "
            "steps cannot be told"
        )
    return {f"step{number // each}-tokens{number}": path for number, path in numbers.items()}


def _said(commit: Address) -> dict[str, Any]:
    try:
        content = json.loads(read_part(commit, "config.json"))
    except ValueError as error:
        raise InputError(f"{commit}/config.json: is not valid JSON") from error
    return content if isinstance(content, dict) else {}
