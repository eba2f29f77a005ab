"""The table of all pairs of an operation, and the base class of measures on it."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from pipeline.engine.record import Pass
from pipeline.errors import InputError
from pipeline.measures.base import Measure, Setting
from pipeline.measures.modular import fourier
from pipeline.measures.modular.elements import has_waves, why_no_waves
from pipeline.models.residues import require_residue_weights


class TableMeasure(Measure):
    """A measure of a model of modular arithmetic, on the whole table of its operation.

    key_share: see `fourier.largest`; the share of the largest squared norm of the Fourier transform
    of W_L that makes a frequency a key frequency.
    """

    default_input = "table"
    input_kind = "table"
    needs_neurons: ClassVar[bool] = False
    needs_waves: ClassVar[tuple[str, ...]] = ()  # variables that are functions of waves in a + b

    key_share: float = Field(0.1, gt=0, le=1)

    def check(self, setting: Setting) -> None:
        """Raise InputError for a table or a model without a W_L over the residues."""
        p = setting.input.attributes["p"]
        require_residue_weights(self.name, setting.model, p)
        if self.needs_neurons and not _one_layer(setting):
            raise InputError(
                f"measure {self.name!r}: reads the neurons of a one-layer organism without "
                f"smeared keys, found a {setting.model.architecture} of "
                f"{setting.model.n_layers} layers: leave the measure out"
            )

    def why_undefined(self, setting: Setting) -> str:
        """Return which variables are undefined for operations without waves in the answer."""
        if not self.needs_waves or has_waves(setting.input):
            return ""
        return f"{', '.join(self.needs_waves)}: NaN, because {why_no_waves(setting.input)}"

    def computed_in(self, setting: Setting, dtype: str) -> str:
        """Return float64, whatever the worker's dtype."""
        return "float64"

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass in float64 that records the logits at '=', and the neurons if needed."""
        table = setting.input.name
        return (Pass(table, logit_positions=(-1,), neurons=self.needs_neurons, dtype="float64"),)

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return frequencies from 1, residues and neurons; p is the vocabulary without '='."""
        p = setting.model.vocabulary - 1  # an odd p has as many frequencies as p - 1
        known = {
            "frequency": np.arange(1, fourier.n_frequencies(p) + 1),
            "residue": np.arange(p),
            "neuron": np.arange(setting.model.d_mlp or 0),
        }
        used = {dim for variable in self.variables for dim in variable.dims[1:]}
        return {dim: known[dim] for dim in sorted(used)}


def _one_layer(setting: Setting) -> bool:
    model = setting.model
    smeared = any(name.endswith("smear_alpha") for name in model.parameters)
    return model.architecture == "OrganismForCausalLM" and model.n_layers == 1 and not smeared
