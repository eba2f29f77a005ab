"""Attention at the requested query-key pairs, recorded while a model runs.

A request for a few diagonals of the attention matrix, for one key, or for one key per query needs
no matrix: with the log-sum-exp, which the fused kernel computes anyway,

    p[i, j] = exp(score[i, j] - lse[i]),   score[i, j] = scale * <q_i, k_j>

(softcap and mask included where the model has them), and a diagonal of scores is one product of
shifted queries and keys. The model's own code runs unchanged; only the attention function that
transformers looks up by name is this module's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from pipeline.engine.kernels import attend
from pipeline.engine.masks import RuleMask, make_mask
from pipeline.engine.recorder import Recorder, Scored
from pipeline.errors import InputError

# The key of `attention_function` in transformers' registry of attention implementations.
NAME = "ontogeny"

# Keyword arguments of transformers' attention functions that change nothing here: `sliding_window`
# is already part of the mask, positions are part of q and k, and there is no cache. Any other one
# is refused, because ignoring it would record attention that the model does not compute.
_WITHOUT_EFFECT = frozenset(
    {
        "cache_position", "logits_to_keep", "output_attentions",
        "output_hidden_states", "output_router_logits", "past_key_values", "position_embeddings",
        "position_ids", "return_dict", "sliding_window", "use_cache",
    }
)  # fmt: skip


# transformers calls `attention_function` with no argument of ours; a context variable is separate
# for each thread, so that two passes at a time do not mix.
_RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextmanager
def recording(recorder: Recorder, layers: Sequence[int]) -> Iterator[None]:
    """Record the attention of the one forward pass that runs within the block.

    layers: those that attend, ascending. Raises InputError unless each of them attends exactly
    once, and no other one does.
    """
    recorder.layers = layers
    # A resumed pass skips the layers below `first_layer`, which therefore make no calls.
    skipped = sum(layer < recorder.first_layer for layer in layers)
    recorder.layers_seen = recorder.outputs_seen = skipped
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)
    if recorder.layers_seen != len(layers):
        raise InputError(
            f"{recorder.layers_seen} attention layers could be observed where the model has "
            f"{len(layers)}: a model whose layers do not each attend once cannot be recorded "
            "exactly"
        )
    if recorder.outputs_seen != len(layers) and (recorder.head_outputs or recorder.edit):
        raise InputError(
            f"the outputs of the heads of {recorder.outputs_seen} layers could be observed where "
            f"the model has {len(layers)}: its heads can be neither recorded nor changed"
        )
    recorder.end_batch()


def current_recorder() -> Recorder | None:
    """Return the recorder of the forward pass that runs in this thread, if any."""
    return _RECORDER.get()


def attention_function(
    module: nn.Module,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Float[Tensor, "batch kv_head key d_value"],
    attention_mask: RuleMask | Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " head"] | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "batch query head d_value"], None]:
    """Compute the attention of one layer, and record what the current recorder requests.

    transformers calls it for every attention layer of a model whose implementation is `NAME`.
    Raises InputError for attention that cannot be recorded exactly.
    """
    _refuse_unknown(module, is_causal, others)
    mask = _rule(module, attention_mask)
    # Scores are computed from positions, which a cache or cross-attention would shift.
    if query.shape[2] != key.shape[2]:
        raise InputError(
            f"{type(module).__name__} attends from {query.shape[2]} queries to {key.shape[2]} keys "
            "(it has a cache, or attends elsewhere): its attention cannot be recorded exactly"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    recorder = _RECORDER.get()
    if recorder is not None and (edit := recorder.edit) is not None:
        query, key = edit.with_kept("queries", query), edit.with_kept("keys", key)
        value = edit.with_kept("values", value)
    # `s_aux` is transformers' name of learned sinks (GPT-OSS).
    out, lse = attend(query, key, value, mask, scale, softcap, s_aux)
    if recorder is not None:
        layer = recorder.layer_of(module)
        scored = Scored(query, key, lse, scale, softcap, mask)
        recorder.take_scores(layer, scored)
        out = recorder.take_output(layer, out, recorder.reads(scored, value))
    return out, None


def _refuse_unknown(module: nn.Module, is_causal: bool | None, others: Mapping[str, Any]) -> None:
    who = type(module).__name__
    given = {name for name, value in others.items() if value is not None}
    # Every model passes its dropout, which is 0 in evaluation mode.
    if not others.get("dropout"):
        given.discard("dropout")
    unknown = sorted(given - _WITHOUT_EFFECT)
    if unknown:
        raise InputError(
            f"{who} passes {', '.join(unknown)} to its attention, whose effect is not known here: "
            "its attention cannot be recorded exactly"
        )
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise InputError(
            f"{who} attends to later tokens, so its losses are no predictions: "
            "give checkpoints of a causal decoder"
        )


def _rule(module: nn.Module, mask: RuleMask | Tensor | None) -> RuleMask | None:
    """Return a mask that is a rule. Raises InputError for a tensor."""
    if mask is not None and not isinstance(mask, RuleMask):
        raise InputError(
            f"{type(module).__name__} gets an attention mask that its model made by other means "
            "than transformers' mask functions: its attention cannot be recorded exactly"
        )
    return mask


# Both registries are global to the process. Without a mask function of the same name, transformers
# would pass the attention function no mask at all.
AttentionInterface.register(NAME, attention_function)
AttentionMaskInterface.register(NAME, make_mask)
