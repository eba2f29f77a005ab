"""Recorder: what the attention layers of a model yield at the requested query-key pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.engine.head_edits import Edit
from pipeline.engine.kernels import capped
from pipeline.engine.pairs import Pairs
from pipeline.engine.partial_reads import Reads
from pipeline.engine.record import AttentionRequest, Corner, LagMeans, Reduced
from pipeline.engine.reductions import Attention, FromMatrix, FromScores, reduced
from pipeline.errors import InputError


@dataclass
class Recorder:
    """A collector of what the attention layers of one model yield, batch by batch.

    attention: one tensor per request, filled in place; from a GPU when the batch ends, because each
    copy makes it wait. head_outputs: the heads' outputs before W_O, a list of batches for each
    layer among its keys. layers: those that attend, ascending.
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
    # What the layers of one batch share, on the model's device: made by the first that needs it.
    _batch: dict[AttentionRequest, Float[Tensor, "layer _ head _"]] = field(
        default_factory=dict, init=False
    )
    _keys: dict[AttentionRequest, Int[Tensor, "_ _"]] = field(default_factory=dict, init=False)
    _defined: Bool[Tensor, "sequence position"] | None = field(default=None, init=False)

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
            target = self._target(request, layer, scored.q)
            if not isinstance(pairs, Pairs):
                self._fill_reduced(target, pairs, scored)
            elif pairs.first < target.shape[-1]:
                keys = self._keys_of(request, pairs, target)
                target[..., pairs.first :] = scored.probabilities(pairs, keys)

    def take_weights(self, layer: int, weights: Float[Tensor, "batch head query key"]) -> None:
        """Fill in the requested attention of one layer from its whole matrix."""
        for request, pairs in self.pairs.items():
            target = self._target(request, layer, weights)
            if not isinstance(pairs, Pairs):
                self._fill_reduced(target, pairs, FromMatrix(weights))
                continue
            keys = self._keys_of(request, pairs, target)
            # `gather` does not broadcast; `expand` takes no memory.
            index = keys[:, None, :, None].expand(*weights.shape[:2], -1, -1)
            target[..., pairs.first :] = weights[:, :, pairs.first :].gather(3, index)[..., 0]

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

    def end_batch(self) -> None:
        """Enter the attention of a batch in the record; it is NaN where it is not defined."""
        for request, part in self._batch.items():
            target = self.attention[request][:, self.sequences]
            if part.device != target.device:
                target.copy_(part)
            if isinstance(pairs := self.pairs[request], Pairs):
                for undefined in (pairs.undefined, self.padding):
                    if undefined is not None:
                        target.masked_fill_(undefined[self.sequences, None], torch.nan)
        self._batch, self._keys, self._defined = {}, {}, None

    def _target(
        self, request: AttentionRequest, layer: int, like: Float[Tensor, "batch head query _"]
    ) -> Float[Tensor, "sequence head _"]:
        """Return what to fill. Raises InputError for another number of heads than the record's."""
        if request not in self._batch:
            part = self.attention[request][:, self.sequences]
            if like.device != part.device:
                part = torch.full(part.shape, torch.nan, dtype=part.dtype, device=like.device)
            self._batch[request] = part
        target, heads = self._batch[request][layer], like.shape[1]
        if target.shape[1] != heads:
            raise InputError(
                f"layer {layer} attends with {heads} heads, and the model's config names "
                f"{target.shape[1]}: its attention cannot be recorded exactly"
            )
        return target

    def _keys_of(
        self, request: AttentionRequest, pairs: Pairs, target: Float[Tensor, "sequence head query"]
    ) -> Int[Tensor, "_ _"]:
        if request not in self._keys:
            keys = pairs.keys(target.shape[-1], self.sequences, target.device)
            self._keys[request] = keys
        return self._keys[request]

    def _fill_reduced(
        self, target: Float[Tensor, "sequence head _"], request: Reduced, attention: Attention
    ) -> None:
        if self.padding is not None and self._defined is None:
            self._defined = ~self.padding[self.sequences].to(target.device)
        # A corner has fewer sequences than its input, so that later batches have none of them.
        if len(target):
            target[:] = reduced(request, attention, self._defined)[: len(target)]


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
