"""Key frequencies of a model, by each of the published rules."""

import torch

from pipeline.inputs import Input
from pipeline.measures.base import Reference
from pipeline.measures.modular import fourier
from pipeline.measures.modular.elements import acting_weights, has_waves, why_no_waves
from pipeline.measures.modular.pairs import PairTable
from pipeline.models.residues import ResidueWeights
from pipeline.models.weights import Weights


def key_frequencies_by_neuron_logit(acting: ResidueWeights, share: float) -> list[int] | None:
    """Return the frequencies whose power in W_L is at least `share` of the largest."""
    return fourier.largest(fourier.power(acting.W_L.T), share)


def key_frequencies_by_embedding(acting: ResidueWeights) -> list[int] | None:
    """Return the frequencies whose cosine or sine norm in W_E is at least 1/4 of the largest.

    The rule of TransformerLens' Grokking_Demo.
    """
    squared = fourier.component_norms(acting.W_E).square()
    best = torch.stack([part.amax() for part in squared.split(2)])
    return fourier.largest(best, 1 / 16)  # 1/4 of the norms, squared


def main_key_frequencies(made: Input, weights: Weights, share: float) -> Reference:
    """Return the reference of measures that use the key frequencies of one checkpoint, by W_L.

    `key_frequencies` is empty where they are not defined, and `undefined` says why.
    """
    if not has_waves(made):
        return {"key_frequencies": [], "undefined": why_no_waves(made)}
    keys = key_frequencies_by_neuron_logit(acting_weights(made, weights), share)
    if keys is None:
        return {"key_frequencies": [], "undefined": "W_L of the last checkpoint is not finite"}
    return {"key_frequencies": keys}


def defined_keys(reference: Reference) -> list[int] | None:
    """Return the key frequencies of `main_key_frequencies`; None where they are not defined."""
    return None if reference.get("undefined") else list(reference["key_frequencies"])


def key_frequencies(
    table: PairTable, weights: Weights, share: float
) -> dict[str, list[int] | None]:
    """Return the key frequencies of one checkpoint, by each of the rules.

    None where they are not defined: for operations without waves in the answer, and where the
    numbers that a rule uses are not finite.
    """
    if not table.has_waves:
        return dict.fromkeys(("neuron_logit", "embedding", "clusters"))
    acting = table.acting(weights)
    return {
        "neuron_logit": key_frequencies_by_neuron_logit(acting, share),
        "embedding": key_frequencies_by_embedding(acting),
        "clusters": table.neuron_waves.key_frequencies,
    }
