"""Read runs on the Hub whose checkpoints are state dicts in one folder, such as the attention-only
toy models of TransformerLens:

    config.json                        sizes, `tokens_per_step`
    model_init.pth                     the initialisation, if it was kept
    checkpoints/tokens_000000262144.pth, ...

The number in a name counts tokens if the largest number exceeds 10^9, else steps (TransformerLens,
`get_checkpoint_labels`). Each file is presented as a folder with two files: `config.json`, an
organism's, made from the repository's, and `pytorch_model.bin`, the file itself, whose tensors are
renamed to an organism's when they are read.
"""

import json
import re
from typing import Any

from pipeline.checkpoints import transformerlens
from pipeline.checkpoints.hub_api import Address, files_in, read_part
from pipeline.checkpoints.stored import Files, Folder, StoredFile
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import is_whole, json_object

_FOLDER = "checkpoints"
_WEIGHTS = "pytorch_model.bin"
_NUMBERED = re.compile(r".*_(\d{1,15})\.pth")
_INITIAL = re.compile(r"(.*_)?init\.pth")
_MOST_STEPS = 10**9  # as in get_checkpoint_labels


def folders(commit: Address) -> list[Folder]:
    """Return a folder for each state dict; [] if the repository is not of this layout."""
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
    """Return the two files that a state dict is presented as."""
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
    """Return an organism's config.json. Raises InputError if no organism has the architecture."""
    commit = Address(address.repo, address.ref)
    try:
        described = transformerlens.described_by(_said(commit))
    except (InputError, LookupError, TypeError, AttributeError) as error:
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
    """Return the path of each state dict by a checkpoint name such as `step100-tokens6553600`."""
    if max(numbers) <= _MOST_STEPS:
        return {f"step{number}": path for number, path in numbers.items()}
    each = _said(commit).get("tokens_per_step")
    if not is_whole(each, least=1):
        raise InputError(
            f"{commit}/config.json: has no tokens_per_step, and {_FOLDER}/ counts in tokens: its "
            "steps are unknown"
        )
    return {f"step{number // each}-tokens{number}": path for number, path in numbers.items()}


def _said(commit: Address) -> dict[str, Any]:
    where = f"{commit}/config.json"
    return json_object(read_part(commit, "config.json"), where, InputError)
