"""Application of a measure: the checks and defaults that all measures share.

The kind of the input is checked, variables whose assumptions a model does not meet are NaN, and an
error in a file of the user's own is reported with its line.
"""

from typing import Any

import numpy as np

from pipeline.errors import InputError, first_line
from pipeline.measures.base import (
    Context,
    Measure,
    NotDefinedError,
    Reference,
    Setting,
    require_kind,
)
from pipeline.measures.source import located
from pipeline.models.assumptions import reason
from pipeline.models.facts import ModelFacts
from pipeline.schema import Value, Values, Variable

_LAYERS = frozenset({"layer", "layer_from", "layer_to"})
_HEADS = frozenset({"head", "head_from", "head_to"})


def check(measure: Measure, setting: Setting) -> None:
    """Raise InputError where a measure cannot be computed in a setting."""
    if measure.needs_heads:
        _require_heads(measure, setting.model)
    if measure.input_kind:
        require_kind(measure.name, setting.input, measure.input_kind)
    with located(measure.source, InputError):
        measure.check(setting)
        _require_passes(measure, setting)
        weights_read(measure, setting)
        coordinates(measure, setting)
        measure.why_undefined(setting)  # only so that an error in it is raised now


def coordinates(measure: Measure, setting: Setting) -> dict[str, np.ndarray]:
    """Return a 1-D array for each dimension of a measure's variables except "step"."""
    used = {dim for variable in measure.variables for dim in variable.dims[1:]}
    own = measure.coordinates(setting)
    return {
        dim: own[dim] if dim in own else _standard_coordinate(dim, setting) for dim in sorted(used)
    }


def why_undefined(measure: Measure, setting: Setting) -> str:
    """Return why some variables are NaN at every checkpoint; "" where none of them is."""
    found = unmet(measure, setting.model)
    by_reason = {why: [name for name in found if found[name] == why] for why in found.values()}
    said = [f"{', '.join(of)}: NaN, because {why}" for why, of in by_reason.items()]
    of_heads = [one.name for one in measure.variables if _has_heads(one) and one.name not in found]
    if of_heads and (layers := setting.model.without_attention):
        where = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
        said.append(f"{', '.join(of_heads)}: NaN in {where}, without attention heads")
    of_layers = [one.name for one in measure.variables if not _LAYERS.isdisjoint(one.dims)]
    if of_layers and not setting.model.n_layers:
        said.append(f"{', '.join(of_layers)}: empty, because the model has no layers")
    return "; ".join(filter(None, [*said, measure.why_undefined(setting)]))


def absent_heads(measure: Measure, model: ModelFacts) -> dict[str, Any]:
    """Return what a group's attributes say of layers without attention heads.

    `attention_heads` is 0 where no layer has any. `layers_without_heads` lists the layers in which
    the measure's numbers of heads are NaN, for lack of heads there.
    """
    if not model.attention_layers:
        return {"attention_heads": 0}
    silent = model.without_attention if any(map(_has_heads, measure.variables)) else ()
    return {"layers_without_heads": list(silent)} if silent else {}


def unmet(measure: Measure, model: ModelFacts) -> dict[str, str]:
    """Return the variables that are undefined for a model's form, each with the reason."""
    reasons = {name: reason(model.unmet, of) for name, of in measure.relies_on.items()}
    return {name: why for name, why in reasons.items() if why}


def compute(measure: Measure, context: Context) -> Values:
    """Return a measure's arrays; NaN (-1 for integers) where they are undefined for the model.

    Raises TypeError unless they are the declared variables.
    """
    missing = unmet(measure, context.model)
    empty = not context.model.n_layers and all(map(_is_of_heads, measure.variables))
    # Nothing would remain of the computation, which might fail on such a model.
    if empty or len(missing) == len(measure.variables):
        return _undefined(measure, context.setting)
    try:
        values = _computed(measure, context)
    except NotDefinedError:
        return _undefined(measure, context.setting)
    for variable in measure.variables:
        if variable.name in missing:
            values[variable.name] = np.full(np.shape(values[variable.name]), _nothing(variable))
    return values


