"""The page "claimed against found" of a site, before the pages of one run of each experiment."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.experiments.claims import DOES_NOT_HOLD, HOLDS, UNDECIDED, Finding
from pipeline.experiments.experiment import Outcome
from pipeline.experiments.table import COLUMNS, finding_row
from pipeline.findings.number_format import counted
from pipeline.report.site.blocks import Cell, Column, Page, Section, Table, Text
from pipeline.report.site.run_data import Run
from pipeline.report.site.specs import Figure, Source, band, figure, series, y_axis
from pipeline.report.site.write import write_report_with

_ROLES = {HOLDS: "induction", DOES_NOT_HOLD: "loss", UNDECIDED: "none"}
_BEYOND = 0.1  # of the range of the numbers: how much further the axis reaches


def write_claims(
    outcomes: Sequence[Outcome], failed: Sequence[str], folder: str | Path, command: str
) -> Path:
    """Write the site of experiments to a folder; return its `index.html`.

    The first page has the table of claims and a figure for each; below it are the pages of the
    first run of each experiment. At least one outcome has a store. failed: a sentence for each
    experiment that could not be carried out. command: that gave the outcomes.
    """
    firsts = {one.experiment.name: one.stores[0] for one in outcomes if one.stores}
    stores = list(dict.fromkeys(firsts.values()))

    def page_of(runs: Sequence[Run]) -> Page:
        slugs = dict(zip(stores, (run.slug for run in runs), strict=True))
        linked = {name: f"{slugs[store]}/overview.html" for name, store in firsts.items()}
        return _page(outcomes, failed, linked, command)

    return write_report_with(stores, folder, page_of)


def _page(
    outcomes: Sequence[Outcome], failed: Sequence[str], linked: Mapping[str, str], command: str
) -> Page:
    verdicts = [one.verdict for outcome in outcomes for one in outcome.findings]
    counts = ", ".join(f"{verdicts.count(one)} {_plural(one, verdicts.count(one))}"
                       for one in (HOLDS, DOES_NOT_HOLD, UNDECIDED))  # fmt: skip
    lead = f"{counted(len(verdicts), 'claim')}: {counts}. {command}"
    if any(one.quick for one in outcomes):
        lead += " (quick: fewer seeds and shorter runs)"
    not_done = [Text([f"Not carried out: {one}"]) for one in failed]
    sections = [Section("claims", "Claims", [*not_done, _table(outcomes)])]
    sections += [_section(one, linked.get(one.experiment.name, "")) for one in outcomes]
    return Page("index.html", "", "Claimed against found", lead, sections)


def _plural(verdict: str, count: int) -> str:
    if count == 1 or verdict == UNDECIDED:
        return verdict
    return {HOLDS: "hold", DOES_NOT_HOLD: "do not hold"}[verdict]


def _table(outcomes: Sequence[Outcome]) -> Table:
    columns = [Column(name, name, name == "seeds") for name in COLUMNS]
    rows = []
    for outcome in outcomes:
        for one in outcome.findings:
            row = finding_row(one)
            claim = Cell(row["claim"], href=f"#{one.claim.name}", role=_ROLES[one.verdict])
            others = [Cell(row[name]) for name in COLUMNS[1:-1]]
            rows.append([claim, *others, Cell(row["seeds"], int(row["seeds"]))])
    return Table("claims-table", "Claimed against found", columns, rows)


def _section(outcome: Outcome, href: str) -> Section:
    """Return the section of an experiment: a figure for each claim, and how to get its numbers."""
    name, items = outcome.experiment.name, list(_figures(outcome))
    rows = [
        [
            Cell(f"ontogeny experiment {name}"),
            Cell(f"{outcome.seconds:,.0f}", outcome.seconds),
            Cell(str(len(outcome.stores)), len(outcome.stores)),
            Cell("the first run", href=href) if href else Cell("none"),
        ]
    ]
    columns = [Column("command", "command"), Column("seconds", "processor seconds", True),
               Column("runs", "runs", True), Column("run", "pages")]  # fmt: skip
    made = Table(f"made-{name}", "How this was computed", columns, rows)
    return Section(name, outcome.experiment.title, [*items, made])


def _figures(outcome: Outcome) -> Iterator[Figure | Text]:
    for one in outcome.findings:
        if np.isfinite(list(one.effect.by_seed.values())).any():
            yield _figure(outcome, one)
        else:
            yield Text([f"{one.claim.sentence} {one.verdict.capitalize()}: {one.found}."])


def _figure(outcome: Outcome, one: Finding) -> Figure:
    """Return the values of all seeds, their mean with its interval, and the claim's region."""
    known = {seed: value for seed, value in one.effect.by_seed.items() if math.isfinite(value)}
    values = np.array([*known.values(), one.mean])
    ends = [np.full(len(known), np.nan), np.full(len(known), np.nan)]
    low, high = (np.append(end, edge) for end, edge in zip(ends, (one.low, one.high), strict=True))
    rows = [{"name": f"seed {seed}", "role": "none"} for seed in known]
    rows.append({"name": "mean", "role": _ROLES[one.verdict]})
    domain = _domain(one, values)
    unit = "" if one.effect.unit == "1" else f" ({one.effect.unit})"
    spec = {
        "kind": "intervals", "rows": rows, "series": [series("effect", values, low=low, high=high)],
        "y": y_axis(f"effect{unit}", domain=domain), "bands": [_region(one, domain)],
    }  # fmt: skip
    found = f" ({one.found})" if one.found else ""
    note = (f"Effect: {one.effect.name}. Claimed: {one.claim.source}. Found: {one.verdict}{found}. "
            f"It holds if {one.rule} (shaded).")  # fmt: skip
    command = f"ontogeny experiment {outcome.experiment.name} --json"
    python = f"run_experiment(EXPERIMENTS[{outcome.experiment.name!r}], SerialRuns(folder))"
    return figure(one.claim.name, one.claim.sentence, note, spec, outcome.experiment.name,
                  Source(python, command))  # fmt: skip


def _domain(one: Finding, values: np.ndarray) -> tuple[float, float]:
    """Return the ends of the axis, a little beyond all numbers and the edges of the region."""
    ends = [end for end in (one.region.low, one.region.high, one.low, one.high)
            if math.isfinite(end)]  # fmt: skip
    drawn = [*values[np.isfinite(values)], *ends]
    beyond = _BEYOND * (max(drawn) - min(drawn) or 1.0)
    return float(min(drawn) - beyond), float(max(drawn) + beyond)


def _region(one: Finding, domain: tuple[float, float]) -> dict[str, object]:
    """Return the region in which the claim holds, as far as the axis reaches."""
    low, high = max(one.region.low, domain[0]), min(one.region.high, domain[1])
    return band(low, high, "the claim holds")
