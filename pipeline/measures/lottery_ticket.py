"""Whether the directions of the final circuit were already in the initial embedding."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.record import Pass, Record
from pipeline.measures.base import Reference, Setting
from pipeline.models.loading import Weights
from pipeline.models.residues import ResidueWeights, residue_weights
from pipeline.modular import fourier
from pipeline.modular.table import TableMeasure, key_frequencies_by_neuron_logit
from pipeline.schema import Variable


class LotteryTicket(TableMeasure):
    """The final sine and cosine directions, read off the embedding of every step.

    For each key frequency k of the last checkpoint (by W_L, as in `modular_addition`) the last
    checkpoint's W_E has a direction for the cosine, d = sum_x cos(w_k x) W_E[x] / |.|, and one for
    the sine. At a step, f[x] = W_E[x] . d is a function on the residues with a Fourier power P_j at
    every frequency j.

    - `power_ratio[k]`: (P_k / sum_j P_j) / chance, averaged over the two directions; chance is k's
      share of the p - 1 non-constant components, 2 / (p - 1). A direction drawn at random has 1 on
      average.
    - `rank[k]`: 1 + how many frequencies have more power than k, averaged over the two; at random
      (n + 1) / 2 on average, n = (p - 1) / 2 (p / 2 where p is even).
    - `mean_power_ratio`, `mean_rank`: averages over the key frequencies.

    Step 0 answers the question; the last step is the upper bound. NaN for frequencies that are not
    key, and where W_E is zero along d.
    """

    name = "lottery_ticket"
    version = 1
    reference_from = "last"
    variables = (
        Variable("power_ratio", ("step", "frequency"), "1",
                 "Power at k of the embedding along the final directions of k, over chance.",
                 dtype="float64"),
        Variable("rank", ("step", "frequency"), "1",
                 "Rank of k in the spectrum of the embedding along the final directions of k.",
                 dtype="float64"),
        Variable("mean_power_ratio", ("step",), "1",
                 "`power_ratio` averaged over the key frequencies.", dtype="float64"),
        Variable("mean_rank", ("step",), "1", "`rank` averaged over the key frequencies.",
                 dtype="float64"),
    )  # fmt: skip

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """None: it reads weights only."""
        return ()

    def reference(self, records: tuple[Record, ...], weights: Weights) -> Reference:
        """The key frequencies, and for each its two unit vectors in the residual stream."""
        acting = residue_weights(weights)
        keys = key_frequencies_by_neuron_logit(acting, self.key_share)
        return {"key_frequencies": keys, "directions": [_directions(acting, k) for k in keys]}

    def compute(
        self, records: tuple[Record, ...], weights: Weights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """See the class."""
        assert reference is not None
        W_E = residue_weights(weights).W_E
        count = fourier.n_frequencies(len(W_E))
        ratio, rank = np.full(count, np.nan), np.full(count, np.nan)
        spectra = _spectra(W_E, reference["directions"])
        for k, spectrum in zip(reference["key_frequencies"], spectra, strict=True):
            ratio[k - 1], rank[k - 1] = _standing(spectrum, k, len(W_E))
        keys = [k - 1 for k in reference["key_frequencies"]]
        return {
            "power_ratio": ratio,
            "rank": rank,
            "mean_power_ratio": np.asarray(ratio[keys].mean() if keys else np.nan),
            "mean_rank": np.asarray(rank[keys].mean() if keys else np.nan),
        }


def _directions(acting: ResidueWeights, k: int) -> list[list[float]]:
    waves = fourier.waves_of(len(acting.W_E), [k]).to(acting.W_E.device) @ acting.W_E
    return (waves / waves.norm(dim=1, keepdim=True)).tolist()


def _spectra(
    W_E: Float[Tensor, "residue d_model"], directions: list[list[list[float]]]
) -> list[Float[Tensor, "frequency direction"]]:
    """Power at every frequency of the embedding along each direction, for each key frequency."""
    counts = [len(of_one) for of_one in directions]
    flat = [direction for of_one in directions for direction in of_one]
    along = W_E @ torch.tensor(flat, dtype=W_E.dtype, device=W_E.device).view(-1, W_E.shape[1]).T
    return list(fourier.powers(along).split(counts, dim=1))


def _standing(
    spectrum: Float[Tensor, "frequency direction"], k: int, p: int
) -> tuple[float, float]:
    """Power at k over chance, and k's rank, averaged over the directions."""
    own, components = spectrum[k - 1], spectrum.shape[1]
    share = own / spectrum.sum(dim=0)
    rank = torch.where(share.isnan(), torch.nan, 1.0 + (spectrum > own).sum(dim=0))
    return float((share * (p - 1) / components).mean()), float(rank.mean())
