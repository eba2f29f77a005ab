"""What is of another making than the rows that readers see."""

from pipeline.analysis.plan import Group, Prepared, fingerprint_parts
from pipeline.store.commits import latest


def outdated(prepared: Prepared) -> dict[str, str]:
    """By group, how what determines its rows differs from what determined those in the store.

    A changed version of a measure, other parameters, another input, engine, dtype or device. Empty
    where the rows are of today; groups that have no row yet are left out.
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
