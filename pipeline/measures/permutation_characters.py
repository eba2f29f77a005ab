"""Variance of the logits that each irreducible representation of the permutations explains."""

import numpy as np
import torch

from pipeline.inputs.operations import COMPOSE, composition, degree, permutations_of
from pipeline.measures.base import Context, Setting
from pipeline.measures.modular.characters import characters, label, partitions
from pipeline.measures.modular.pairs import WholeTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable

_CHUGHTAI = "Chughtai et al. 2023, A Toy Model of Universality, sections 3 and 5.1"


class PermutationCharacters(TableMeasure):
    """Share of the logits' variance on each irreducible character of a b c^-1.

    For the composition of permutations of n elements; L[a, b, c]: logits of all pairs at '=',
    float64, c among the p = n! permutations. For each irreducible representation r of S_n, by the
    partition of n (such as "3+1"; "4" is the trivial one), with character chi_r:

    - `coefficient[r]`: alpha_r of the least-squares fit L ~ sum_r alpha_r chi_r(a b c^-1).
    - `variance_explained[r]`: alpha_r^2 |chi_r|^2 / |L - mean L|^2, the mean and the norms over all
      a, b and c. The characters are orthogonal, so these add up; NaN for the trivial one, which is
      constant and has no variance.

    NaN, of one representation named "undefined": for all other operations.

    chi_r is largest at a b c^-1 = 1, where c is the answer. A model that implements the algorithm
    "group composition via representations" has logits that are sums of these characters. Its
    analogue for addition is `logit_waves`. Departure: the paper gives the share for the key
    representations together.
    """

    name = "permutation_characters"
    version = 1
    variables = (
        Variable("coefficient", ("step", "irreducible"), "1",
                 "Least-squares coefficient of the logits on the character of a b c^-1.",
                 _CHUGHTAI, dtype="float64"),
        Variable("variance_explained", ("step", "irreducible"), "1",
                 "Share of the logits' variance that the character of a b c^-1 explains.",
                 _CHUGHTAI, dtype="float64"),
    )  # fmt: skip

    def why_undefined(self, setting: Setting) -> str:
        """Return the reason for operations other than the composition of permutations."""
        if _composes(setting):
            return ""
        operation = setting.input.attributes["operation"]
        named = ", ".join(variable.name for variable in self.variables)
        return f"{named}: NaN, because {operation!r} is no composition of permutations"

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the partitions of n; "undefined" for operations that have none."""
        if not _composes(setting):
            return {"irreducible": np.array(["undefined"])}
        shapes = partitions(degree(setting.input.attributes["p"]))
        return {"irreducible": np.array([label(one) for one in shapes])}

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        if not _composes(context.setting):
            return {variable.name: np.array([np.nan]) for variable in self.variables}
        table = WholeTable.of(context.record)
        chi = torch.from_numpy(characters(permutations_of(degree(table.p))))
        logits = table.logits.cpu()
        ratio = torch.from_numpy(_a_b_over_c(table.p))
        by_ratio = torch.zeros(table.p, dtype=torch.float64).index_add(
            0, ratio.flatten(), logits.flatten()
        )
        # Each ratio occurs p^2 times, and |chi_r|^2 over the p of them is p.
        coefficient = chi @ by_ratio / table.p**3
        variance = (logits - logits.mean()).square().mean()
        explained = coefficient.square() / variance
        explained[0] = torch.nan
        return {"coefficient": coefficient.numpy(), "variance_explained": explained.numpy()}


def _composes(setting: Setting) -> bool:
    return setting.input.attributes["operation"] == COMPOSE


def _a_b_over_c(p: int) -> np.ndarray:
    """Return the permutation a b c^-1 for each pair (row a * p + b) and each c."""
    table = composition(degree(p))
    inverse = table.argmin(axis=1)  # the identity is number 0
    return table[table.reshape(-1, 1), inverse]
