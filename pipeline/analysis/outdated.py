"""Groups whose stored rows were computed with a different version, input or parameter."""

from pipeline.analysis.job import Group, Prepared, fingerprint_parts
from pipeline.store.commits import latest


def outdated(prepared: Prepared) -> dict[str, str]:
    """Return, by group, how the fingerprint of its stored rows differs from the present one.

    A different version of a measure, parameter, input, engine, dtype or device. Empty where all
    rows are up to date; groups without rows are left out.
    """
    found = {group.name: _difference(prepared, group) for group in prepared.job.groups}
    return {name: difference for name, difference in found.items() if difference}


def _difference(prepared: Prepared, group: Group) -> str:
    snapshot = prepared.job.store.snapshot()
    current = snapshot.version.current(group.name)
    if current is None or not (done := latest(snapshot.of(group.name), current)):
        return ""
    before = prepared.job.store.pack(done[max(done)]).header["details"]
    now = fingerprint_parts(prepared.job, group)
    return ", ".join(
        f"{part} {before.get(part)} -> {value}"
        for part, value in now.items()
        if before.get(part) != value
    )
