"""Figures of a page: title, caption, and the specification that the site's script draws."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from pipeline.report.site.arrays import Json, exact, integers

KNOWN_ROLES = (
    "induction", "previous_token", "current_token", "duplicate_token", "first_token",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A figure. id: its name in the address of a page. note: its caption."""

    id: str
    title: str
    note: str
    spec: Json


def figure(
    id: str, title: str, note: str, spec: Json, stem: str, origin: "Source | None" = None
) -> Figure:
    """Return a figure with the names of its downloads and the lines that give its numbers."""
    about = {} if origin is None else {"python": origin.python, "command": origin.command}
    return Figure(id, title, note, {"file": f"{stem}-{id}", **spec, **about})


@dataclass(frozen=True)
class Source:
    """The one-line Python and command that give the numbers of a figure."""

    python: str
    command: str


def source(uri: str, group: str, variable: str, **labels: int) -> Source:
    """Return the lines for a variable at some labels, such as layer=1."""
    selected = ", ".join(f"{dim}={value}" for dim, value in labels.items())
    chosen = f".sel({selected})" if labels else ""
    options = "".join(f" --{dim} {value}" for dim, value in labels.items())
    return Source(
        f"open_run({uri!r})[{group!r}][{variable!r}]{chosen}",
        f"ontogeny query {shell_word(uri)} {shell_word(f'{group}/{variable}')}{options}",
    )


def together(each: Iterable[Source]) -> Source:
    """Return the lines for the numbers of a figure that shows several variables, or runs."""
    distinct = list(dict.fromkeys(each))
    if len(distinct) == 1:
        return distinct[0]
    python = ", ".join(one.python for one in distinct)
    return Source(f"[{python}]", " && ".join(one.command for one in distinct))


def shell_word(text: str) -> str:
    """Return a text as one word of a shell."""
    return shlex.quote(text)


def step_axis(steps: np.ndarray) -> Json:
    """Return the axis of the saved steps."""
    return {"label": "step", "values": integers(steps), "scale": "step"}


def series(name: str, values: np.ndarray | xr.DataArray, role: str = "none", **more: Any) -> Json:
    """Return one line. more: x, low, high (arrays), emphasis, href, dashed."""
    arrays = {key: exact(more.pop(key)) for key in ("x", "low", "high") if key in more}
    return {"name": name, "role": role, "values": exact(np.asarray(values)), **arrays, **more}


def y_axis(label: str, unit: str = "", domain: Sequence[float] | None = None) -> Json:
    """Return the vertical axis. domain: None to fit the numbers."""
    shown = {"unit": unit} if unit and unit != "1" else {}
    return {"label": label, **shown, "domain": None if domain is None else list(domain)}


def log_ends(arrays: Iterable[np.ndarray]) -> tuple[float, float] | None:
    """Return the ends of a logarithmic axis: around all numbers above 0; None without any."""
    each = np.concatenate([np.asarray(one, dtype=np.float64).ravel() for one in arrays])
    above = each[np.isfinite(each) & (each > 0)]
    return (float(above.min()) / 1.2, float(above.max()) * 1.2) if above.size else None


def band(start: float, end: float, label: str, role: str = "onset") -> Json:
    """Return a band from one step to another."""
    return {"from": float(start), "to": float(end), "label": label, "role": role}


def lines(
    x: Json, y: Json, drawn: Sequence[Json], bands: Sequence[Json] = (), rules: Sequence[Json] = ()
) -> Json:
    """Return the specification of lines over one axis."""
    return {"kind": "lines", "x": x, "y": y, "series": list(drawn), "bands": list(bands),
            "rules": list(rules)}  # fmt: skip


def strips(x: Json, panels: Sequence[Json], bands: Sequence[Json] = ()) -> Json:
    """Return the specification of panels over one axis.

    panels: lines, with x where they are at other steps.
    """
    return {"kind": "panels", "x": x, "panels": list(panels), "bands": list(bands)}


def role_of(label: str) -> str:
    """Return the colour role of a label or a score."""
    return label if label in KNOWN_ROLES else "none"
