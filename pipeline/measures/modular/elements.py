"""The elements of a table in the order in which its operation adds or subtracts their indices."""

from collections.abc import Sequence

from pipeline.inputs import Input
from pipeline.inputs.operations import elements_in_order
from pipeline.models.residues import ResidueWeights, residue_weights
from pipeline.models.weights import Weights


def order_of(made: Input) -> Sequence[int] | None:
    """Return `elements_in_order` of a table's operation."""
    return elements_in_order(made.attributes["p"], made.attributes["operation"])


def has_waves(made: Input) -> bool:
    """Return whether the answer is the sum or difference of indices of a and b.

    Then cos(w_k(a + b)) is a function of the answer.
    """
    return order_of(made) is not None


def in_natural_order(made: Input) -> bool:
    """Return whether the elements that are kept are all residues, from 0."""
    order = order_of(made)
    return order is None or len(order) == made.attributes["p"]


def why_no_waves(made: Input) -> str:
    """Return why the operation of a table that lacks `has_waves` has no waves in the answer."""
    operation, p = made.attributes["operation"], made.attributes["p"]
    if operation == "multiply":
        return f"p = {p} is not prime, so that its residues have no discrete logarithms"
    return (
        f"for the operation {operation!r} no wave in one linear combination of a and b, or of "
        "their discrete logarithms, gives the answer, as it does for add, subtract and multiply"
    )


def acting_weights(made: Input, weights: Weights) -> ResidueWeights:
    """Return W_E, W_out and W_U, the elements in the order of `PairTable`."""
    return residue_weights(weights, order_of(made))
