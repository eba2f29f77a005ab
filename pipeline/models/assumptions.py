"""What measures assume of a model's form beyond what it computes; `engine/form.py` checks it."""

from collections.abc import Iterable, Mapping

# Each assumption with what it says. "matrices" is part of every other one.
ASSUMPTIONS: dict[str, str] = {
    "matrices": "the model's matrices are where this program reads them",
    "embedding": "a token adds its row of W_E to the stream, times a known factor",
    "unembedding": "the final norm, W_U and b_U make the model's logits from the last stream",
    "queries_keys": "W_Q and W_K make queries and keys, up to the factor of a norm",
    "values_outputs": "W_V makes the heads' outputs, and W_O the attention's from those",
    "stream": "a block adds z W_O of each head (or of all, normed) to the stream",
}
HEADS = frozenset({"values_outputs", "stream"})

# Of a model by the name of the assumption: why it does not hold. Empty where all hold.
Unmet = Mapping[str, str]


def reason(unmet: Unmet, assumed: Iterable[str]) -> str:
    """Why a number that rests on these assumptions is undefined; "" where it is defined."""
    names = sorted(assumed)
    return next((unmet[name] for name in ("matrices", *names) if names and name in unmet), "")
