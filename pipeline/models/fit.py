"""Match a checkpoint's tensors with those of a module: by name, after renaming, and by shape."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from pipeline.checkpoints.floats import refuse_quantised
from pipeline.checkpoints.wrappers import common_prefixes, without_wrappers
from pipeline.errors import CheckpointError
from pipeline.models.architecture import build

# Buffers that older versions of transformers saved and newer ones compute.
_COMPUTED_BUFFERS = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|rope\.freqs|position_ids|(attn|attention)\.(masked_)?bias)$"
)

ALL_EMPTY = "all are empty, as DeepSpeed ZeRO-3 saves them: gather them with zero_to_fp32.py"

_HEADS = {"lm_head", "embed_out", "output_projection"}  # names of output embeddings


def renames(module: PreTrainedModel, keys: frozenset[str]) -> dict[str, str] | None:
    """Map names in a file to names in the module, by transformers' own rules for its family.

    Buffers that are computed are left out. A prefix that all names have, and without which they are
    exactly those of the module, is removed: a module of one's own may hold the model as `model` or
    `net`. Returns None if tensors must be merged or split too.
    """
    names = _renames(module, keys)
    if names is None or _is_whole(module, names):
        return names
    for prefix in [one for one in common_prefixes(keys) if one]:
        plain = {key: key[len(prefix) :] for key in keys}
        inner = _renames(module, frozenset(plain.values()))
        if inner is not None and _is_whole(module, inner):
            return {key: inner[name] for key, name in plain.items() if name in inner}
    return names


def _is_whole(module: PreTrainedModel, names: Mapping[str, str]) -> bool:
    """Return whether renamed tensors are all parameters of a module, tied ones once or more."""
    found, own = set(names.values()), module.state_dict().keys()
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    tied = [set(group) for group in tied_groups(module)]
    missing = parameters - found - {one for group in tied if group & found for one in group}
    return found <= own and not missing


def _renames(module: PreTrainedModel, keys: frozenset[str]) -> dict[str, str] | None:
    own = module.state_dict()
    mapping = get_model_conversion_mapping(module)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix = module.base_model_prefix
    names: dict[str, str] = {}
    for key in keys:
        renamed, merged = rename_source_key(key, renamings, converters, prefix, own)
        # Rules for old checkpoints may also match the current names of some families.
        if renamed not in own and key in own:
            renamed, merged = key, None
        if merged is not None:
            return None
        if renamed in own or not ignored(module, renamed):
            names[key] = renamed
    return names


def is_computed_buffer(key: str) -> bool:
    """Return whether a tensor is a buffer that is recomputed, so that the stored one is ignored."""
    return bool(_COMPUTED_BUFFERS.search(key))


def ignored(module: PreTrainedModel, key: str) -> bool:
    """Return whether a tensor that the module does not have may be dropped."""
    # The model class's own list of names that from_pretrained drops without a warning.
    patterns = module._keys_to_ignore_on_load_unexpected or ()
    return is_computed_buffer(key) or any(re.search(p, key) for p in patterns)


def tied_groups(module: PreTrainedModel) -> list[list[str]]:
    """Return the names that share one parameter, in groups of two or more."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def sources(
    module: PreTrainedModel, names: Mapping[str, str], parameters: Collection[str]
) -> set[str]:
    """Return those names in a file that some parameters are read from.

    names: from the file to the module. Of a parameter that has several names all are returned,
    because the tensors that a file has for them are compared.
    """
    wanted = set(parameters)
    for group in tied_groups(module):
        if not wanted.isdisjoint(group):
            wanted.update(group)
    return {key for key, name in names.items() if name in wanted}


