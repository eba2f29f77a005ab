"""What a measure is: a declaration, and one pure function.

A file in this folder that defines a subclass of `Measure` adds a measure; nothing else needs to
know of it. The declaration makes the store's arrays, the documentation, the columns of a query
and the captions of the report. The class's docstring is the measure's definition.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.engine.record import Pass, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.assumptions import reason
from pipeline.models.loading import ModelFacts, ModelWeights
from pipeline.schema import Variable

Reference = Mapping[str, Any]

_LAYERS = frozenset({"layer", "layer_from", "layer_to"})


@dataclass(frozen=True)
class Setting:
    """What is the same at every checkpoint: the model's shape and the measure's input, if any.

    others: the inputs that the measure reads beside it, by name (`Measure.other_inputs`).
    """

    model: ModelFacts
    input: Input | None = None
    others: Mapping[str, Input] = field(default_factory=dict)


class Measure(BaseModel):
    """One measure with its parameters, which are the fields of the subclass.

    name, version: a changed version recomputes the stored rows of this measure, and only those.
    default_input: the input it reads unless the configuration says `<measure>.<input>`;
    None where it reads weights only.
    reference_from: "last" where `compute` needs a quantity of the last checkpoint.
    relies_on: of each variable that assumes something of the model's form, what it assumes, by the
    names of `ASSUMPTIONS`. Where a model was found not to have that form, the variable is NaN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int]
    default_input: ClassVar[str | None]
    variables: ClassVar[tuple[Variable, ...]]
    reference_from: ClassVar[Literal["last"] | None] = None
    relies_on: ClassVar[Mapping[str, frozenset[str]]] = {}

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """Names of inputs that it reads beside its own, such as the one that gives a null."""
        return ()

    def check(self, setting: Setting) -> None:
        """Raise InputError where this measure cannot be computed in this setting."""

    def why_undefined(self, setting: Setting) -> str:
        """Why some of its variables are NaN at every checkpoint here; "" where none of them is."""
        found = self.unmet(setting.model)
        by_reason = {why: [name for name in found if found[name] == why] for why in found.values()}
        said = [f"{', '.join(of)}: NaN, because {why}" for why, of in by_reason.items()]
        of_layers = [one.name for one in self.variables if not _LAYERS.isdisjoint(one.dims)]
        if of_layers and not setting.model.n_layers:
            said.append(f"{', '.join(of_layers)}: empty, because the model has no layers")
        return "; ".join(said)

    def unmet(self, model: ModelFacts) -> dict[str, str]:
        """The variables that a model's form leaves undefined, each with the reason."""
        reasons = {name: reason(model.unmet, of) for name, of in self.relies_on.items()}
        return {name: why for name, why in reasons.items() if why}

    def computed_in(self, setting: Setting, dtype: str) -> str:
        """Return the dtype of the arithmetic behind its numbers, the worker's own being `dtype`.

        That of its forward passes; without one, that of the matrices in `pipeline.models.circuits`.
        """
        run = {one.dtype or dtype for one in self.passes(setting) if not one.keeps_nothing}
        return ", ".join(sorted(run)) or ("float64" if dtype == "float64" else "float32")

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """The forward passes whose records `compute` receives, in this order."""
        return ()

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """One 1-D array for each dimension of the variables but "step"."""
        used = {dim for variable in self.variables for dim in variable.dims[1:]}
        return {dim: standard_coordinate(dim, setting) for dim in sorted(used)}

    def reference(self, records: tuple[Record, ...], weights: ModelWeights) -> Reference:
        """The quantity that `compute` needs of the reference checkpoint, as JSON values."""
        raise TypeError(f"{self.name} declares reference_from without defining reference()")

    def compute(
        self, records: tuple[Record, ...], weights: ModelWeights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """An array for each variable, without its "step" dimension. Pure."""
        raise TypeError(f"{self.name} does not define compute()")

    def computed(
        self, records: tuple[Record, ...], weights: ModelWeights, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """What `compute` gives, but NaN (-1 for integers) where the model's form leaves it open."""
        unmet = self.unmet(weights.facts)
        empty = not weights.facts.n_layers and all(map(_is_of_heads, self.variables))
        if empty or len(unmet) == len(self.variables):
            return undefined(self, weights.facts)
        values = dict(self.compute(records, weights, reference))
        for variable in self.variables:
            if variable.name in unmet:
                shape = np.shape(values[variable.name])
                values[variable.name] = np.full(shape, _nothing(variable))
        return values


def standard_coordinate(dim: str, setting: Setting) -> np.ndarray:
    """The coordinate of a dimension whose size follows from the model's or the input's shape."""
    model, tokens = setting.model, setting.input.tokens if setting.input else None
    if dim == "parameter":
        return np.array(model.parameters)
    sizes = {
        "layer": model.n_layers, "layer_from": model.n_layers, "layer_to": model.n_layers,
        "head": model.n_heads, "head_from": model.n_heads, "head_to": model.n_heads,
        "depth": model.n_layers + 1,
    }  # fmt: skip
    if tokens is not None:
        sizes |= {"sequence": tokens.shape[0], "position": tokens.shape[1] - 1}
    if dim not in sizes:
        raise TypeError(f"a measure with the dimension {dim!r} must define its coordinate")
    return np.arange(sizes[dim])


def undefined(measure: Measure, model: ModelFacts) -> dict[str, np.ndarray]:
    """NaN for every variable of a measure whose dimensions are the model's; -1 for integers."""
    sizes = {dim: len(of) for dim, of in measure.coordinates(Setting(model)).items()}
    return {
        variable.name: np.full([sizes[dim] for dim in variable.dims[1:]], _nothing(variable))
        for variable in measure.variables
    }


def _is_of_heads(variable: Variable) -> bool:
    dims = set(variable.dims)
    return bool(dims & _LAYERS) and dims <= _LAYERS | {"step", "head", "head_from", "head_to"}


def _nothing(variable: Variable) -> float | int:
    return -1 if variable.dtype.startswith("int") else np.nan


def require_input(measure: Measure, setting: Setting, kind: str) -> Input:
    """The measure's input, which must be of one kind: scores are defined on that kind only."""
    found = setting.input
    if found is None or found.kind != kind:
        name = found.name if found else measure.default_input
        raise InputError(
            f"measure {measure.name!r} reads an input of kind {kind!r}, but input {name!r} is of "
            f"kind {found.kind if found else None!r}: give it another input in `inputs`"
        )
    return found
