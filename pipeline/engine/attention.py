"""Attention at the requested query-key pairs, recorded while a model runs.

A request for a few diagonals of the attention matrix, for one key, or for one key per query needs
no matrix: with the log-sum-exp, which the fused kernel computes anyway,

    p[i, j] = exp(score[i, j] - lse[i]),   score[i, j] = scale * <q_i, k_j>

(softcap and mask included where the model has them), and a diagonal of scores is one product of
shifted queries and keys. The model's own code runs unchanged; only the attention function that
transformers looks up by name is this module's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from pipeline.engine.head_edits import Edit
from pipeline.engine.kernels import attend, capped
from pipeline.engine.masks import RuleMask, make_mask
from pipeline.engine.pairs import Pairs
from pipeline.engine.partial_reads import Reads
from pipeline.engine.record import AttentionRequest, Corner, LagMeans, Reduced
from pipeline.engine.reductions import Attention, FromMatrix, FromScores, reduced
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


@dataclass
class Recorder:
    """A collector of what the attention layers of one model yield, batch by batch.

    attention: one tensor per request, filled in place. head_outputs: the heads' outputs before W_O,
    a list of batches for each layer among its keys. layers: those that attend, ascending.
    first_layer: the first layer that is computed. edit: the change to the heads' outputs with which
    the model continues. tokens: for rules on tokens, see `Reads`.
    """

    pairs: Mapping[AttentionRequest, Pairs | Reduced]
    attention: Mapping[AttentionRequest, Float[Tensor, "layer _ head _"]]
    head_outputs: Mapping[int, list[Float[Tensor, "batch position head d_value"]]] = field(
        default_factory=dict
    )
    layers: Sequence[int] = ()
    first_layer: int = 0
    edit: Edit | None = None
    tokens: Int[Tensor, "sequence position"] | None = None
    sequences: slice = field(default_factory=lambda: slice(0, 0))
    padding: Bool[Tensor, "sequence position"] | None = None
    layers_seen: int = 0
    outputs_seen: int = 0

    def layer_of(self, module: nn.Module) -> int:
        """Return the index of the calling layer, which follows from the order of calls.

        Raises InputError where the module states another index, or more layers attend than
        expected.
        """
        if self.layers_seen >= len(self.layers):
            raise InputError(
                f"{type(module).__name__} attends where {len(self.layers)} layers were expected "
                "to, which have all attended: a model whose layers do not each attend once cannot "
                "be recorded exactly"
            )
        layer, self.layers_seen = self.next_layer, self.layers_seen + 1
        # Most attention modules state their layer; the comparison finds models that share one
        # module between layers, or call them in another order.
        claimed = getattr(module, "layer_idx", None)
        # Zamba2 says -1, because its layers share their attention's weights.
        if claimed is not None and claimed >= 0 and claimed != layer:
            raise InputError(
                f"attention layer {claimed} called as number {layer} of one forward pass: a model "
                "whose layers do not each attend once, in order, cannot be recorded exactly"
            )
        return layer

    @property
    def next_layer(self) -> int:
        """The layer that attends next."""
        return self.layers[self.layers_seen]

    def take_scores(self, layer: int, scored: "Scored") -> None:
        """Fill in the requested attention of one layer."""
        for request, pairs in self.pairs.items():
            target = self.attention[request][layer, self.sequences]
            if not isinstance(pairs, Pairs):
                self._fill_reduced(target, pairs, scored)
                continue
            if pairs.first < target.shape[-1]:
                keys = pairs.keys(target.shape[-1], self.sequences, scored.q.device)
                target[..., pairs.first :] = scored.probabilities(pairs, keys)
            self._blank(target, pairs)

    def take_weights(self, layer: int, weights: Float[Tensor, "batch head query key"]) -> None:
        """Fill in the requested attention of one layer from its whole matrix."""
        for request, pairs in self.pairs.items():
            target = self.attention[request][layer, self.sequences]
            if not isinstance(pairs, Pairs):
                self._fill_reduced(target, pairs, FromMatrix(weights))
                continue
            keys = pairs.keys(target.shape[-1], self.sequences, weights.device)
            # `gather` does not broadcast; `expand` takes no memory.
            index = keys[:, None, :, None].expand(*weights.shape[:2], -1, -1)
            target[..., pairs.first :] = weights[:, :, pairs.first :].gather(3, index)[..., 0]
            self._blank(target, pairs)

    def take_output(
        self,
        layer: int,
        out: Float[Tensor, "batch position head d_value"],
        reads: Reads | None = None,
    ) -> Float[Tensor, "batch position head d_value"]:
        """Record a layer's per-head outputs; return those with which the model continues."""
        if self.edit is not None:
            out = self.edit.applied(layer, out, self.sequences, reads)
        if layer in self.head_outputs:
            wide = torch.promote_types(out.dtype, torch.float32)
            # A copy, even on the CPU: the model may overwrite its own buffer in place.
            self.head_outputs[layer].append(out.to("cpu", wide, copy=True))
        self.outputs_seen += 1
        return out

    def reads(
        self, scored: "Scored", value: Float[Tensor, "batch kv_head key d_value"]
    ) -> Reads | None:
        """Return what the heads of one layer read, where the change keeps a part of it."""
        if self.edit is None or not self.edit.takes_parts:
            return None
        assert self.tokens is not None
        return Reads(scored, value, self.tokens[self.sequences].to(value.device))

    def _fill_reduced(
        self, target: Float[Tensor, "sequence head _"], request: Reduced, attention: Attention
    ) -> None:
        # A corner has fewer sequences than its input, so that later batches have none of them.
        if len(target):
            defined = None if self.padding is None else ~self.padding[self.sequences]
            target[:] = reduced(request, attention, defined)[: len(target)]

    def _blank(self, target: Float[Tensor, "sequence head query"], pairs: Pairs) -> None:
        for undefined in (pairs.undefined, self.padding):
            if undefined is not None:
                target.masked_fill_(undefined[self.sequences, None], torch.nan)


