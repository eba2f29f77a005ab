"""What measures assume of a model's form; `engine/form.py` checks it by computing.

A measure names, for each of its variables, what that rests on (`Measure.relies_on`).
"""

from collections.abc import Iterable, Mapping

# Each assumption with what it says.
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
    """Return what each variable of a measure assumes, for `Measure.relies_on`."""
    return assumed


# Of a model by the name of the assumption: why it does not hold. Empty where all hold.
Unmet = Mapping[str, str]


def reason(unmet: Unmet, assumed: Iterable[str]) -> str:
    """Return why a number that rests on these assumptions is undefined; "" where it is defined."""
    return next((unmet[name] for name in ASSUMPTIONS if name in assumed and name in unmet), "")
