"""Observe queries, keys, heads' outputs and streams in one pass over sequences of one token."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.engine import attention
from pipeline.engine.attention_hooks import hooked
from pipeline.engine.recorder import Recorder, Scored
from pipeline.engine.streams import watched_stream
from pipeline.models.circuits import Stream
from pipeline.models.families import Family
from pipeline.models.layers import uses_interface
from pipeline.models.resident import Resident


@dataclass
class _Seen(Recorder):
    """A recorder that also keeps queries and keys, of models that use `attention_function`."""

    queries: dict[int, Float[Tensor, "token head d_head"]] = field(default_factory=dict)
    keys: dict[int, Float[Tensor, "token head d_head"]] = field(default_factory=dict)

    def take_scores(self, layer: int, scored: Scored) -> None:
        # One key per query head, as circuits have them, also where heads share keys.
        repeated = scored.k.repeat_interleave(scored.q.shape[1] // scored.k.shape[1], dim=1)
        self.queries[layer], self.keys[layer] = scored.q[:, :, 0], repeated[:, :, 0]


@dataclass(frozen=True)
class Observed:
    """The activations of one forward pass over sequences of one token.

    normed: the streams after the layers' norms, without gain and bias. z: the heads' outputs before
    W_O. written: the output of W_O, and of the norm after it, if any.
    """

    streams: dict[int, Float[Tensor, "token d_model"]]
    normed: dict[int, Float[Tensor, "token d_model"]]
    z: dict[int, Float[Tensor, "token head d_head"]]
    queries: dict[int, Float[Tensor, "token head d_head"]]
    keys: dict[int, Float[Tensor, "token head d_head"]]
    written: dict[int, Float[Tensor, "token d_model"]]
    logits: Float[Tensor, "token vocabulary"]


def observed(
    resident: Resident,
    family: Family,
    tokens: Int[Tensor, " token"],
    norm: Callable[[Stream], Stream],
) -> Observed:
    """Return the activations of a model on these tokens, each a sequence.

    norm: the layers' norm, without gain and bias.
    """
    module, layers = resident.module, resident.facts.attention_layers
    n = resident.facts.n_layers
    streams: dict[int, list[Float[Tensor, "token position d_model"]]] = {
        k: [] for k in range(n + 1)
    }
    recorder = _Seen({}, {}, head_outputs={k: [] for k in layers})
    recorder.sequences = slice(0, len(tokens))
    written: dict[int, Float[Tensor, "token d_model"]] = {}
    with ExitStack() as stack:
        stack.enter_context(watched_stream(module, n, streams))
        stack.enter_context(attention.recording(recorder, layers))
        if layers and not uses_interface(module):
            stack.enter_context(hooked(module, resident.facts.n_heads))
        for k in layers:
            stack.callback(_watch_output(module, family, k, written).remove)
        logits = module(input_ids=tokens[:, None], use_cache=False).logits[:, 0]
    x = {k: of[0][:, 0] for k, of in streams.items()}
    return Observed(
        streams=x,
        normed={k: norm(x[k]) for k in x},
        z={k: of[0][:, 0] for k, of in recorder.head_outputs.items()},
        queries=recorder.queries,
        keys=recorder.keys,
        written=written,
        logits=logits,
    )


def _watch_output(
    module: nn.Module,
    family: Family,
    layer: int,
    written: dict[int, Float[Tensor, "token d_model"]],
) -> torch.utils.hooks.RemovableHandle:
    name = family.output_norm or family.output
    part = module.get_submodule(f"{family.layer.format(layer)}.{name}")
    return part.register_forward_hook(
        lambda _, __, output: written.update({layer: output.flatten(0, 1)})
    )