class Scored(FromScores):
    """The queries, keys, mask and log-sum-exp of one layer's attention."""

    def probabilities(
        self, pairs: Pairs, keys: Int[Tensor, "#batch query"]
    ) -> Float[Tensor, "batch head query"]:
        """Return exp(score - lse) for the queries from `pairs.first` on, each with its key."""
        # With grouped queries (GQA), heads [kv_head, group] broadcast over the keys they share.
        q = self.q[:, :, pairs.first :].unflatten(1, (self.k.shape[1], -1))
        k = self._keys(pairs, keys)[:, :, None]
        # Fused kernels accumulate half-precision scores in float32, and so is their log-sum-exp.
        if q.dtype in (torch.float16, torch.bfloat16):
            q, k = q.float(), k.float()
        scores = torch.linalg.vecdot(q, k).flatten(1, 2).mul_(self.scale)
        scores = capped(scores, self.softcap)
        if self.mask is not None:
            queries = torch.arange(pairs.first, self.q.shape[2], device=q.device)
            scores = scores + self.mask.pairs(queries, keys, scores.dtype)
        return (scores - self.lse[..., pairs.first :]).exp_()

    def _keys(
        self, pairs: Pairs, keys: Int[Tensor, "#batch query"]
    ) -> Float[Tensor, "batch kv_head #query d_head"]:
        length = self.k.shape[2]
        if pairs.lag is not None:
            return self.k[:, :, pairs.first - pairs.lag : length - pairs.lag]
        if pairs.key is not None:
            return self.k[:, :, pairs.key : pairs.key + 1]
        # `index_select` copies whole rows: many times faster than `take_along_dim`, which copies
        # single numbers.
        batch, heads, _, width = self.k.shape
        rows = torch.arange(batch * heads, device=keys.device).view(batch, heads, 1) * length
        chosen = self.k.reshape(-1, width).index_select(0, (rows + keys[:, None]).flatten())
        return chosen.view(batch, heads, -1, width)


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


def blank(
    requests: Iterable[AttentionRequest], shape: tuple[int, int, int, int], dtype: torch.dtype
) -> dict[AttentionRequest, Float[Tensor, "layer _ head _"]]:
    """Return a record's attention before the first batch: a tensor of NaN for each request.

    shape: layers, sequences, heads, queries.
    """
    shapes = {request: _shape(request, shape) for request in requests}
    return {r: torch.full(of, torch.nan, dtype=dtype) for r, of in shapes.items()}


def _shape(request: AttentionRequest, shape: tuple[int, int, int, int]) -> tuple[int, ...]:
    layers, sequences, heads, _ = shape
    match request:
        case LagMeans(n_lags):
            return (layers, sequences, heads, n_lags)
        case Corner(first, length):
            return (layers, min(first, sequences), heads, length**2)
    return shape


# Both registries are global to the process. Without a mask function of the same name, transformers
# would pass the attention function no mask at all.
AttentionInterface.register(NAME, attention_function)
AttentionMaskInterface.register(NAME, make_mask)
