"""Give the tensors of one's own model TransformerLens' names and axes.

`model: {names: ...}` of an analysis gives the place of each tensor: one of the built-in tables of
`known_names`, or a dictionary. How a tensor is stored is stated in it (`axes`), stated for all
matrices (`matrices`), or proven by the shapes of all tensors together; a tensor that two ways fit
is refused.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints import known_names, tensor_axes
from pipeline.checkpoints.axes_by_shape import Stored, solved
from pipeline.checkpoints.name_patterns import Entry, entries_of, unmatched
from pipeline.checkpoints.wrappers import common_prefixes, fitting_prefix, without_wrappers
from pipeline.errors import InputError

Weights = dict[str, Tensor]
Given = Mapping[str, Any]

_OWN = ("names", "matrices", "norm_first")  # keys of `model` for own names alone
_NEEDED = ("embed.W_E", "unembed.W_U", "blocks.{}.attn.W_O")
_POSITIONS = "positional_embedding_type"
# Tensors of which none, or all, are in TransformerLens' state dicts; a missing bias adds nothing.
_BIASES = (tuple(f"attn.b_{one}" for one in "QKVO"), ("mlp.b_in", "mlp.b_out"))


def is_own(given: Given) -> bool:
    """Return whether the analysis gives names other than TransformerLens' own."""
    return given.get("names") not in (None, known_names.TRANSFORMERLENS)


def refuse_without_names(given: Given) -> None:
    """Raise InputError for fields that have a meaning for one's own names only."""
    if found := [name for name in _OWN[1:] if name in given]:
        raise InputError(f"`model` gives {found[0]}, which is for one's own `names`: leave it out")


def known_fields(given: Given) -> dict[str, Any]:
    """Return the fields of `model` that TransformerLens has too."""
    return {name: value for name, value in given.items() if name not in _OWN}


def known_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of one's own code, with TransformerLens' names of sizes.

    Raises InputError if it gives one size twice, differently.
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        ours = known_names.SIZES.get(name, name)
        if ours in found and found[ours] != value:
            raise InputError(
                f"its config gives {ours} twice, {found[ours]!r} and {value!r}: correct it"
            )
        found |= {} if name in known_names.HARMLESS else {ours: value}
    return found


def renamed(state: Mapping[str, Tensor], config: Mapping[str, Any], given: Given) -> Weights:
    """Return a model's tensors by TransformerLens' names, with its axes.

    config: with TransformerLens' names of sizes. Raises InputError, naming the tensor, if one has
    no place, a place none, or if its axes are not known.
    """
    entries = entries_of(given["names"])
    state = _without_prefix(state, entries)
    stored = _by_place(state, entries)
    is_rotary = "rotary" in (given.get(_POSITIONS), config.get(_POSITIONS))
    _refuse_missing(stored, is_rotary)
    _refuse_other_norms(stored, given)
    _refuse_unknown_norms(stored, {**config, **given})
    heads = given.get("n_heads", config.get("n_heads"))
    sizes = {"qkv": 3} | ({"n_heads": heads} if heads is not None else {})
    if separate := {head for one in stored.values() for _, head in one.names if head >= 0}:
        sizes["n_heads"] = len(separate)
    axes, sizes = solved(stored, sizes, given.get("matrices"))
    weights: Weights = {}
    for place, one in stored.items():
        order = known_names.PLACES[place].axes.split()
        for block, tensor in one.tensors.items():
            turned = tensor_axes.rearranged(tensor, axes[place], order, sizes)
            weights |= _parted(place.replace("{}", str(block)), turned)
    has_mean = {**config, **given}.get("normalization_type") not in ("RMS", "RMSPre")
    return weights | _zero_biases(weights, has_mean)


def notes(weights: Mapping[str, Tensor], given: Given) -> Iterator[str]:
    """Yield sentences on what was assumed of a renamed model."""
    if "ln_final.w" in weights and "norm_first" not in given:
        yield (
            "`model` of the analysis does not give norm_first: the norms are taken to be before "
            "each layer"
        )


