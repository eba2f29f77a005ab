"""The pages of checkpoints with their audit, and of the method by the measures' definitions."""

from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Any

import numpy as np

from pipeline.findings.number_format import by_reason, in_words
from pipeline.query.measures import stored_measures
from pipeline.report.site.blocks import DASH, Cell, Column, Page, Section, Table, Text
from pipeline.report.site.run_data import Run

_LONGEST = 200  # characters of a setting
MOST_SAID = 50  # faults, and checkpoints that were left out


def checkpoints_page(run: Run) -> Page:
    """Return all checkpoints, what the audit found, and how complete each group is."""
    sections = [
        Section("audit", "Audit", [Text(list(_audited(run)), as_list=True)]),
        Section("groups", "Measures", [_groups_table(run)]),
        Section("all", "Checkpoints", [_checkpoints_table(run)]),
    ]
    return Page("checkpoints.html", "Checkpoints", "Checkpoints", run.summary(), sections)


def method_page(run: Run) -> Page:
    """Return the definition of each measure as it was stored, with its variables."""
    sections = [
        Section(
            f"measure-{about['name'].replace('.', '-')}", in_words(about["name"]).capitalize(),
            [Text([cleandoc(str(about["definition"] or ""))], as_code=True), _variables(about)],
            note=_settings_of(about),
        )
        for about in stored_measures(run.uri)
    ]  # fmt: skip
    return Page(
        "method.html",
        "Method",
        "Method",
        "The measures' own definitions, as stored with their numbers.",
        sections,
    )


def _settings_of(about: Mapping[str, Any]) -> str:
    said = [f"Version {about['version']}"]
    if about["default_input"]:
        said.append(f"input {about['default_input']}")
    if about["parameters"]:
        said.append(settings(about["parameters"]))
    return "; ".join(said) + "."


def settings(given: Mapping[str, Any]) -> str:
    """Return settings as text, with long values cut."""
    text = {str(key): str(value) for key, value in given.items()}
    cut = {k: f"{v[:_LONGEST]}…" if len(v) > _LONGEST else v for k, v in text.items()}
    return ", ".join(f"{key} = {value}" for key, value in cut.items())


def _variables(about: Mapping[str, Any]) -> Table:
    columns = [
        Column("name", "variable"), Column("dims", "dimensions"), Column("unit", "unit"),
        Column("definition", "definition"), Column("references", "source"),
    ]  # fmt: skip
    rows = [
        [Cell(str(one["name"])), Cell(", ".join(map(str, one["dims"]))), Cell(str(one["unit"])),
         Cell(str(one["definition"])), Cell(str(one["references"]) or DASH)]
        for one in about["variables"]
    ]  # fmt: skip
    return Table(f"variables-{about['name'].replace('.', '-')}", "Variables", columns, rows)


def _audited(run: Run) -> Iterator[str]:
    verdict = run.verdict
    if verdict is None:
        yield "No audit of the checkpoints is stored."
    else:
        faults = list(verdict.get("faults") or [])
        yield f"{verdict.get('checkpoints', 0):,} checkpoints were audited: {len(faults)} faults."
        yield from _first_of(faults, "", "fault")
        yield from _first_of(list(verdict.get("left_out") or []), "Left out: ", "left out")
    for reason, steps in by_reason(run.tree.attrs.get("masked", {})).items():
        yield f"Not shown: {steps} ({reason})."
    for step, names in dict(run.tree.attrs.get("not_finite", {})).items():
        yield f"Not finite at step {step}: {names}."


def _first_of(every: list[Any], before: str, kind: str) -> Iterator[str]:
    """Yield the first entries of a list in the audit, and how many more it has."""
    for one in every[:MOST_SAID]:
        yield before + (settings(one) if isinstance(one, Mapping) else str(one))
    if len(every) > MOST_SAID:
        yield f"{len(every) - MOST_SAID:,} more ({kind}) are not shown here."


def _groups_table(run: Run) -> Table:
    columns = [
        Column("group", "group"), Column("version", "version"), Column("input", "input"),
        Column("digest", "digest of the input"), Column("rows", "checkpoints", True),
        Column("missing", "missing", True),
    ]  # fmt: skip
    rows = []
    for of_measure in run.groups.values():
        for name, group in of_measure.items():
            about = group.attrs.get("input") or {}
            steps = {int(step) for step in group["step"].values}
            selected = group.attrs.get("selected_steps")
            wanted = set(run.steps) if selected is None else set(run.steps) & set(selected)
            missing = len(wanted - steps)
            rows.append([
                Cell(name), Cell(str(group.attrs.get("version", "?"))),
                Cell(str(about.get("name", "weights only"))), Cell(str(about.get("digest", DASH))),
                Cell(f"{len(steps):,}", len(steps)), Cell(f"{missing:,}", missing),
            ])  # fmt: skip
    return Table("groups-table", "Groups", columns, rows)


def _checkpoints_table(run: Run) -> Table:
    """Return a row for each step: tokens seen, digest of the weights, and where they are."""
    columns = [
        Column("step", "step", True), Column("tokens", "tokens seen", True),
        Column("digest", "digest of the weights"), Column("uri", "address"),
    ]  # fmt: skip
    known: dict[int, tuple[float, str, str]] = {}
    for of_measure in run.groups.values():
        for group in of_measure.values():
            labels = [group[name].values for name in ("step", "tokens_seen", "digest", "uri")]
            for step, seen, digest, uri in zip(*labels, strict=True):
                known.setdefault(int(step), (float(seen), str(digest), str(uri)))
    rows = [
        [Cell(f"{step:,}", step),
         Cell(f"{seen:,.0f}", seen) if np.isfinite(seen) else Cell(DASH, float("nan")),
         Cell(digest), Cell(uri)]
        for step, (seen, digest, uri) in sorted(known.items())
    ]  # fmt: skip
    return Table("checkpoints-table", "Checkpoints", columns, rows)
