"""Copying in a head's outputs: its effect on the logits of the tokens that it attends to."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.record import Lag, Pass, Record
from pipeline.measures.base import Context, Measure, NotDefinedError, Setting
from pipeline.measures.blocks import blocks_of
from pipeline.models.assumptions import HEADS_ADD, LOGITS, relying
from pipeline.models.readout import Readout
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
_HEAD = ("step", "layer", "head")


class BehaviouralCopying(Measure):
    """Mean contribution of a head to the logits of the tokens that it attends to.

        score = mean over queries i of  sum_j p[i, j] logit_i(token j)

    where logit_i(x) is the contribution of the head's output at i to the logit of x (through the
    final norm with its scale at i; see `direct_logits`), relative to its mean over the vocabulary.
    BOS is neither a query nor a key. Positive: the head copies. Negative: it suppresses the tokens
    that it attends to, as anti-induction heads do. `null` is the same sum with every token replaced
    by the one at the same position in the next sequence of the input: the head's effect on a token
    that it did not attend to, 0 except for chance.

    Departure from the paper, which scores the share of the logits that are raised: on that scale
    every head that does not copy scores lowest, whether it suppresses or does nothing.

    NaN where there is a norm between the heads and the stream, and for model families whose
    circuits are not defined (see `pipeline.models.circuits`). This measure records every lag: its
    record is quadratic in the sequences' length, which is short for repeated random tokens.
    """

    name = "behavioural_copying"
    version = 1
    default_input = "repeated"
    input_kind = "repeated"
    needs_heads = True
    variables = (
        Variable("score", _HEAD, "nats",
                 "Mean centred logit that a head adds to the tokens it attends to.", _OLSSON),
        Variable("null", _HEAD, "nats",
                 "The same for the tokens at those places in another sequence."),
    )  # fmt: skip
    relies_on = relying(score=HEADS_ADD | LOGITS, null=HEADS_ADD | LOGITS)

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records all attention and every head's output."""
        made, layers = setting.input, setting.model.n_layers
        return (
            Pass(
                made.name,
                attention=frozenset(map(Lag, range(made.tokens.shape[1]))),
                head_outputs=tuple(range(layers)),
                hidden_states=(layers,),
            ),
        )

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        model, record = context.circuits, context.record
        if model.heads_are_normed:
            raise NotDefinedError
        readout, start = Readout(model), blocks_of(record.input).start
        directions = readout.directions(torch.from_numpy(record.input.tokens))
        scale = readout.scale(record.hidden_states[model.n_layers])
        score, null = [], []
        for layer in range(model.n_layers):
            p = matrix(record, layer)[:, :, start:, start:]
            read = torch.einsum(
                "sjm,hdm->shjd", directions[:, start:], model.layer(layer).W_O.cpu()
            )
            z = (record.head_outputs[layer] * scale[..., None, None])[:, start:].transpose(1, 2)
            score.append(_attended(p, z, read))
            # Rolling over sequences keeps position and block structure, and changes the token.
            null.append(_attended(p, z, read.roll(-1, dims=0)))
        return {"score": np.stack(score), "null": np.stack(null)}


def matrix(record: Record, layer: int) -> Float[Tensor, "sequence head query key"]:
    """Return a layer's whole attention matrix, from a record of all its lags."""
    length = record.input.tokens.shape[1]
    first = record.attention[Lag(0)][layer]
    whole = first.new_zeros(*first.shape, length)  # 0 for keys after their query
    for lag in range(length):
        of_lag = record.attention[Lag(lag)][layer][..., lag:]  # NaN for earlier queries
        whole.diagonal(-lag, dim1=-2, dim2=-1).copy_(of_lag)
    return whole


def _attended(
    p: Float[Tensor, "sequence head query key"],
    z: Float[Tensor, "sequence head query d_head"],
    read: Float[Tensor, "sequence head key d_head"],
) -> Float[np.ndarray, " head"]:
    by_query = (p * (z @ read.mT)).sum(-1)
    return by_query.double().mean(dim=(0, 2)).numpy()
