"""Agreement of head scores between two corpora: a check against artefacts of one corpus."""

import numpy as np
from jaxtyping import Float

from pipeline.engine.defined import defined_lags
from pipeline.engine.record import Entropy, KeyPosition, LagMeans, Pass, Record
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.sink import mean_after_the_first
from pipeline.schema import Variable

_BOLUKBASI = "Bolukbasi et al. 2021, An Interpretability Illusion for BERT"
_LAGS = LagMeans(2)  # lags 0 and 1: the query itself and the previous token
_BY_HEAD = ("step", "head_score", "layer", "head")
_SCORES = ("current_token", "previous_token", "first_token", "entropy")


class CorpusAgreement(Measure):
    """Four attention scores of every head on two corpora, and how well they agree over heads.

    `here` on the measure's own input, `there` on the input named by `other`, which the
    configuration defines: mean attention to the query's own position and to the previous token
    (over queries that have one), to the first token, and the entropy of attention (over all queries
    but the first; see `sink`). Over all heads of the model,

        correlation = Pearson's r of here and there,    difference = mean of |here - there|

    A score that is a property of the head, and not of the corpus, has r near 1 and a small
    difference. NaN for r where a score is the same in all heads. Padding does not count.
    """

    name = "corpus_agreement"
    version = 2
    default_input = "text"
    needs_heads = True
    variables = (
        Variable("here", _BY_HEAD, "1", "The score on the measure's own input (entropy in nats)."),
        Variable("there", _BY_HEAD, "1", "The score on the other input (entropy in nats)."),
        Variable("correlation", ("step", "head_score"), "1",
                 "Pearson correlation of the two over all heads.", _BOLUKBASI),
        Variable("difference", ("step", "head_score"), "1",
                 "Mean absolute difference of the two over all heads."),
    )  # fmt: skip

    other: str = "other_text"

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """The second corpus."""
        return (self.other,)

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass on each corpus."""
        wanted = frozenset({_LAGS, KeyPosition(0), Entropy()})
        return tuple(Pass(name, attention=wanted) for name in (setting.input.name, self.other))

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the names of the scores."""
        return {"head_score": np.array(_SCORES)}

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        here, there = (_scores(record) for record in context.records)
        layers = list(context.model.attention_layers)
        x, y = here[:, layers], there[:, layers]
        return {
            "here": here,
            "there": there,
            "correlation": np.array([correlation(a, b) for a, b in zip(x, y, strict=True)]),
            "difference": np.abs(x - y).mean(axis=(1, 2)),
        }


def _scores(record: Record) -> Float[np.ndarray, "head_score layer head"]:
    by_sequence = record.attention[_LAGS].double().numpy()
    defined = defined_lags(_LAGS.n_lags, record.input)
    own, previous = (by_sequence[..., k][:, defined[:, k]].mean(axis=1) for k in range(2))
    first, entropy = (mean_after_the_first(record, of) for of in (KeyPosition(0), Entropy()))
    return np.stack([own, previous, first, entropy])


def correlation(a: Float[np.ndarray, "*heads"], b: Float[np.ndarray, "*heads"]) -> float:
    """Return Pearson's r over all entries; NaN where one of the two is constant or not finite."""
    # Not `np.corrcoef`, which warns where one of the two is constant.
    x, y = a.ravel() - a.mean(), b.ravel() - b.mean()
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norms) if 0 < norms < np.inf else np.nan