def _without_prefix(state: Mapping[str, Tensor], entries: Sequence[Entry]) -> Weights:
    """Return the tensors without wrappers, and without a prefix that no entry has."""
    plain = {new: state[old] for old, new in without_wrappers(state, "its state dict").items()}
    prefix = fitting_prefix(list(plain), lambda names: not unmatched(entries, names))
    if prefix is None:
        *_, longest = common_prefixes(list(plain))
        begin = f"; all names begin with {longest!r}" if longest else ""
        unknown = unmatched(entries, list(plain))
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(
            f"has the tensor {unknown[0]!r}{more}, to which `names` gives no place{begin}: give "
            "its place, or null if the forward pass does not use it"
        )
    return {name[len(prefix) :]: tensor for name, tensor in plain.items()}


def _by_place(state: Weights, entries: Sequence[Entry]) -> dict[str, Stored]:
    """Return the tensors of each place, those of several heads stacked."""
    stored: dict[str, Stored] = {}
    parts: dict[str, dict[int, dict[int, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for entry in entries:
        matches = {name: found for name in state if (found := entry.match(name)) is not None}
        if entry.needed and not matches:
            first = ", ".join(list(state)[:3])
            raise InputError(f"`names` gives {entry.name!r}, which it has not: it has {first}, ...")
        for name, (block, head) in matches.items():
            if entry.place is None:
                continue
            one = stored.setdefault(entry.place, Stored(entry))
            if other := one.names.get((block, head)):
                raise InputError(f"{other!r} and {name!r} are two tensors of {entry.place}")
            one.names[block, head] = name
            parts[entry.place][block][head] = state[name]
    for place, one in stored.items():
        one.tensors = {at: _stacked(place, heads) for at, heads in parts[place].items()}
    _refuse_gaps(stored)
    return stored


def _stacked(place: str, heads: Mapping[int, Tensor]) -> Tensor:
    """Return one tensor of the tensors of all heads, which are -1 for one of all heads."""
    if set(heads) == {-1}:
        return heads[-1]
    if sorted(heads) != list(range(len(heads))):
        raise InputError(f"the heads of {place} are {sorted(heads)}, expected 0, 1, ...")
    tensors = [heads[head] for head in sorted(heads)]
    if len({tensor.shape for tensor in tensors}) > 1:
        raise InputError(f"the heads of {place} have tensors of different shapes")
    if "n_heads" in known_names.PLACES[place].axes.split():
        return torch.stack(tensors)
    if any(not torch.equal(tensor, tensors[0]) for tensor in tensors):
        raise InputError(f"the heads of {place} differ, and it has one for all heads")
    return tensors[0]


def _refuse_gaps(stored: Mapping[str, Stored]) -> None:
    """Raise InputError if a block lacks a tensor that another one has."""
    inside = {place: one for place, one in stored.items() if "{}" in place}
    blocks = sorted({block for one in inside.values() for block in one.tensors})
    if blocks != list(range(len(blocks))):
        raise InputError(f"its blocks have the numbers {blocks}, expected 0, 1, ...")
    for one in inside.values():
        if missing := [block for block in blocks if block not in one.tensors]:
            name = one.entry.name.replace("{}", str(missing[0]))
            raise InputError(f"the tensor {name!r} is missing, another block has it")


def _refuse_missing(stored: Mapping[str, Stored], is_rotary: bool) -> None:
    """Raise InputError if a place that every model has got no tensor."""
    fused = "blocks.{}.attn.W_QKV" in stored
    positions = [] if is_rotary else ["pos_embed.W_pos"]
    needed = [
        *_NEEDED,
        *positions,
        *([] if fused else [f"blocks.{{}}.attn.W_{one}" for one in "QKV"]),
    ]
    if missing := [place for place in needed if place not in stored]:
        hints = {
            "unembed.W_U": " (if it is that of the tokens, give it both places in a list: "
            "[embed.W_E, unembed.W_U])",
            "pos_embed.W_pos": " (if positions are rotary, give positional_embedding_type: rotary)",
        }
        raise InputError(
            f"`names` gives no tensor for {missing[0]}{hints.get(missing[0], '')}: every model "
            "that is read has it"
        )


def _refuse_other_norms(stored: Mapping[str, Stored], given: Given) -> None:
    """Raise InputError for norms at other places than an organism's, or at places unknown."""
    norms = {"blocks.{}.ln1.w", "ln_final.w"}
    norms |= {"blocks.{}.ln2.w"} if "blocks.{}.mlp.W_in" in stored else set()
    found = {place for place in stored if place.endswith(".w")}
    if found and found != norms:
        raise InputError(
            f"has {', '.join(sorted(found))} and no {', '.join(sorted(norms - found)) or 'other'}: "
            "organisms have a norm before each layer and one at the end, or none: this model "
            "cannot be read"
        )
    asked = {name for one in stored.values() for name in one.entry.asks}
    if missing := sorted(asked - given.keys() - (set() if found else {"norm_first"})):
        raise InputError(
            f"{' and '.join(missing)} of PyTorch's layer are arguments, not in its tensors: give "
            "`model: {norm_first: true, attention_dir: causal}` if it was so"
        )
    if found and given.get("norm_first") is False:
        raise InputError(
            "norm_first = False: organisms have their norms before each layer: this model cannot "
            "be read"
        )


def _parted(name: str, tensor: Tensor) -> Weights:
    """Return a tensor by its name, fused queries, keys and values as three."""
    if not name.endswith("_QKV"):
        return {name: tensor}
    return {f"{name[:-3]}{which}": part for which, part in zip("QKV", tensor, strict=True)}


def _refuse_unknown_norms(stored: Mapping[str, Stored], said: Given) -> None:
    """Raise InputError for norms whose gains do not show whether they subtract the mean."""
    has_biases = any(place.endswith((".ln1.b", "ln_final.b")) for place in stored)
    if "ln_final.w" in stored and not has_biases and "normalization_type" not in said:
        raise InputError(
            "its norms have no biases, so that their kind is unknown: give `model: "
            "{normalization_type: LN}` (nn.LayerNorm) or RMS (nn.RMSNorm)"
        )


def _zero_biases(weights: Weights, has_mean: bool) -> Weights:
    """Return zeros for biases that this model has not and TransformerLens' models of its kind have.

    A norm or a projection without a bias is one whose bias is 0. has_mean: its norms subtract the
    mean; those that do not have no bias in TransformerLens either.
    """
    zeros: Weights = {}
    for name, tensor in weights.items():
        block, _, rest = name.partition(".attn.W_O")
        if not rest and name != block:  # a block, by the matrix that each has
            zeros |= _in_block(f"{block}.", weights)
        if name.endswith(".w") and has_mean:
            zeros[f"{name[:-1]}b"] = torch.zeros_like(tensor)
    return {name: tensor for name, tensor in zeros.items() if name not in weights}


def _in_block(block: str, weights: Weights) -> Weights:
    zeros: Weights = {}
    for group in _BIASES:
        if not any(f"{block}{bias}" in weights for bias in group):
            continue
        for bias in group:
            matrix = weights.get(f"{block}{bias.replace('.b_', '.W_')}")
            if matrix is not None:
                shape = _bias_shape(bias, matrix)
                zeros[f"{block}{bias}"] = matrix.new_zeros(shape)
    return zeros


def _bias_shape(bias: str, matrix: Tensor) -> Sequence[int]:
    """Return the shape of a bias: that of its matrix's outputs, of each head for Q, K and V."""
    by_head = matrix.ndim == 3 and bias != "attn.b_O"
    return (matrix.shape[0], matrix.shape[2]) if by_head else (matrix.shape[-1],)
