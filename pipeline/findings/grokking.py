"""Sentences on grokking: memorisation, formation of the circuit, generalisation."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from pipeline.aggregate.levels import carrying, first_past
from pipeline.aggregate.phases import MILESTONES, SOLVED, milestones, phases
from pipeline.aggregate.transitions import scan_series
from pipeline.findings.changes import dated
from pipeline.findings.number_format import (
    at_step,
    at_steps,
    counted,
    extreme,
    finite,
    gaps,
    in_words,
    is_undefined,
    listed,
    non_finite,
    number,
    why_undefined,
)


def grokking_findings(group: xr.Dataset) -> Iterator[str]:
    """Yield sentences on memorisation, the restricted and excluded losses and generalisation.

    group: `modular_addition`, in order of step. "Memorised", "generalised": see `milestones`.
    """
    reached = milestones(group)
    yield _solved(group["train_loss"], "memorised the train pairs", reached["train_loss"])
    yield _restricted(group, reached["restricted_loss"])
    yield _solved(group["test_loss"], "generalised to the test pairs", reached["test_loss"])
    if group.sizes["step"] > 1:
        yield from _order(group, reached)
        yield from _excluded(group, reached["test_loss"])
        yield from _phases(group)
    if keys := key_frequencies(group):
        yield f"Key frequencies, from the last checkpoint: {listed([str(k) for k in keys], 12)}."


def key_frequencies(group: xr.Dataset) -> list[int]:
    """Return the frequencies that restricted and excluded loss were computed with.

    Empty where none are stored, and where these losses are undefined for the operation.
    """
    values = group.attrs.get("reference_values")
    if not isinstance(values, dict) or is_undefined(group, "restricted_loss"):
        return []
    return list(values.get("key_frequencies") or [])


def _solved(loss: xr.DataArray, did: str, step: int | None) -> str:
    if step is None:
        return f"The model had not {did} by {at_step(_last(loss))}: {_not_below(loss)}."
    had = "had " if step == _first(loss) else ""
    how = (
        f"is {number(float(loss.sel(step=step)))} nats there, below {SOLVED}"
        if step == _last(loss)
        else f"stays below {SOLVED} nats from there on"
    )
    return (
        f"The model {had}{did} by {at_step(step)}{_place(loss, step)}: "
        f"{_named(loss)} {how}{_also(loss, step)}{_fall(loss)}."
    )


def _restricted(group: xr.Dataset, step: int | None) -> str:
    loss = group["restricted_loss"]
    if is_undefined(group, "restricted_loss"):
        reason = why_undefined(group, "restricted_loss")
        return f"Restricted loss, excluded loss and key frequencies are undefined: {reason}."
    if step is None:
        return f"{_not_below(loss).capitalize()}."
    place = _place(loss, step)
    if step == _last(loss):
        value = number(float(loss.sel(step=step)))
        how = f"is {value} nats, below {SOLVED}, at {at_step(step)}{place}"
    else:
        how = f"stays below {SOLVED} nats from {at_step(step)}{place}{',' if place else ''} on"
    return f"Restricted loss {how}{_also(loss, step)}{_fall(loss)}."


def _order(group: xr.Dataset, reached: dict[str, int | None]) -> Iterator[str]:
    """Yield the order of memorisation, circuit and generalisation, with the steps between them."""
    memorised, circuit, general = (reached[name] for name in MILESTONES)
    first = _first(group)
    if general is None:
        return
    if memorised is not None and max(memorised, general) > first:
        early = _by_the_first(first, memorised, general)
        yield f"It generalised {_after(general, memorised)} it memorised{early}."
    if circuit is None or max(circuit, general) == first:
        return
    if circuit == general:
        yield f"Restricted loss and test loss fell below {SOLVED} nats by the same saved step."
        return
    verb, apart = "leads" if circuit < general else "trails", abs(general - circuit)
    share = f", {apart / general:.0%} of the steps to generalisation" if general else ""
    early = _by_the_first(first, circuit, general)
    yield f"Restricted loss {verb} test loss by {counted(apart, 'step')}{share}{early}."


def _by_the_first(first: int, *steps: int) -> str:
    """Return a clause for milestones at the first saved step, which may have been earlier."""
    return "; the earlier had happened by the first saved step" if min(steps) == first else ""


def _after(later: int, earlier: int) -> str:
    if later == earlier:
        return "at the same saved step as"
    return f"{counted(abs(later - earlier), 'step')} {'after' if later > earlier else 'before'}"


def _excluded(group: xr.Dataset, general: int | None) -> Iterator[str]:
    """Yield the rise of excluded loss from its lowest value up to generalisation to its highest.

    The lowest value is the one that ends memorisation in `pipeline.aggregate.phases`.
    """
    loss = group["excluded_loss"]
    if is_undefined(group, "excluded_loss"):
        return
    defined = finite(loss)
    lowest = extreme(defined.sel(step=slice(None, general)), "lowest")
    if lowest is None or defined.sizes["step"] < 2:
        yield f"Excluded loss is {non_finite(loss)}."
        return
    at, value = at_step(lowest[0]), number(lowest[1])
    of = "" if lowest[1] == float(defined.min()) else " of the steps up to generalisation"
    highest = extreme(defined.sel(step=defined["step"] > lowest[0]), "highest")
    if highest is None:
        said = f"was lowest, {value} nats, at {at}, {_end_of(loss, lowest[0])}"
    elif highest[1] <= lowest[1]:
        said = f"did not rise after {at}, where it was lowest{of} ({value} nats)"
    elif number(highest[1]) == value:  # a rise that rounding hides
        rise = number(highest[1] - lowest[1])
        said = f"rose by no more than {rise} nats after {at}, where it was {value} nats"
    else:
        said = (
            f"rose from {value} nats at {at} to {number(highest[1])} at {at_step(highest[0])}, "
            f"while train loss {_meanwhile(group['train_loss'], lowest[0], highest[0])}"
        )
    yield f"Excluded loss {said}{gaps(loss, 'excluded loss')}."


def _meanwhile(loss: xr.DataArray, start: int, end: int) -> str:
    during = loss.sel(step=slice(start, end))
    highest = extreme(during, "highest")
    if highest is None:
        return f"was {non_finite(during)}"
    most = number(highest[1])
    how = f"stayed at or below {most}" if highest[1] < SOLVED else f"was up to {most}"
    missing = during["step"].values[~np.isfinite(during.values)]
    but = f", but is not finite {at_steps(missing, loss['step'].values)}" if missing.size else ""
    return how + but


def _phases(group: xr.Dataset) -> Iterator[str]:
    """Yield the phases, by the rules of `pipeline.aggregate.phases`."""
    if is_undefined(group, "excluded_loss"):
        return
    broken = [
        f"{_named(group[name])} is {found}"
        for name in ("excluded_loss", "test_loss")
        if (found := non_finite(group[name]))
    ]
    if broken:
        yield f"Phases are not determined: {listed(broken)}."
    found = [
        f"{phase.name} to {at_step(phase.end)}"
        if phase.end is not None
        else f"{phase.name}, which {at_step(_last(group))} has not ended"
        for phase in phases(group)
    ]
    if found:
        yield f"Phases, by rules that its figure states: {listed(found)}."


def _not_below(loss: xr.DataArray) -> str:
    """Return why a loss does not count as below `SOLVED`, with its name."""
    name, last = _named(loss), float(loss[-1])
    if (lowest := extreme(loss, "lowest")) is None:
        return f"{name} is {non_finite(loss)}"
    if loss.sizes["step"] == 1:
        return f"{name} is {number(last)} nats at {at_step(_last(loss))}, not below {SOLVED}"
    if (first := first_past(loss, SOLVED)) is None:
        reached = f"{number(lowest[1])} at {at_step(lowest[0])}"
        return f"{name} was never below {SOLVED} nats (lowest: {reached}){gaps(loss)}"
    was = f"{name} was below {SOLVED} nats first at {at_step(first)}, but did not stay"
    if not np.isfinite(last):
        return f"{was}: it is {non_finite(loss)}"
    return f"{was}: it is {number(last)} at {at_step(_last(loss))}{gaps(loss)}"


def _also(loss: xr.DataArray, step: int) -> str:
    """Return a clause on spikes after `step`, on an earlier dip below `SOLVED`, and on gaps."""
    above = int((loss.sel(step=slice(step, None)) >= SOLVED).sum())
    spikes = f", but for spikes at {counted(above, 'checkpoint')}" if above else ""
    first = first_past(loss, SOLVED)
    dip = f"; it was below first at {at_step(first or 0)}, but did not stay"
    return spikes + (dip if first != step else "") + gaps(loss)


def _fall(loss: xr.DataArray) -> str:
    """Return a clause on the transition that took a loss below `SOLVED`; "" without one."""
    one = carrying(loss, SOLVED, "below", scan_series(loss).transitions)
    return "" if one is None else f"; it fell suddenly {dated(one)}"


def _place(loss: xr.DataArray, step: int) -> str:
    """Return a clause where a step is the first, the last or the only one of a series."""
    if loss.sizes["step"] == 1:
        return ", the only saved step"
    if step == _first(loss):
        return ", the first saved step"
    return ", the last saved step" if step == _last(loss) else ""


def _end_of(loss: xr.DataArray, step: int) -> str:
    return "the last saved step" if step == _last(loss) else "the last at which it is finite"


def _named(loss: xr.DataArray) -> str:
    return in_words(str(loss.name))


def _first(group: xr.Dataset | xr.DataArray) -> int:
    return int(group["step"].values[0])


def _last(group: xr.Dataset | xr.DataArray) -> int:
    return int(group["step"].values[-1])
