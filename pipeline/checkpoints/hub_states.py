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
from collections.abc import Mapping
from typing import Any

from pipeline.checkpoints import hooked_config
from pipeline.checkpoints.hub_address import Address
from pipeline.checkpoints.hub_rows import directly_in, files_below
from pipeline.checkpoints.hub_source import read_part, tree
from pipeline.checkpoints.stored import Files, Folder, StoredFile
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import is_whole, json_object

_FOLDER = "checkpoints"
_WEIGHTS = "pytorch_model.bin"
_NUMBERED = re.compile(r".*_(\d{1,15})\.pth")
_INITIAL = re.compile(r"(.*_)?init\.pth")
_MOST_STEPS = 10**9  # as in get_checkpoint_labels


def folders(commit: Address, at_top: Files) -> list[Folder]:
    """Return a folder for each state dict; [] if the repository is not of this layout.

    at_top: the files directly in the commit.
    """
    numbers = _numbered(commit) if "config.json" in at_top else {}
    if not numbers:
        return []
    named = _named(commit, numbers)
    initial = [name for name in at_top if _INITIAL.fullmatch(name)]
    if initial and "step0" not in named:
        named["step0"] = initial[0]
    places = {name: commit.at(str(commit.ref), path) for name, path in named.items()}
    return [Folder(name, str(place), files(place)) for name, place in places.items()]


def files(address: Address) -> Files:
    """Return the two files that a state dict is presented as."""
    folder, _, name = str(address.path).rpartition("/")
    commit = address.at(str(address.ref))
    state, described = _files_in(commit, folder).get(name), _files_in(commit).get("config.json")
    shown: dict[str, StoredFile] = {}
    if state is not None:
        shown[_WEIGHTS] = StoredFile(_WEIGHTS, state.size, state.identity, state.sha256)
    if described is not None:
        identity = f"organism of {described.identity}"
        shown["config.json"] = StoredFile("config.json", described.size, identity)
    return shown


def config(address: Address) -> bytes:
    """Return an organism's config.json. Raises InputError if no organism has the architecture."""
    commit = address.at(str(address.ref))
    try:
        described = _described_by(_said(commit))
    except (InputError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{commit}/config.json: {error}: this suite cannot be read") from error
    return json.dumps(hooked_config.AS_ORGANISM | described).encode()


def _described_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an organism's config.json from a suite's own, before any weights are read.

    For models without MLPs, with unfolded norms and attention biases, as TransformerLens' training
    code saves them. Raises InputError for others, KeyError for a missing size.
    """
    sizes = {name: config[name] for name in ("n_layers", "n_heads")}
    hooked_config.refuse_uncomputable(config, sizes)
    if not config["attn_only"]:
        raise InputError(f"act_fn = {config.get('act_fn')!r}: only models without MLPs are known")
    if config["n_heads"] * config["d_head"] != config["d_model"]:
        raise InputError(f"n_heads x d_head: expected d_model = {config['d_model']}")
    norm = config.get("normalization", config.get("normalization_type", "LN"))
    shortformer = config.get("shortformer_pos") or (
        config.get("positional_embedding_type") == "shortformer"
    )
    return {
        "vocab_size": config["d_vocab"],
        "hidden_size": config["d_model"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
        "intermediate_size": 0,
        "max_position_embeddings": config["n_ctx"],
        "layer_norm": hooked_config.one_of("normalization", norm, {None: False, "LN": True}),
        "layer_norm_eps": config.get("ln_eps", config.get("eps", 1e-5)),
        "positions": "queries_keys" if shortformer else "residual",
        "attention_bias": True,
        "lm_head_bias": False,
    } | hooked_config.scale_field(config, config["d_head"])


def _files_in(commit: Address, folder: str = "") -> Files:
    return directly_in(files_below(tree(commit, folder), folder))


def _numbered(commit: Address) -> dict[int, str]:
    try:
        names = list(_files_in(commit, _FOLDER))
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