def weights_read(measure: Measure, setting: Setting) -> frozenset[str] | None:
    """Return the names of the parameters that a measure reads; None if it needs the whole model.

    It does for a forward pass, and for the quantity of a reference checkpoint. Raises TypeError for
    names that the model does not have.
    """
    if measure.reference_from or measure.passes(setting):
        return None
    names, known = frozenset(measure.weights_read(setting)), frozenset(setting.model.parameters)
    if unknown := names - known:
        raise TypeError(
            f"weights_read() of measure {measure.name!r} returns {min(unknown)!r}, expected names "
            "of the model's parameters (`setting.model.parameters`)"
        )
    return None if names == known else names


def reference(measure: Measure, context: Context) -> Reference:
    """Return the quantity that a measure computes from the reference checkpoint, as JSON values."""
    with located(measure.source, RuntimeError):
        return measure.reference(context)


def _require_heads(measure: Measure, model: ModelFacts) -> None:
    # A model without layers has empty results.
    if model.n_layers and not model.attention_layers:
        raise InputError(
            f"measure {measure.name!r} needs attention heads, and this model "
            f"({model.architecture}) has none: leave it out"
        )


def _require_passes(measure: Measure, setting: Setting) -> None:
    own = () if setting.own_input is None else (setting.own_input,)
    known = {one.name for one in (*own, *setting.others.values())}
    for wanted in measure.passes(setting):
        if wanted.input not in known:
            raise TypeError(
                f"passes() of measure {measure.name!r} names the input {wanted.input!r}, expected "
                f"one of those that it reads: {sorted(known)}"
            )
        # A user's measure may ask for attention without having declared that it needs heads.
        if wanted.attention or wanted.change:
            _require_heads(measure, setting.model)


def _computed(measure: Measure, context: Context) -> dict[str, Value]:
    with located(measure.source, RuntimeError, passing=(NotDefinedError,)):
        try:
            values = dict(measure.compute(context))  # a copy: NaN is filled in, may be shared
        except (RuntimeError, TypeError) as error:  # of torch, for a tensor without data
            if "meta" not in first_line(error):
                raise
            raise TypeError(
                f"compute() of measure {measure.name!r} reads weights that its weights_read() does "
                f"not return ({first_line(error)}): return their names too"
            ) from error
        _require_all(measure, values)
        return values


def _require_all(measure: Measure, values: Values) -> None:
    declared = {variable.name for variable in measure.variables}
    if declared != values.keys():
        raise TypeError(
            f"compute() of measure {measure.name!r} returns {sorted(values)}, expected the "
            f"variables that it declares: {sorted(declared)}"
        )


def _standard_coordinate(dim: str, setting: Setting) -> np.ndarray:
    """Return the coordinate of a dimension whose size follows from the model or the input."""
    model = setting.model
    if dim == "parameter":
        return np.array(model.parameters)
    sizes = {
        "layer": model.n_layers, "layer_from": model.n_layers, "layer_to": model.n_layers,
        "head": model.n_heads, "head_from": model.n_heads, "head_to": model.n_heads,
        "depth": model.n_layers + 1,
    }  # fmt: skip
    if setting.own_input is not None:
        sequences, length = setting.own_input.tokens.shape
        sizes |= {"sequence": sequences, "position": length - 1}
    if dim not in sizes:
        raise TypeError(f"a measure with the dimension {dim!r} must define its coordinate")
    return np.arange(sizes[dim])


def _undefined(measure: Measure, setting: Setting) -> dict[str, np.ndarray]:
    sizes = {dim: len(of) for dim, of in coordinates(measure, setting).items()}
    return {
        variable.name: np.full([sizes[dim] for dim in variable.dims[1:]], _nothing(variable))
        for variable in measure.variables
    }


def _is_of_heads(variable: Variable) -> bool:
    dims = set(variable.dims)
    return bool(dims & _LAYERS) and dims <= _LAYERS | _HEADS | {"step"}


def _has_heads(variable: Variable) -> bool:
    return not _HEADS.isdisjoint(variable.dims)


def _nothing(variable: Variable) -> float | int:
    return -1 if variable.dtype.startswith("int") else np.nan  # integers have no NaN
