"""The base class of measures: a declaration, and one pure function of a checkpoint.

A file in this folder that defines a subclass of `Measure` adds a measure, without registration. A
file of the user's own does the same (docs/writing-a-measure.md). The store's arrays, the
documentation, the columns of a query and the captions of the report follow from the declaration.
The class's docstring is the measure's definition.

The code that all measures share is in `pipeline.measures.apply`, which calls the methods of this
class: none of them needs `super()`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.config import Strict
from pipeline.engine.record import Pass, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures.source import Source
from pipeline.models.circuits import Circuits, circuits
from pipeline.models.facts import ModelFacts
from pipeline.models.weights import ModelWeights
from pipeline.schema import Values, Variable

Reference = Mapping[str, Any]


class NotDefinedError(Exception):
    """Raised where no variable is defined for a model, so that all are NaN (-1 for integers)."""


@dataclass(frozen=True)
class Setting:
    """The part of a measure's arguments that is the same at every checkpoint: model and input.

    own_input: None for a measure that reads weights only. others: the inputs that the measure
    reads beside its own, by name (`Measure.other_inputs`).
    """

    model: ModelFacts
    own_input: Input | None = None
    others: Mapping[str, Input] = field(default_factory=dict)

    @property
    def input(self) -> Input:
        """The measure's input. Raises TypeError where the measure declares none."""
        if self.own_input is None:
            raise TypeError("a measure whose `default_input` is None has no input")
        return self.own_input


@dataclass(frozen=True)
class Context:
    """The arguments of a measure for one checkpoint; reading an absent one raises TypeError.

    records: of the forward passes, in the order of `Measure.passes`. stored_reference: the result
    of `Measure.reference` at the reference checkpoint, as JSON values.
    """

    setting: Setting
    weights: ModelWeights
    records: tuple[Record, ...] = ()
    stored_reference: Reference | None = None

    @property
    def model(self) -> ModelFacts:
        """The model's shape."""
        return self.setting.model

    @property
    def input(self) -> Input:
        """The measure's input."""
        return self.setting.input

    @property
    def record(self) -> Record:
        """The record of a measure with one pass."""
        if len(self.records) != 1:
            raise TypeError(
                f"`record` is for measures with one pass, this one has {len(self.records)}: use "
                "`records`"
            )
        return self.records[0]

    @property
    def reference(self) -> Reference:
        """The quantity of the reference checkpoint."""
        if self.stored_reference is None:
            raise TypeError("there is a reference only for a measure that sets `reference_from`")
        return self.stored_reference

    @property
    def circuits(self) -> Circuits:
        """The model's circuit matrices. Raises NotDefinedError for families that have none."""
        found = circuits(self.weights)
        if found is None:
            raise NotDefinedError
        return found


class Measure(Strict):
    """A measure with its parameters, which are the fields of the subclass.

    name, version: a changed version recomputes the stored rows of this measure, and only those.
    default_input: the input it reads unless the configuration says `<measure>.<input>`;
    None where it reads weights only.
    input_kind: the one kind of input on which it is defined; "" where any will do.
    needs_heads: True where nothing of it is defined without attention heads. A model that has none
    is refused; in a model of which some layers do not attend, its numbers of those layers are NaN.
    reference_from: "last" where `compute` needs a quantity of the last checkpoint.
    relies_on: for each variable that assumes a form of the model, its assumptions, by the names of
    `ASSUMPTIONS`. Where a model was found not to have that form, the variable is NaN.
    source: the module that defines the class, if it is not part of this package.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    default_input: ClassVar[str | None]
    variables: ClassVar[tuple[Variable, ...]]
    input_kind: ClassVar[str] = ""
    needs_heads: ClassVar[bool] = False
    reference_from: ClassVar[Literal["last"] | None] = None
    relies_on: ClassVar[Mapping[str, frozenset[str]]] = {}
    source: ClassVar[Source | None] = None

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that it reads beside its own, such as one for a null."""
        return ()

    def check(self, setting: Setting) -> None:
        """Raise InputError where this measure cannot be computed in this setting."""

    def why_undefined(self, setting: Setting) -> str:
        """Return why some of its variables are NaN at every checkpoint in this setting, or "".

        Reasons that follow from `relies_on` are added by `pipeline.measures.apply`.
        """
        return ""

    def computed_in(self, setting: Setting, dtype: str) -> str:
        """Return the dtype in which its numbers are computed, on a worker of the given `dtype`.

        That of its forward passes; without one, that of the matrices in `pipeline.models.circuits`.
        """
        run = {one.dtype or dtype for one in self.passes(setting) if not one.keeps_nothing}
        return ", ".join(sorted(run)) or ("float64" if dtype == "float64" else "float32")

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return the forward passes whose records `compute` receives, in this order."""
        return ()

    def weights_read(self, setting: Setting) -> Collection[str]:
        """Return the names of the parameters that `compute` reads; all of them by default.

        `compute` receives no others where the measure needs no forward pass, and an analysis of
        such measures alone fetches no others: a measure that reads a part of a large model should
        name that part.
        """
        return setting.model.parameters

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the coordinates of dimensions whose size does not follow from model or input."""
        return {}

    def reference(self, context: Context) -> Reference:
        """Return the quantity of the reference checkpoint that `compute` needs, as JSON values."""
        raise TypeError(f"{self.name} sets `reference_from` without defining reference()")

    def compute(self, context: Context) -> Values:
        """Return an array for each variable, without its "step" dimension. Pure."""
        raise TypeError(f"{self.name} does not define compute()")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a user's class with its code, which other processes may be unable to import."""
        # pickle stores a class by module and name. Classes of this package can be imported in every
        # process; a class from a user's file cannot.
        kind = type(self)
        if kind.source is None:
            return super().__reduce_ex__(protocol)
        parameters = {name: getattr(self, name) for name in kind.model_fields}
        return _restored, (kind.source, kind.__name__, parameters)


def _restored(source: Source, name: str, parameters: dict[str, Any]) -> Measure:
    """Return a measure that another process has pickled."""
    return source.classes(Measure)[name](**parameters)


def require_kind(measure: str, found: Input, kind: str) -> Input:
    """Return the input; raise InputError where it is not of the kind that a measure reads."""
    if found.kind != kind:
        raise InputError(
            f"measure {measure!r} reads an input of kind {kind!r}, but input {found.name!r} is of "
            f"kind {found.kind!r}: give it another input in `inputs`"
        )
    return found
