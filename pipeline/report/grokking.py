"""When a model of modular arithmetic memorised, when its circuit was there, when it generalised."""

from collections.abc import Iterator

import xarray as xr

from pipeline.aggregate.crossings import first_crossing
from pipeline.aggregate.phases import SOLVED, phases
from pipeline.report.wording import at_step, counted, extreme, listed, number

LEARNED = SOLVED  # nats: a loss below this is taken as solved

# What it means that a loss fell below LEARNED, in the order in which it is expected to happen.
MILESTONES = {
    "train_loss": "memorised",
    "restricted_loss": "circuit formed",
    "test_loss": "generalised",
}


def milestones(group: xr.Dataset) -> dict[str, int | None]:
    """For each loss of `MILESTONES` the first saved step at which it was below `LEARNED`."""
    return {name: first_crossing(group[name], LEARNED) for name in MILESTONES}


def grokking_findings(group: xr.Dataset) -> Iterator[str]:
    """Sentences on memorisation, the restricted and excluded losses and generalisation."""
    reached = milestones(group)
    yield _solved(group, "train_loss", "memorised the train pairs", reached["train_loss"])
    yield from _restricted(group, reached["restricted_loss"])
    yield _solved(group, "test_loss", "generalised to the test pairs", reached["test_loss"])
    yield from _leads(reached)
    yield from _excluded(group)
    yield from _phases(group)
    if keys := key_frequencies(group):
        yield f"Key frequencies, from the last checkpoint: {listed([str(k) for k in keys], 12)}."


def key_frequencies(group: xr.Dataset) -> list[int]:
    """The frequencies that restricted and excluded loss were computed with; [] if not stored."""
    reference = group.attrs.get("reference")
    return list(reference.get("key_frequencies", [])) if isinstance(reference, dict) else []


def _solved(group: xr.Dataset, name: str, did: str, step: int | None) -> str:
    loss = name.replace("_", " ")
    if step is not None:
        return f"The model {did} by {at_step(step)}, where {loss} was first below {LEARNED} nats."
    never = _never_below(group[name])
    return f"The model had not {did} by {at_step(_last(group))}: {loss} {never}."


def _restricted(group: xr.Dataset, step: int | None) -> Iterator[str]:
    loss = group["restricted_loss"]
    if step is not None:
        yield f"Restricted loss was first below {LEARNED} nats at {at_step(step)}."
    elif extreme(loss, "lowest") is None:
        yield "Restricted and excluded loss are undefined for this operation."
    else:
        yield f"Restricted loss {_never_below(loss)}, by {at_step(_last(group))}."


def _leads(reached: dict[str, int | None]) -> Iterator[str]:
    """How long before generalisation the circuit was there, and how long after memorisation."""
    memorised, circuit, general = (reached[name] for name in MILESTONES)
    if general is None:
        return
    if memorised is not None:
        yield f"It generalised {_after(general, memorised)} it memorised."
    if circuit is not None and circuit != general:
        verb, share = "leads" if circuit < general else "trails", abs(general - circuit) / general
        yield (
            f"Restricted loss {verb} test loss by {counted(abs(general - circuit), 'step')}, "
            f"{share:.0%} of the steps to generalisation."
        )
    elif circuit is not None:
        yield "Restricted loss and test loss fell at the same saved step."


def _after(later: int, earlier: int) -> str:
    if later == earlier:
        return "at the same saved step as"
    return f"{counted(abs(later - earlier), 'step')} {'after' if later > earlier else 'before'}"


def _excluded(group: xr.Dataset) -> Iterator[str]:
    """The rise from the lowest value to the highest that followed it, and train loss meanwhile."""
    loss = group["excluded_loss"]
    if (lowest := extreme(loss, "lowest")) is None:
        return
    later = loss.sel(step=loss["step"] > lowest[0])
    highest = extreme(later, "highest") if later.size else None
    if highest is None:
        yield f"Excluded loss did not rise: it was lowest at {at_step(lowest[0])}, the last one."
        return
    yield (
        f"Excluded loss rose from {number(lowest[1])} nats at {at_step(lowest[0])} to "
        f"{number(highest[1])} at {at_step(highest[0])}, while train loss "
        f"{_meanwhile(group['train_loss'], lowest[0], highest[0])}."
    )


def _meanwhile(loss: xr.DataArray, start: int, end: int) -> str:
    most = float(loss.sel(step=slice(start, end)).max())
    return f"stayed at or below {number(most)}" if most < LEARNED else f"was up to {number(most)}"


def _phases(group: xr.Dataset) -> Iterator[str]:
    """The phases that `pipeline.aggregate.phases` finds, which states the rules."""
    found = [
        f"{phase.name} to {at_step(phase.end)}"
        if phase.end is not None
        else f"{phase.name}, which {at_step(_last(group))} has not ended"
        for phase in phases(group)
    ]
    if found:
        yield f"Phases, by rules that its figure states: {listed(found)}."


def _never_below(loss: xr.DataArray) -> str:
    if (lowest := extreme(loss, "lowest")) is None:
        return "is undefined at every step"
    return f"was never below {LEARNED} nats (lowest: {number(lowest[1])} at {at_step(lowest[0])})"


def _last(group: xr.Dataset) -> int:
    return int(group["step"].values[-1])
