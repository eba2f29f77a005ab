"""Restricted loss: the loss with the key frequencies alone, in all its published variants."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pipeline.measures.base import Context, Reference
from pipeline.measures.modular import fourier
from pipeline.measures.modular.keys import key_frequencies
from pipeline.measures.modular.pairs import PairTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.models.weights import Weights
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking, section 5.1"
_CODE = "the code published with Nanda et al. 2023"
_DEMO = "TransformerLens, Grokking_Demo"


class RestrictedLoss(TableMeasure):
    """Restricted loss by split, with and without the mean, at the logits and at the neurons.

    Notation of `modular_addition`, whose `restricted_loss` (all pairs, mean kept) is the main
    variant. R[s] is the projection of the logits of all pairs on cos(w_k s) and sin(w_k s), k in
    the key frequencies K of the last checkpoint; M the mean logits over all pairs.

    - `train`, `test`: mean loss of R + M over the pairs of the split.
    - `all_without_mean`, `train_without_mean`, `test_without_mean`: of R alone.
    - `neurons_test`: the same projection of the MLP's activations (each neuron on its own), carried
      through W_L with the path around the MLP cut, plus M; over the test pairs.
    - `all_embedding_keys`, `all_cluster_keys`: R + M over all pairs with K by the other two rules
      of `key_frequencies`.

    NaN for operations other than add, subtract and multiply mod a prime, and with a rule whose key
    frequencies are not defined because the last checkpoint is not finite. Departures: none of the
    sources states all of rule, split and mean; the names here state them. Losses are in nats,
    forward pass and losses float64.
    """

    name = "restricted_loss"
    version = 3
    reference_from = "last"
    needs_neurons = True
    variables = (
        Variable("train", ("step",), "nats", "Restricted loss on the train pairs.", _CODE,
                 dtype="float64"),
        Variable("test", ("step",), "nats", "Restricted loss on the test pairs.", _CODE,
                 dtype="float64"),
        Variable("all_without_mean", ("step",), "nats",
                 "Restricted loss on all pairs, the mean logits not put back.", _CODE,
                 dtype="float64"),
        Variable("train_without_mean", ("step",), "nats",
                 "Restricted loss on the train pairs, the mean logits not put back.", _CODE,
                 dtype="float64"),
        Variable("test_without_mean", ("step",), "nats",
                 "Restricted loss on the test pairs, the mean logits not put back.", _CODE,
                 dtype="float64"),
        Variable("neurons_test", ("step",), "nats",
                 "Restricted loss on the test pairs, restricted at the neurons, without the path "
                 "around the MLP.", _DEMO, dtype="float64"),
        Variable("all_embedding_keys", ("step",), "nats",
                 "Restricted loss on all pairs, key frequencies by the embedding.", _DEMO,
                 dtype="float64"),
        Variable("all_cluster_keys", ("step",), "nats",
                 "Restricted loss on all pairs, key frequencies by the neuron clusters.", _NANDA,
                 dtype="float64"),
    )  # fmt: skip
    needs_waves = tuple(variable.name for variable in variables)

    def reference(self, context: Context) -> Reference:
        return key_frequencies(PairTable.of(context.record), context.weights, self.key_share)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        table = PairTable.of(context.record)
        values = {variable.name: np.array(np.nan) for variable in self.variables}
        if not table.has_waves:
            return values
        if (keys := context.reference["neuron_logit"]) is not None:
            values |= _by_main_keys(table, context.weights, keys)
        for rule, name in (("embedding", "all_embedding_keys"), ("clusters", "all_cluster_keys")):
            if (keys := context.reference[rule]) is not None:
                values[name] = _with_keys(table, keys).cpu().numpy()
        return values


def _by_main_keys(table: PairTable, weights: Weights, keys: list[int]) -> dict[str, np.ndarray]:
    """Return the variants with the key frequencies of W_L."""
    mean, waves = table.mean_logits, fourier.projected(table.by_answer, keys)
    at_logits, bare = table.loss_by_answer(waves + mean), table.loss_by_answer(waves)
    at_neurons = table.loss_by_answer(_through_neurons(table, weights, keys) + mean)
    values = {
        "train": table.over_train(at_logits),
        "test": table.over_test(at_logits),
        "all_without_mean": bare.mean(),
        "train_without_mean": table.over_train(bare),
        "test_without_mean": table.over_test(bare),
        "neurons_test": table.over_test(at_neurons),
    }
    return {name: value.cpu().numpy() for name, value in values.items()}


def _with_keys(table: PairTable, keys: list[int]) -> Float[Tensor, ""]:
    restricted = fourier.projected(table.by_answer, keys) + table.mean_logits
    return table.loss_by_answer(restricted).mean()


def _through_neurons(
    table: PairTable, weights: Weights, keys: list[int]
) -> Float[Tensor, "answer residue"]:
    """Return the logits of the neurons' waves in the answer, without the path around the MLP."""
    W_L = table.acting(weights).W_L.to(table.neurons.device)
    return fourier.projected(table.mean_by_answer(table.neurons), keys) @ W_L
