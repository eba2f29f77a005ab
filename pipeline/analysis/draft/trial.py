"""Try a draft by the checks of `analyze --dry-run`; leave out of it what they refuse."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from pipeline.analysis.draft.entries import Draft
from pipeline.analysis.faults import Fault, RefusedError
from pipeline.analysis.job import Group, Prepared
from pipeline.analysis.preflight import Preflight, preflight
from pipeline.config import Analysis
from pipeline.measures import apply, measure_class
from pipeline.measures.base import Setting
from pipeline.measures.modular.table import TableMeasure

_MOST_ROUNDS = 3  # the second one is for what the first one hides


def tried(
    draft: Draft, analysis_of: Callable[[Draft], Analysis], needed: str = ""
) -> tuple[Draft, Preflight]:
    """Return the draft without the measures that are refused or undefined for the run.

    needed: a part that the person asked for. Raises RefusedError where it is refused, and for what
    concerns the whole analysis, such as the store.
    """
    result = preflight(analysis_of(draft))
    for _ in range(_MOST_ROUNDS):
        lost = _refused(draft, result.faults.found, needed)
        if not lost:
            break
        draft = _without(draft, lost)
        result = preflight(analysis_of(draft))
    result.faults.refuse()
    assert result.prepared is not None, "nothing is prepared only where there is a fault"
    return _without(draft, _undefined(result.prepared)), result


def _refused(draft: Draft, faults: Iterable[Fault], needed: str) -> dict[str, str]:
    """Return the measures and inputs that are refused, with the reasons; raise for all else."""
    lost: dict[str, str] = {}
    for fault in faults:
        section, _, name = fault.about.partition(".")
        if fault.about == needed or section not in ("measures", "inputs"):
            raise RefusedError([one for one in faults if one.about == fault.about])
        readers = [name] if section == "measures" else _readers(draft, name)
        lost |= dict.fromkeys(readers, fault.message)
    if lost.keys() >= {one.key for one in draft.measures if not one.off}:
        raise RefusedError(faults)
    return lost


def _readers(draft: Draft, input_name: str) -> list[str]:
    """Return the measures that read an input."""
    return [one.key for one in draft.measures if not one.off and _input_of(one.key) == input_name]


def _input_of(key: str) -> str | None:
    name, _, own = key.partition(".")
    return own or measure_class(name).default_input


def _without(draft: Draft, lost: Mapping[str, str]) -> Draft:
    """Return a draft without some measures, and without the inputs that no other one reads."""
    measures = tuple(one for one in draft.measures if one.key not in lost or one.off)
    read = {_input_of(one.key) for one in measures if not one.off}
    inputs = tuple(one for one in draft.inputs if one.off or one.key in read)
    return replace(draft, measures=measures, inputs=inputs, left_out={**draft.left_out, **lost})


def _undefined(prepared: Prepared) -> dict[str, str]:
    """Return the measures of which no number is defined for the run, with the reasons."""
    return {
        group.name: apply.why_undefined(group.measure, prepared.settings[group.name])
        for group in prepared.job.groups
        if _is_undefined(group, prepared.settings[group.name])
    }


def _is_undefined(group: Group, setting: Setting) -> bool:
    measure = group.measure
    lost = set(apply.unmet(measure, setting.model))
    if isinstance(measure, TableMeasure) and measure.why_undefined(setting):
        lost |= set(measure.needs_waves)
    return {variable.name for variable in measure.variables} <= lost
