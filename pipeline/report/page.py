"""The report: one HTML page for any number of stores, with plotly's JavaScript beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.offline
import xarray as xr
from markupsafe import Markup

from pipeline.aggregate.run_transitions import transitions_of
from pipeline.findings.number_format import amount, at_step, by_reason, counted, listed
from pipeline.findings.sentences import findings_of
from pipeline.printable import printable
from pipeline.query import open_run
from pipeline.query.aggregates import transitions
from pipeline.report.plates import Section
from pipeline.report.sections import sections
from pipeline.report.several_runs import runs_section
from pipeline.report.transitions import transition_section
from pipeline.store.objects import store_name, store_names
from pipeline.writing import whole_file

PAGE, LIBRARY = "index.html", "plotly.min.js"
_SHORT_RUN = 10_000  # steps up to which a linear axis is readable
_LONGEST = 80  # characters of a value in the provenance


@dataclass(frozen=True)
class Run:
    """The content of the page for one store."""

    name: str
    uri: str
    anchor: str
    summary: str
    step_scale: str
    findings: list[str]
    sections: list[Section]
    provenance: list[dict[str, str]]
    identity: dict[str, str]
    tokens: dict[int, float]
    left_out: dict[str, str]


def write_report(stores: Sequence[str], folder: str | Path) -> Path:
    """Write `folder`/index.html for the stores at the given URIs; return its path.

    The page needs only the file beside it, no network and no server. Raises InputError, before
    anything is written, where one of the URIs holds no store.
    """
    # All stores are opened before the first file is written.
    uris = store_names([str(store) for store in stores])
    opened = {name: open_run(uri) for name, uri in uris.items()}
    found = {name: transitions(uri) for name, uri in uris.items()}
    runs = [run_of(uris[n], run, i, n, found[n]) for i, (n, run) in enumerate(opened.items())]
    html = render(runs, runs_section(opened, found) if len(runs) > 1 else None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The library first: a page that is opened between the two writes would not find it.
    _replace(folder / LIBRARY, plotly.offline.get_plotlyjs())
    _replace(folder / PAGE, html)
    return folder / PAGE


def run_of(
    uri: str,
    run: xr.DataTree,
    index: int = 0,
    name: str | None = None,
    found: xr.Dataset | None = None,
) -> Run:
    """Return the content of the page for an opened run.

    index: its position on the page. name: None for the last part of its address. found: its
    transitions, None to look for them.
    """
    found = transitions_of(run) if found is None else found
    groups = {name: node.to_dataset() for name, node in run.children.items()}
    saved = sorted({int(s) for group in groups.values() for s in group["step"].values})
    return Run(
        name=name or store_name(uri),
        uri=uri,
        anchor=f"run-{index + 1}",
        summary=_summary(saved, groups),
        step_scale=_step_scale(saved, groups),
        findings=findings_of(run),
        sections=_with_transitions(sections(run), transition_section(run, found)),
        provenance=[_provenance(name, group, saved) for name, group in sorted(groups.items())],
        identity=_plain(run.attrs.get("identity", {})) | _inputs(groups),
        tokens=_tokens_by_step(groups),
        left_out=by_reason(run.attrs.get("masked", {})),
    )


def render(runs: Sequence[Run], together: Section | None = None) -> str:
    """Return the page's HTML. together: the section on all runs, at its top."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,  # a misspelt name raises instead of printing nothing
    )
    template = environment.get_template("template.html.j2")
    return template.render(
        runs=runs,
        together=together,
        style=Markup(_resource("style.css")),
        library=LIBRARY,
        # Plotly's JSON escapes <, > and /, so that no name can end the <script> element.
        plot_json=lambda figure: Markup(figure.to_json()),
    )


def _shown(value: Any) -> Any:
    """Return a value of the template without raw control characters; see `printable`."""
    # Markup is this package's own, such as the style.
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, kept="\n\t") if plain else value


def _with_transitions(made: list[Section], transitions: Section | None) -> list[Section]:
    """Return the sections with that on transitions after those on losses."""
    if transitions is None:
        return made
    after = sum(s.group.partition(".")[0] in ("modular_addition", "token_loss") for s in made)
    return [*made[:after], transitions, *made[after:]]


def _summary(saved: list[int], groups: dict[str, xr.Dataset]) -> str:
    if not saved:
        return "no checkpoint yet"
    tokens = [v for v in _tokens_by_step(groups).values() if v]
    parts = [counted(len(saved), "checkpoint"), _range(saved)]
    if tokens:
        parts.append(f"{amount(max(tokens))} tokens seen")
    return " · ".join([*parts, counted(len(groups), "measure")])


def _range(steps: list[int]) -> str:
    if len(steps) == 1:
        return at_step(steps[0])
    return f"steps {steps[0]:,} to {steps[-1]:,}"


def _step_scale(saved: list[int], groups: dict[str, xr.Dataset]) -> str:
    """Return the initial scale of step axes, which the reader can switch.

    Logarithmic for long runs, except in grokking, whose phases are of similar length.
    """
    if "modular_addition" in groups or not saved or saved[-1] <= _SHORT_RUN:
        return "linear"
    return "log"


def _tokens_by_step(groups: dict[str, xr.Dataset]) -> dict[int, float]:
    """Return the tokens seen at each step where they are known."""
    found: dict[int, float] = {}
    for group in groups.values():
        if "tokens_seen" in group.coords:
            pairs = zip(group["step"].values, group["tokens_seen"].values, strict=True)
            found |= {int(step): float(seen) for step, seen in pairs if np.isfinite(seen)}
    return found


def _provenance(name: str, group: xr.Dataset, saved: list[int]) -> dict[str, str]:
    steps = [int(step) for step in group["step"].values]
    selected = group.attrs.get("selected_steps")  # None: all, or rows of an earlier version
    wanted = set(saved) if selected is None else set(saved) & set(selected)
    missing, skipped = sorted(wanted - set(steps)), set(saved) - wanted - set(steps)
    dtypes = sorted({str(values.dtype) for values in group.data_vars.values()})
    return {
        "group": name,
        "measure": f"{group.attrs.get('measure', name)} v{group.attrs.get('version', '?')}",
        "input": str((group.attrs.get("input") or {}).get("name", "weights only")),
        "parameters": _settings(group.attrs.get("parameters", {})),
        "checkpoints": f"{len(steps):,}, {_range(steps)}" if steps else "none",
        "not selected": f"{len(skipped):,}" if skipped else "none",
        "missing": listed([f"{step:,}" for step in missing], 8) if missing else "none",
        "dtype": ", ".join(dtypes),
    }


def _inputs(groups: dict[str, xr.Dataset]) -> dict[str, str]:
    """Return each input by its name: its kind, its digest and its settings."""
    described = [dict(g.attrs["input"]) for g in groups.values() if g.attrs.get("input")]
    return {f"input {about.pop('name', '')}": _settings(about) for about in described}


def _settings(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in _plain(given).items()) or "none"


def _plain(given: Mapping[str, Any]) -> dict[str, str]:
    """Return keys and values as text, with long values truncated."""
    text = {str(key): str(value) for key, value in given.items()}
    return {key: f"{v[:_LONGEST]}…" if len(v) > _LONGEST else v for key, v in text.items()}


def _resource(name: str) -> str:
    return (files("pipeline.report") / name).read_text(encoding="utf-8")


def _replace(path: Path, text: str) -> None:
    """Write a file atomically: the page may be opened while a run continues."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
