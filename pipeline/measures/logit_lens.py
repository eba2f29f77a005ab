"""The logit lens: predictions of the model without its last blocks."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.kernels import capped
from pipeline.engine.record import Pass
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.direct_logits import counted_predictions
from pipeline.models.assumptions import LOGITS, relying
from pipeline.models.circuits import Circuits
from pipeline.models.logit_settings import logit_softcap
from pipeline.models.weights import ModelWeights
from pipeline.schema import Variable

_NOSTALGEBRAIST = "nostalgebraist 2020, Interpreting GPT: the logit lens"
_TOKENS_AT_A_TIME = 256  # each has a row over the whole vocabulary, at every depth


class LogitLens(Measure):
    """Loss of the predictions from the residual stream after k blocks, for every k.

        logits_k = f(x_k) W_U,   loss[k] = mean of -log p_k(next token)
        divergence[k] = mean over predictions of KL(p_n || p_k)

    x_k is the stream after k blocks (0: the embedding, n: all of them), f the model's final norm.
    loss[n] is the model's own loss, divergence[n] is 0. On repeated random tokens only the
    predictions that repetition determines are counted, as in `direct_logits`.

    NaN for model families whose circuits are not defined (see `pipeline.models.circuits`). The
    record holds the stream at every token: choose an input of at most some ten thousand tokens.
    """

    name = "logit_lens"
    version = 1
    default_input = "repeated"
    variables = (
        Variable("loss", ("step", "depth"), "nats",
                 "Mean loss of predictions from the stream at that depth.", _NOSTALGEBRAIST),
        Variable("divergence", ("step", "depth"), "nats",
                 "Mean KL divergence of the final predictions from those at that depth."),
    )  # fmt: skip
    relies_on = relying(loss=LOGITS, divergence=LOGITS)

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass that records the stream at every depth."""
        depths = tuple(range(setting.model.n_layers + 1))
        return (Pass(setting.input.name, hidden_states=depths),)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        model, record = context.circuits, context.record
        counted = torch.from_numpy(counted_predictions(record.input))
        targets = torch.from_numpy(record.input.tokens)[:, 1:][counted]
        streams = [record.hidden_states[k][:, :-1][counted] for k in range(model.n_layers + 1)]
        lens = Lens.of(model, context.weights)
        sums = np.zeros((2, model.n_layers + 1))
        for part in torch.arange(len(targets)).split(_TOKENS_AT_A_TIME):
            sums += lens.sums([stream[part] for stream in streams], targets[part])
        loss, divergence = sums / len(targets)
        return {"loss": loss, "divergence": divergence}


class Lens:
    """The predictions of a model from any residual stream: final norm, W_U, bias and softcap."""

    def __init__(self, model: Circuits, softcap: float | None) -> None:
        self.norm, self.softcap = model.final_norm, softcap
        self.W_U, self.b_U = model.W_U, model.b_U

    @classmethod
    def of(cls, model: Circuits, weights: ModelWeights) -> "Lens":
        """Return the lens of a model, with its logit softcap."""
        return cls(model, logit_softcap(weights.config))

    def log_probabilities(
        self, stream: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token vocabulary"]:
        """Return the log-probability of every next token."""
        logits = self.norm(stream.to(self.W_U)) @ self.W_U + self.b_U
        return capped(logits, self.softcap).log_softmax(-1)

    def sums(
        self, streams: list[Float[Tensor, "token d_model"]], targets: Int[Tensor, " token"]
    ) -> Float[np.ndarray, "2 depth"]:
        """Return losses and divergences at each depth, summed over some tokens in float64."""
        final = self.log_probabilities(streams[-1])
        chosen = targets.to(final.device)[:, None]
        sums = []
        for stream in streams:
            here = self.log_probabilities(stream)
            loss = -here.gather(1, chosen).double().sum()
            # By hand: `torch.nn.functional.kl_div` takes its arguments the other way round.
            divergence = (final.exp() * (final - here)).double().sum()
            sums.append([loss.item(), divergence.item()])
        return np.array(sums).T
