"""Excluded loss: train loss without single frequencies, and without other key frequencies."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.measures.base import Context, Reference
from pipeline.measures.modular import fourier
from pipeline.measures.modular.keys import key_frequencies
from pipeline.measures.modular.pairs import PairTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable

_NANDA = "Nanda et al. 2023, Progress measures for grokking, section 5.1"
_CODE = "the code published with Nanda et al. 2023"

# float64 ends at 2.2e-308 (normal numbers): sums below this may have lost terms to underflow.
_SMALLEST = 1e-280


class ExcludedLoss(TableMeasure):
    """Excluded loss frequency by frequency, its maximum, and with other key frequencies.

    Notation of `modular_addition`, whose `excluded_loss` (all key frequencies of W_L at once) is
    the main variant. All are mean losses over the train pairs; the projection of the logits of all
    pairs on cos(w_k s) and sin(w_k s) is removed from them.

    - `by_frequency[k]`: without frequency k, for every k from 1 to (p - 1) / 2 (p / 2 where p is
      even), key or not.
    - `largest`: the maximum of these over all k, which needs no choice of key frequencies.
    - `embedding_keys`, `cluster_keys`: without all key frequencies at once, by the other two rules
      of `key_frequencies`, from the last checkpoint.

    NaN for operations other than add, subtract and multiply mod a prime, and with a rule whose key
    frequencies are not defined because the last checkpoint is not finite. Departures: the authors'
    code evaluates key frequencies only and in float32.
    """

    name = "excluded_loss"
    version = 3
    reference_from = "last"
    needs_neurons = True
    variables = (
        Variable("by_frequency", ("step", "frequency"), "nats",
                 "Loss on the train pairs without one frequency.", _CODE, dtype="float64"),
        Variable("largest", ("step",), "nats",
                 "The largest loss on the train pairs without any one frequency.",
                 _NANDA + ", footnote 3", dtype="float64"),
        Variable("embedding_keys", ("step",), "nats",
                 "Loss on the train pairs without the key frequencies of the embedding.", _NANDA,
                 dtype="float64"),
        Variable("cluster_keys", ("step",), "nats",
                 "Loss on the train pairs without the key frequencies of the neuron clusters.",
                 _CODE, dtype="float64"),
    )  # fmt: skip
    needs_waves = tuple(variable.name for variable in variables)

    def reference(self, context: Context) -> Reference:
        return key_frequencies(PairTable.of(context.record), context.weights, self.key_share)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        table = PairTable.of(context.record)
        frequencies = range(1, fourier.n_frequencies(table.p) + 1)
        if not table.has_waves:
            undefined = {variable.name: np.array(np.nan) for variable in self.variables}
            return undefined | {"by_frequency": np.full(len(frequencies), np.nan)}
        waves = torch.stack([fourier.projected(table.by_answer, [k]) for k in frequencies])
        by_frequency = train_losses_without(table, waves)
        values = {"by_frequency": by_frequency, "largest": by_frequency.max()}
        for rule, name in (("embedding", "embedding_keys"), ("clusters", "cluster_keys")):
            values[name] = _without_keys(table, context.reference[rule])
        return {name: value.cpu().numpy() for name, value in values.items()}


def _without_keys(table: PairTable, keys: list[int] | None) -> Float[Tensor, ""]:
    if keys is None:
        return torch.tensor(torch.nan, dtype=torch.float64)
    return table.train_loss_without(fourier.projected(table.by_answer, keys))


def train_losses_without(
    table: PairTable, waves: Float[Tensor, "frequency answer residue"]
) -> Float[Tensor, " frequency"]:
    """Return the mean train loss with each of several functions of the answer removed.

    As exp(l - wave) = exp(l) exp(-wave), the sums over residues are matrix products, one for each
    answer, instead of an exponential for every pair, residue and frequency. Where they would leave
    the range of float64, each loss is computed separately instead.
    """
    margins, own = _train_margins(table)
    # Relative to the answer's own logit, of which the loss depends on differences only.
    removed = waves - waves.diagonal(dim1=1, dim2=2)[:, :, None]
    top = margins.amax(dim=2, keepdim=True)
    # Both exponents are shifted to at most 0, so that no term overflows.
    shift = -removed.amin(dim=2)
    kept = (-removed - shift[:, :, None]).exp().permute(1, 2, 0)
    sums = (margins - top).exp() @ kept  # [answer, pair, frequency]
    if sums[own].min() < _SMALLEST:
        return torch.stack([table.train_loss_without(wave) for wave in waves])
    others = sums.log() + top + shift.T[:, None, :]
    return torch.logaddexp(others, torch.zeros_like(others))[own].mean(dim=0)


def _train_margins(
    table: PairTable,
) -> tuple[Float[Tensor, "answer pair residue"], Bool[Tensor, "answer pair"]]:
    """Return l_c - l_answer of the train pairs by answer, and a mask of the filled places.

    Answers have different numbers of pairs, hence places without a pair. The answer's own margin is
    -inf, so that it is left out of every sum over the others.
    """
    answers = table.answers[table.is_train]
    order = answers.argsort(stable=True)
    counts = table.train_pairs.long()
    place = (
        torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[answers[order]]
    )
    logits = table.logits[table.is_train][order]
    own = torch.zeros(table.p, int(counts.max()), dtype=torch.bool, device=order.device)
    own[answers[order], place] = True
    margins = logits.new_zeros(*own.shape, table.p)
    margins[answers[order], place] = logits - logits.gather(1, answers[order][:, None])
    itself = torch.arange(table.p, device=order.device)
    margins[itself, :, itself] = -torch.inf
    return margins, own
