"""The assumptions of measures about a model's form, which `engine/form.py` checks numerically.

A measure names the assumptions of each of its variables in `Measure.relies_on`.
"""

from collections.abc import Iterable, Mapping

# Each assumption by name, as a sentence for messages. The order is that in which they are
# reported: if the matrices are elsewhere, the later ones do not hold either.
ASSUMPTIONS: dict[str, str] = {
    "matrices": "the model's matrices are where this program reads them",
    "embedding": "a token adds its row of W_E to the stream, times a known factor",
    "unembedding": "the final norm, W_U and b_U make the model's logits from the last stream",
    "queries_keys": "W_Q and W_K make queries and keys, up to the factor of a norm",
    "values_outputs": "W_V makes the heads' outputs, and W_O what attention yields from them",
    "stream": "a block adds z W_O of its heads to the stream (where normed: of all together)",
    "heads_apart": "what a head adds to the stream does not depend on the other heads",
}

MATRICES = frozenset({"matrices"})
EMBEDDING = MATRICES | {"embedding"}
LOGITS = MATRICES | {"unembedding"}
QK = MATRICES | {"queries_keys"}
OV = MATRICES | {"values_outputs"}
STREAM = MATRICES | {"stream"}
HEADS_ADD = OV | STREAM | {"heads_apart"}


def relying(**assumed: frozenset[str]) -> Mapping[str, frozenset[str]]:
    """Return the assumptions of each variable of a measure, for `Measure.relies_on`."""
    return assumed


# The assumptions that a model does not meet, each with the reason. Empty if all are met.
Unmet = Mapping[str, str]


def reason(unmet: Unmet, assumed: Iterable[str]) -> str:
    """Return why a number with these assumptions is undefined; "" if it is defined."""
    return next((unmet[name] for name in ASSUMPTIONS if name in assumed and name in unmet), "")
