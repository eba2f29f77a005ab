"""Divergence of a model's predictions from tables of unigrams and bigrams."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from pipeline.engine.record import Pass
from pipeline.errors import InputError
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.direct_logits import counted_predictions
from pipeline.measures.logit_lens import Lens
from pipeline.models.assumptions import EMBEDDING, LOGITS, MATRICES, relying
from pipeline.schema import Values, Variable

_ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
_TOKENS_AT_A_TIME = 256  # each has a row over the whole vocabulary, in several copies


class Bigrams(Measure):
    """Divergence of a model's predictions from the unigrams and bigrams of a corpus.

        from_bigrams = mean over predictions of KL(p_model( . | context) || q( . | last token))

    `from_unigrams` is the same with q(y), whatever the last token; early in training a model comes
    close to the unigrams, then to the bigrams, and then departs from both. `direct_path` is the
    divergence from the bigrams of the direct path's prediction from the last token x alone,

        p(y | x) = softmax(f(W_E[x]) W_U)[y],

    with everything that the model applies before its first block and after its last one: W_E[x] is
    multiplied by the embedding's factor if there is one, f is the final norm with its bias, and
    the unembedding's bias and a logit softcap are applied if there are any. No position is added.
    These are the predictions of the model without its blocks. Means over all predictions on the
    measure's input. With counts n over the input named by `corpus`, V ids and `smoothing` s,

        q(y) = (n(y) + 1) / (n + V),    q(y | x) = (n(x, y) + s q(y)) / (n(x) + s)

    so that no pair is impossible. `unigram_loss` and `bigram_loss` are the mean losses, in nats, of
    predicting the input from these tables, a baseline that is the same at all checkpoints.

    Corpus and input may be parts of one text, but not the same part: the table would be tested on
    its own training data. NaN for model families whose circuits are not defined (see
    `pipeline.models.circuits`). The record holds the stream at every token: choose an input of at
    most some ten thousand tokens.
    """

    name = "bigrams"
    version = 2
    default_input = "text"
    variables = (
        Variable("from_unigrams", ("step",), "nats",
                 "Mean KL divergence of the predictions from the corpus's unigrams."),
        Variable("from_bigrams", ("step",), "nats",
                 "Mean KL divergence of the predictions from the corpus's bigrams.", _ELHAGE),
        Variable("direct_path", ("step",), "nats",
                 "Mean KL divergence of the direct path's predictions (embedding, final norm, "
                 "unembedding, softcap) from the bigrams.", _ELHAGE),
        Variable("unigram_loss", ("step",), "nats", "Mean loss of predicting by unigrams."),
        Variable("bigram_loss", ("step",), "nats", "Mean loss of predicting by bigrams."),
    )  # fmt: skip
    relies_on = relying(
        from_unigrams=LOGITS, from_bigrams=LOGITS, direct_path=EMBEDDING | LOGITS,
        unigram_loss=MATRICES, bigram_loss=MATRICES,
    )  # fmt: skip

    corpus: str = "corpus"
    smoothing: float = Field(100.0, gt=0)

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """The corpus in which pairs are counted."""
        return (self.corpus,)

    def check(self, setting: Setting) -> None:
        """Raise InputError where the corpus is the text that is predicted."""
        if setting.others[self.corpus].digest == setting.input.digest:
            raise InputError(
                f"measure 'bigrams': input {setting.input.name!r} and the corpus {self.corpus!r} "
                "are the same tokens, so that the table would be tested on its own training data: "
                "give another text as the corpus"
            )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return a pass that records the last stream, and an empty one on the corpus."""
        layers = setting.model.n_layers
        return (Pass(setting.input.name, hidden_states=(layers,)), Pass(self.corpus))

    def compute(self, context: Context) -> Values:
        model, (record, corpus) = context.circuits, context.records
        counted = torch.from_numpy(counted_predictions(record.input))
        tokens = torch.from_numpy(record.input.tokens)
        last, following = tokens[:, :-1][counted], tokens[:, 1:][counted]
        stream = record.hidden_states[model.n_layers][:, :-1][counted]
        table = BigramTable.of(
            torch.from_numpy(corpus.input.tokens), len(model.W_E), self.smoothing
        )
        lens, W_E = Lens.of(model, context.weights), model.W_E * model.embedding_factor
        sums = np.zeros(5)
        for part in torch.arange(len(last)).split(_TOKENS_AT_A_TIME):
            unigrams, bigrams = table.unigrams.log(), table.bigrams(last[part]).log()
            p = lens.log_probabilities(stream[part]).cpu()
            direct = lens.log_probabilities(W_E[last[part].to(W_E.device)]).cpu()
            chosen = following[part, None]
            of_part = (
                _divergence(p, unigrams),
                _divergence(p, bigrams),
                _divergence(direct, bigrams),
                -unigrams[chosen].double().sum(),
                -bigrams.gather(1, chosen).double().sum(),
            )
            # Sums now, one division at the end: parts may have different sizes.
            sums += [float(one) for one in of_part]
        names = (variable.name for variable in self.variables)
        return dict(zip(names, sums / len(last), strict=True))


@dataclass(frozen=True)
class BigramTable:
    """Counts of pairs of tokens, smoothed towards the frequencies of single tokens.

    A sparse matrix by rows: the pairs with first token x are those from begins[x] to begins[x + 1];
    following: their second tokens; count: how often each occurs.
    """

    unigrams: Float[Tensor, " id"]
    begins: Int[Tensor, " id_and_end"]
    following: Int[Tensor, " pair"]
    count: Float[Tensor, " pair"]
    smoothing: float

    @classmethod
    def of(
        cls, tokens: Int[Tensor, "sequence position"], vocabulary: int, smoothing: float
    ) -> "BigramTable":
        """Count the pairs within sequences, not across their ends."""
        # Add one, so that no token, and with it no pair, has probability 0.
        unigrams = torch.bincount(tokens.flatten(), minlength=vocabulary) + 1.0
        # One integer per pair; sorted by `unique`, the pairs of one first token are contiguous.
        pairs = (tokens[:, :-1] * vocabulary + tokens[:, 1:]).flatten()
        pair, count = pairs.unique(return_counts=True)
        begins = torch.searchsorted(pair, torch.arange(vocabulary + 1) * vocabulary)
        shares = unigrams / unigrams.sum()
        return cls(shares, begins, pair % vocabulary, count.float(), smoothing)

    def bigrams(self, last: Int[Tensor, " token"]) -> Float[Tensor, "token id"]:
        """Return the probabilities of the token that follows each of `last`."""
        rows = (self.smoothing * self.unigrams).repeat(len(last), 1)
        for row, x in zip(rows, last.tolist(), strict=True):
            own = slice(self.begins[x], self.begins[x + 1])
            row[self.following[own]] += self.count[own]
        return rows / rows.sum(dim=1, keepdim=True)


def _divergence(
    log_p: Float[Tensor, "token id"], log_q: Float[Tensor, "*token id"]
) -> Float[Tensor, ""]:
    """Return KL(p || q), summed over tokens in float64."""
    return (log_p.exp() * (log_p - log_q)).double().sum()