def complete_tied(state: dict[str, Tensor], group: list[str], source: str) -> None:
    """Give every name of a tied group the tensor that the file has for one of them.

    Raises CheckpointError if the file has different tensors for them.
    """
    found = [name for name in group if name in state]
    if not found:
        return
    first = state[found[0]]
    for name in found[1:]:
        if not (first.is_meta or _are_equal(first, state[name])):  # on meta: were not read
            raise CheckpointError(
                f"{source}: {found[0]} and {name} differ, but its config.json ties them: "
                "correct `tie_word_embeddings` in the config"
            )
    state.update(dict.fromkeys(group, first))


def _are_equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same numbers, NaN being equal to NaN."""
    if torch.equal(a, b):
        return True
    # Only where needed, because it takes memory.
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def check_fit(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: set[str], source: str
) -> None:
    """Raise CheckpointError unless `state` has the tensors of `own`, except `optional` ones."""
    shapes = {
        f"{name}: {list(state[name].shape)} for {list(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    }
    missing, unexpected = own.keys() - state.keys() - optional, state.keys() - own.keys()
    *_, prefix = common_prefixes(state) if unexpected == state.keys() else [""]
    more = f"; all names begin with {prefix!r}" if prefix else ""
    if shapes and all(state[name].shape == (0,) for name in own.keys() & state.keys()):
        more = f"; {ALL_EMPTY}"
    refuse_unless_fit(missing, unexpected, shapes, source, more)


def refuse_unless_fit(
    missing: set[str], unexpected: set[str], shapes: set[str], source: str, more: str = ""
) -> None:
    """Raise CheckpointError if there are any such tensors, and list them.

    more: a further clause on what was found.
    """
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    parts = [f"{what}: {_listed(names)}" for what, names in found.items() if names]
    if parts:
        raise CheckpointError(
            f"{source}: its tensors are not those of its config.json ({'; '.join(parts)}{more}): "
            f"restore the checkpoint or its config{_or_tie(missing)}"
        )


def _or_tie(missing: set[str]) -> str:
    """Return a further advice if nothing is missing but the output embedding."""
    only_heads = bool(missing) and all(_HEADS & set(name.split(".")) for name in missing)
    return ", or set tie_word_embeddings in it" if only_heads else ""


def _listed(names: set[str], most: int = 5) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def tie(module: nn.Module, group: list[str]) -> None:
    """Make all names of a group refer to the parameter of the first one again."""
    shared = module.get_parameter(group[0])
    for name in group[1:]:
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, shared)


def check_shapes(
    architecture: str | Path | PreTrainedConfig,
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
    dtypes: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Raise CheckpointError if tensors of these names and shapes do not fit the architecture.

    Applies the rule of `Resident.swap` without reading weights; the shapes of tensors that must be
    merged are not checked. dtypes: as spelt in a safetensors header; config: the content of
    config.json; see `floats.refuse_quantised`.
    """
    plain = without_wrappers(shapes, source)
    shapes = {plain[name]: shape for name, shape in shapes.items()}
    dtypes = None if dtypes is None else {plain.get(n, n): dtype for n, dtype in dtypes.items()}
    with torch.device("meta"):
        module = build(architecture)
        tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    module.tie_weights()
    names = renames(module, frozenset(shapes))
    if dtypes is not None:
        refuse_quantised(dtypes, floating_names(module, names, shapes), source, config)
    if names is None:
        return
    state = {names[key]: tensors[key] for key in tensors if key in names}
    for group in tied_groups(module):
        if found := [name for name in group if name in state]:
            state.update(dict.fromkeys(group, state[found[0]]))
    buffers = {name for name, _ in module.named_buffers()}
    check_fit(module.state_dict(), state, optional=buffers, source=source)


def floating_names(
    module: PreTrainedModel, names: Mapping[str, str] | None, keys: Iterable[str]
) -> set[str]:
    """Return the names of a file's tensors that are read into floating-point parameters.

    names: from the file to the module; None if tensors are merged, when all but ignored ones count.
    """
    if names is None:
        return {key for key in keys if not ignored(module, key)}
    own = module.state_dict()
    return {key for key, name in names.items() if name in own and own[name].is_floating_point()}
