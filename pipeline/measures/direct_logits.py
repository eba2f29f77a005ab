"""Contributions of every head, layer and the embedding to the correct token's logit."""

import numpy as np
import torch
from jaxtyping import Bool

from pipeline.engine.record import Pass
from pipeline.inputs import Input
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.blocks import blocks_of
from pipeline.models.assumptions import HEADS_ADD, LOGITS, STREAM, relying
from pipeline.models.readout import Readout, head_shares, shares
from pipeline.schema import Variable

_ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"


class DirectLogits(Measure):
    """Direct logit attribution: the correct next token's logit as a sum over the model's parts.

        logit = embedding + sum over layers (sum over heads by_head + rest) + bias

    Each term is the part of the residual stream that the head (z W_O), the rest of the block (its
    MLP and its biases) or the embedding wrote, divided by the length that the final norm divides
    by, times the correct token's column of W_U; the final norm's gain is folded into W_U, and the
    mean over the vocabulary is removed, so that `logit` is relative to the mean of all logits.
    `bias` is the contribution of the biases of the final norm and the unembedding. A logit softcap
    is left out. Means over all predictions; the parts sum to `logit` exactly.

    On repeated random tokens only the predictions that repetition determines are counted: those
    from the first repeated token of each sequence on. On other inputs, all.

    `by_head` is NaN where there is a norm between the heads and the stream (OLMo 2, Gemma 2 and 3):
    there the heads are part of `rest`. Everything is NaN for model families whose circuits are not
    defined (see `pipeline.models.circuits`). The record holds the stream and all heads' outputs at
    every token: choose an input of at most some ten thousand tokens.
    """

    name = "direct_logits"
    version = 2
    default_input = "repeated"
    variables = (
        Variable("by_head", ("step", "layer", "head"), "nats",
                 "Contribution of the head to the correct token's centred logit.", _ELHAGE),
        Variable("rest", ("step", "layer"), "nats",
                 "Contribution of the rest of the block: its MLP and its biases."),
        Variable("embedding", ("step",), "nats", "Contribution of the embedding."),
        Variable("bias", ("step",), "nats",
                 "Contribution of the biases of the final norm and the unembedding."),
        Variable("logit", ("step",), "nats",
                 "Logit of the correct token relative to the mean of all logits."),
    )  # fmt: skip
    relies_on = relying(
        by_head=HEADS_ADD | LOGITS, rest=STREAM | LOGITS, embedding=STREAM | LOGITS,
        bias=LOGITS, logit=LOGITS,
    )  # fmt: skip

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records the stream at every layer and every head's output."""
        layers = setting.model.n_layers
        return (
            Pass(
                setting.input.name,
                head_outputs=tuple(range(layers)),
                hidden_states=tuple(range(layers + 1)),
            ),
        )

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        model, record = context.circuits, context.record
        readout, tokens = Readout(model), torch.from_numpy(record.input.tokens)
        counted = torch.from_numpy(counted_predictions(record.input))
        targets = tokens[:, 1:][counted]
        stream = [record.hidden_states[k][:, :-1][counted] for k in range(model.n_layers + 1)]
        scale, directions = readout.scale(stream[-1]), readout.directions(targets)
        # Contributions of blocks are differences of streams, so the parts sum to the logit exactly,
        # whatever the family's blocks contain.
        streams = torch.stack([shares(x, directions, scale).double().mean() for x in stream])
        heads = np.full((model.n_layers, model.n_heads), np.nan)
        for layer in range(model.n_layers if not model.heads_are_normed else 0):
            z, W_O = record.head_outputs[layer][:, :-1][counted], model.layer(layer).W_O
            heads[layer] = head_shares(z, W_O, directions, scale).double().mean(0)
        bias = readout.biases(targets).double().mean()
        silent = [k in context.model.without_attention for k in range(model.n_layers)]
        # All that a layer without heads adds is the rest.
        of_heads = np.where(model.heads_are_normed or np.array(silent), 0.0, heads.sum(axis=1))
        return {
            "by_head": heads,
            "rest": streams.diff().numpy() - of_heads,
            "embedding": streams[0].numpy(),
            "bias": bias.numpy(),
            "logit": (streams[-1] + bias).numpy(),
        }


def counted_predictions(made: Input) -> Bool[np.ndarray, "sequence prediction"]:
    """Return a mask of the predictions t -> t + 1 that count, none of them of padding.

    Those at repeated tokens on an input of kind "repeated", all on others.
    """
    sequences, length = made.tokens.shape
    counted = np.ones((sequences, length - 1), dtype=bool)
    if made.kind == "repeated":
        counted &= blocks_of(made).repeated[:, :-1]
    if (mask := made.arrays.get("attention_mask")) is not None:
        counted &= (mask[:, 1:] * mask[:, :-1]).astype(bool)
    return counted
