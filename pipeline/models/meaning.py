"""Compare two config.json by the model that they describe, not by how they are written.

Both are read by transformers, so that explicit and implicit defaults, and the spellings of several
versions (`rope_theta` and `rope_scaling`, `rope_parameters`), become the same. All keys are then
compared except those that are known not to affect a forward pass in eval mode, listed here.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig

from pipeline.errors import InputError
from pipeline.models.architecture import refuse_oversized, without_memory

# Keys about the file, the implementation, tasks other than predicting tokens, and training.
_WITHOUT_EFFECT = frozenset(
    {
        "_name_or_path", "name_or_path", "transformers_version", "architectures",
        "tokenizer_class", "_commit_hash", "torch_dtype", "dtype", "use_bfloat16", "torchscript",
        "use_cache", "_attn_implementation", "_attn_implementation_internal",
        "_attn_implementation_autoset", "_experts_implementation",
        "_experts_implementation_internal", "gradient_checkpointing",
        "use_gradient_checkpointing", "output_attentions", "output_hidden_states",
        "output_router_logits", "return_dict", "use_return_dict", "id2label", "label2id",
        "num_labels", "problem_type", "finetuning_task", "task_specific_params", "summary_type",
        "summary_use_proj", "summary_activation", "summary_proj_to_labels",
        "classifier_activation", "initializer_range", "initializer_factor", "init_std",
        "embed_init_std", "embedding_initializer_range", "router_aux_loss_coef",
        "router_z_loss_coef", "aux_loss_coef", "z_loss_coefficient", "moe_loss_weight",
        "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id",
        "unsloth_version", "unsloth_fixed",
    }
)  # fmt: skip
_DROPOUT = re.compile(r"(dropout|pdrop|layerdrop)(_prob|_rate|_p)?")  # the end of a key

# Keys about generation. Ignored only in the configs of known architectures: in those of others a
# name such as `top_k` may well be that of a routing parameter.
_GENERATION = frozenset(
    {
        "do_sample", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
        "length_penalty", "diversity_penalty", "num_beams", "num_beam_groups",
        "num_return_sequences", "early_stopping", "max_length", "min_length", "max_new_tokens",
        "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
        "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
        "exponential_decay_length_penalty", "remove_invalid_values", "output_scores",
        "return_dict_in_generate", "prefix", "tf_legacy_loss",
    }
)  # fmt: skip
# Keys without effect in most models; `Meaning._fits` decides.
_PADDING = frozenset({"pad_token_id"})
_POSITIONS = frozenset({"max_position_embeddings", "n_positions", "n_ctx"})

# Kinds of rotary positions that do not depend on the number of positions.
_ROTATIONS = {"default", "linear", "llama3"}

_MOST_SHOWN = 3
_LONGEST_SHOWN = 80  # characters of one value


@dataclass(frozen=True, eq=False)
class Meaning:
    """A config.json as JSON, and as read by transformers: None if it cannot read it.

    trusted: code that the config names may be run, so that `auto_map` matters.
    """

    raw: Mapping[str, Any]
    config: PreTrainedConfig | None
    trusted: bool = False

    def same_as(self, other: "Meaning") -> bool:
        """Return whether both describe the same model, for sequences that both can read."""
        if self._as_written == other._as_written:
            return True
        if self.config is None or other.config is None or self._core != other._core:
            return False
        padding = _flat(self._described, _PADDING) != _flat(other._described, _PADDING)
        positions = self.positions != other.positions
        return not (padding or positions) or self._fits(other, padding, positions)

    def difference(self, usual: "Meaning") -> str:
        """Return the values of this config and of the `usual` one, for the keys that differ."""
        both = self.config is not None and usual.config is not None
        pair = (self._described, usual._described) if both else (self.raw, usual.raw)
        found, expected = (dict(_leaves(self._counting(one))) for one in pair)
        keys = [
            key
            for key in sorted(found.keys() | expected.keys())
            if found.get(key) != expected.get(key)
        ]
        shown = [
            f"{key} = {_brief(found.get(key))}, expected {_brief(expected.get(key))}"
            for key in keys[:_MOST_SHOWN]
        ]
        return "; ".join(shown) + ("; ..." if len(keys) > _MOST_SHOWN else "")

    @cached_property
    def can_be_built(self) -> bool:
        """True if transformers builds a language model from it."""
        try:
            return self.config is not None and without_memory(self.config) is not None
        except InputError:
            return False

    @cached_property
    def positions(self) -> Mapping[str, Any]:
        """Maximum sequence lengths that the config declares, by key."""
        return _flat(self._described, _POSITIONS)

    @cached_property
    def _described(self) -> dict[str, Any]:
        return self.config.to_dict() if self.config is not None else dict(self.raw)

    @cached_property
    def keys(self) -> tuple[Hashable, Hashable]:
        """Two values for looking up a meaning: it is `same_as` others only if it shares one."""
        core = None if self.config is None else ("core", _hashable(self._core))
        return ("written", _hashable(self._as_written)), core

    @cached_property
    def _as_written(self) -> Any:
        return self._counting(self.raw)

    @cached_property
    def _core(self) -> Any:
        return self._counting(self._described, also=_PADDING | _POSITIONS)

    def _counting(self, value: Mapping[str, Any], also: frozenset[str] = frozenset()) -> Any:
        """Return the part of a config that may affect the forward pass, in plain JSON values."""
        known = self.config is not None
        left_out = _WITHOUT_EFFECT | also | (_GENERATION if known else frozenset())
        if known and not self.trusted:  # transformers' own code is run
            left_out |= {"auto_map"}
        return _plain(value, left_out)

    def _fits(self, other: "Meaning", padding: bool, positions: bool) -> bool:
        """Return whether differences in padding or in the number of positions have no effect."""
        try:
            modules = [without_memory(one.config) for one in (self, other) if one.config]
        except InputError:
            return False
        # The number of learned positions shows in a parameter's shape. That of rotary positions
        # shows in none, but some kinds of scaling (dynamic, yarn, longrope) depend on it.
        shapes = [{name: p.shape for name, p in module.named_parameters()} for module in modules]
        if shapes[0] != shapes[1] or (padding and any(map(_depends_on_padding, modules))):
            return False
        return not positions or all(_rotations(m._described) <= _ROTATIONS for m in (self, other))


def meanings_of(configs: Sequence[Mapping[str, Any]], trusted: bool = False) -> list[Meaning]:
    """Return the meaning of each config; configs that are equal as JSON share one object."""
    known: dict[str, Meaning] = {}
    by_id: dict[int, Meaning] = {}  # most runs have one object for all checkpoints
    for config in configs:
        if id(config) not in by_id:
            key = repr(sorted(config.items()))
            if key not in known:
                known[key] = Meaning(config, _read(config), trusted)
            by_id[id(config)] = known[key]
    return [by_id[id(config)] for config in configs]


def grouped(meanings: Sequence[Meaning]) -> list[int]:
    """Return for each meaning the number of its group, in which all describe one model."""
    first: list[Meaning] = []
    with_key: dict[Hashable, list[int]] = defaultdict(list)
    numbers: dict[int, int] = {}
    for one in meanings:
        # By identity: `meanings_of` returns one object for equal configs, and comparing is slow.
        if id(one) not in numbers:
            keys = [key for key in one.keys if key is not None]
            # Not with all of them: each of thousands of configs may differ from the others.
            candidates = sorted({number for key in keys for number in with_key[key]})
            same = (number for number in candidates if one.same_as(first[number]))
            numbers[id(one)] = next(same, len(first))
            if numbers[id(one)] == len(first):
                for key in keys:
                    with_key[key].append(len(first))
                first.append(one)
    return [numbers[id(one)] for one in meanings]


def usual_group(meanings: Sequence[Meaning], groups: Sequence[int]) -> int:
    """Return the largest group; of equally large ones, that of the last meaning.

    Groups whose model can be built are preferred.
    """
    ordered = [group for group, _ in Counter(reversed(groups)).most_common()]
    if len(ordered) == 1:
        return ordered[0]
    good = (group for group in ordered if meanings[groups.index(group)].can_be_built)
    return next(good, ordered[0])


def _read(config: Mapping[str, Any]) -> PreTrainedConfig | None:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return None
    try:
        refuse_oversized(config, "config.json")
        return CONFIG_MAPPING[kind].from_dict(deepcopy(dict(config)))
    except Exception:  # values of any type in a damaged config raise errors of any type
        return None


def _depends_on_padding(module: nn.Module) -> bool:
    """Return whether positions are counted from the padding id, as in RoBERTa and XGLM."""
    return any(
        "pos" in name and getattr(part, "padding_idx", None) is not None
        for name, part in module.named_modules()
    )


def _rotations(described: Mapping[str, Any]) -> set[Any]:
    """Return the kinds of rotary positions that a config names, at any depth."""
    kinds = dict(_leaves(described, within="rope")).items()
    return {value for path, value in kinds if path.rpartition(".")[2] in ("rope_type", "type")}


def _leaves(value: Any, path: str = "", within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values that are not mappings, by dotted path, if the path contains `within`."""
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key), within)
    elif within in path:
        yield path, value


def _flat(described: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {path: value for path, value in _leaves(described) if path.rpartition(".")[2] in keys}


def _plain(value: Any, left_out: frozenset[str]) -> Any:
    """Return a value in comparable form, without some keys at any depth."""
    if isinstance(value, Mapping):
        # `type` is the former name of `rope_type`, and transformers keeps both.
        former = {"type"} if value.get("type") == value.get("rope_type") else set()
        return {
            str(key): _plain(inner, left_out)
            for key, inner in value.items()
            if key not in left_out | former and not _is_dropout(str(key), inner)
        }
    if isinstance(value, list | tuple):
        return [_plain(inner, left_out) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # NaN is not equal to itself
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


def _hashable(value: Any) -> Hashable:
    """Return a plain value in a form that is hashable, and equal where the value is."""
    if isinstance(value, dict):
        return frozenset((key, _hashable(inner)) for key, inner in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _is_dropout(key: str, value: Any) -> bool:
    """Return whether a key is a dropout probability; a boolean may be about something else."""
    return not isinstance(value, bool) and any(
        match.end() == len(key) for match in _DROPOUT.finditer(key)
    )


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
