"""The weights of a model of modular arithmetic that act on residues, by their usual names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from pipeline.errors import InputError
from pipeline.models.facts import ModelFacts
from pipeline.models.weights import Weights

_W_E, _W_U = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class ResidueWeights:
    """W_E, the last layer's W_out, and W_U, in float64 and row convention, without '='."""

    W_E: Float[Tensor, "residue d_model"]
    W_out: Float[Tensor, "neuron d_model"]
    W_U: Float[Tensor, "d_model residue"]

    @cached_property
    def W_L(self) -> Float[Tensor, "neuron residue"]:
        """The neuron-logit map W_out W_U: each neuron's weight in each residue's logit."""
        return self.W_out @ self.W_U


def residue_weights(weights: Weights, order: Sequence[int] | None = None) -> ResidueWeights:
    """Return the weights of a model whose ids are the residues, followed by '='.

    order: the residues to keep, in this order; None: all, from 0.
    """
    ids = list(range(len(weights[_W_E]) - 1) if order is None else order)
    return ResidueWeights(
        W_E=weights[_W_E][ids].double(),
        W_out=weights[_last_w_out(weights)].double().T,
        W_U=weights[_W_U][ids].double().T,
    )


def require_residue_weights(measure: str, facts: ModelFacts, p: int) -> None:
    """Raise InputError unless the model reads p residues and '=' and has the matrices of W_L."""
    if facts.vocabulary != p + 1:
        raise InputError(
            f"measure {measure!r}: the model's vocabulary has {facts.vocabulary} ids, expected "
            f"p + 1 = {p + 1} (the residues and '='): set `p` of the input to "
            f"{facts.vocabulary - 1}, or give the run that belongs to this table"
        )
    named = {_W_E, _W_U} <= set(facts.parameters)
    if not named or _last_w_out(facts.parameters) == "":
        raise InputError(
            f"measure {measure!r}: W_L = W_out W_U needs an MLP and an unembedding of its own, "
            f"which this {facts.architecture} lacks: train with `intermediate_size` above 0, or "
            "leave the measure out"
        )


def _last_w_out(parameters: Iterable[str]) -> str:
    """Return the name of the last layer's W_out, "" if there is no MLP."""
    # Parameters are in the order of the layers.
    names = [name for name in parameters if name.endswith("mlp.down_proj.weight")]
    return names[-1] if names else ""
