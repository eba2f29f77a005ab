"""The directions of the final circuit in the embeddings of earlier steps."""

from base64 import b64decode, b64encode

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.record import Pass
from pipeline.measures.base import Context, Reference, Setting
from pipeline.measures.modular import fourier
from pipeline.measures.modular.elements import acting_weights
from pipeline.measures.modular.keys import defined_keys, main_key_frequencies
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable


class LotteryTicket(TableMeasure):
    """Power of every step's embedding along the final sine and cosine directions.

    "multiply" with p prime: of nonzero residues by their discrete logarithms, as in
    `modular_addition`. For each frequency k the last checkpoint's W_E has a direction for the
    cosine, d = sum_x cos(w_k x) W_E[x] / |.|, and one for the sine. At a step, f[x] = W_E[x] . d is
    a function on the residues with a Fourier power P_j at every frequency j.

    - `power_ratio[k]`: P_k over the mean power of the p - 1 non-constant components (in proportion,
      where k has two of them), averaged over the two directions. A direction drawn at random has 1
      on average.
    - `rank[k]`: 1 + how many frequencies have more power than k, averaged over the two; at random
      (n + 1) / 2 on average, n = (p - 1) / 2 (p / 2 where p is even).
    - `mean_power_ratio`, `mean_rank`: averages over the key frequencies of the last checkpoint (by
      W_L, as in `modular_addition`).
    - `other_power_ratio`, `other_rank`: averages over all other frequencies.
    - `keys_above_others`: the share of all pairs of a key and another frequency in which the key
      one has the greater `power_ratio` (equal ones count half). 0.5 where key frequencies are like
      the others, 1 where each is above all others.

    A ratio above 1 at step 0 does not show that the initial weights selected a frequency: the
    remainder of these weights in the final W_E is along its directions at every frequency, key or
    not. The null for the key frequencies is therefore the other frequencies of the same run:
    `keys_above_others` at step 0 answers the question. With 4 key frequencies of 56, its standard
    deviation by chance alone is 0.15.

    NaN: where W_E of the last checkpoint has no component at k, or W_E of the step is zero along
    it; `keys_above_others` and the averages where there is no key or no other frequency, and for
    operations other than add, subtract and multiply mod a prime (which have no key frequencies);
    all where the last checkpoint's W_E is not finite. The last W_E is kept in float32, as most
    checkpoints have it.
    """

    name = "lottery_ticket"
    version = 3
    reference_from = "last"
    needs_waves = (
        "mean_power_ratio",
        "mean_rank",
        "other_power_ratio",
        "other_rank",
        "keys_above_others",
    )
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
        Variable("other_power_ratio", ("step",), "1",
                 "`power_ratio` averaged over the other frequencies.", dtype="float64"),
        Variable("other_rank", ("step",), "1", "`rank` averaged over the other frequencies.",
                 dtype="float64"),
        Variable("keys_above_others", ("step",), "1",
                 "Share of pairs of a key and another frequency in which the key one has the "
                 "greater `power_ratio`; 0.5 by chance.", dtype="float64"),
    )  # fmt: skip

    def why_undefined(self, setting: Setting) -> str:
        """Return the reason that depends on the operation, or that there is only one frequency."""
        p = setting.input.attributes["p"]
        if (reason := super().why_undefined(setting)) or fourier.n_frequencies(p) > 1:
            return reason
        return (
            "other_power_ratio, other_rank, keys_above_others: NaN, because the residues mod "
            f"{p} have one frequency and so no other"
        )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return an empty pass: the measure reads weights, and the operation of the table."""
        return (Pass(setting.input.name),)

    def reference(self, context: Context) -> Reference:
        keys = main_key_frequencies(context.input, context.weights, self.key_share)
        return {**keys, "embedding": encoded(acting_weights(context.input, context.weights).W_E)}

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        W_E = acting_weights(context.input, context.weights).W_E
        last = decoded(context.reference["embedding"], W_E.shape).to(W_E)
        ratio, rank = _power_and_rank(W_E, last)
        keys = defined_keys(context.reference)
        is_key = np.isin(np.arange(1, len(ratio) + 1), keys or [])
        others = ~is_key if keys is not None else is_key
        values = {
            "power_ratio": ratio,
            "rank": rank,
            "mean_power_ratio": _mean(ratio[is_key]),
            "mean_rank": _mean(rank[is_key]),
            "other_power_ratio": _mean(ratio[others]),
            "other_rank": _mean(rank[others]),
            "keys_above_others": share_above(ratio[is_key], ratio[others]),
        }
        return {name: np.asarray(value) for name, value in values.items()}


def encoded(matrix: Float[Tensor, "residue d_model"]) -> str:
    """Return a matrix as base64 of its entries in float32, little-endian, row by row."""
    # References are JSON, in which the digits of a list of numbers take several times the space.
    return b64encode(matrix.cpu().numpy().astype("<f4").tobytes()).decode()


def decoded(text: str, shape: tuple[int, ...]) -> Float[Tensor, "residue d_model"]:
    """Return the matrix of that shape that was encoded by `encoded`."""
    # `frombuffer` is read-only, which torch does not support.
    return torch.from_numpy(np.frombuffer(b64decode(text), "<f4").reshape(shape).copy())


def share_above(keys: Float[np.ndarray, " key"], others: Float[np.ndarray, " other"]) -> float:
    """Return the share of pairs in which the key is above the other; equal ones count half.

    NaN where there is no pair, or a number is not finite.
    """
    difference = keys[:, None] - others
    if not difference.size or not np.isfinite(difference).all():
        return np.nan
    return float(((np.sign(difference) + 1) / 2).mean())


def _mean(values: Float[np.ndarray, " frequency"]) -> float:
    return float(values.mean()) if len(values) else np.nan


def _power_and_rank(
    W_E: Float[Tensor, "residue d_model"], last: Float[Tensor, "residue d_model"]
) -> tuple[Float[np.ndarray, " frequency"], Float[np.ndarray, " frequency"]]:
    """Return power over chance, and rank, of each frequency along its final directions."""
    p, n = len(W_E), fourier.n_frequencies(len(W_E))
    waves = fourier.fourier_basis(p)[1:].to(W_E.device) @ last
    along = W_E @ (waves / waves.norm(dim=1, keepdim=True)).T
    power = fourier.powers(along)  # [frequency, direction]
    # Directions are cos 1, sin 1, cos 2, ...; for even p the last one has no sine.
    of = torch.arange(p - 1, device=W_E.device) // 2  # the frequency of each direction
    own, components = power.gather(0, of[None])[0], torch.bincount(of, minlength=n)
    ratio = own / power.sum(dim=0) * (p - 1) / components[of]
    above = 1.0 + (power > own).sum(dim=0).double()
    rank = torch.where(ratio.isfinite(), above, torch.nan)
    means = (x.new_zeros(n).index_add(0, of, x) / components for x in (ratio, rank))
    ratio, rank = (mean.cpu().numpy() for mean in means)
    return ratio, rank
