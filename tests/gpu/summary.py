"""The summary of a check on a GPU: summary.json, and a table to read, summary.md."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def write(lines: Sequence[Line], out: Path) -> int:
    """Write and print the summary of all lines. Returns 1 if anything failed, else 0."""
    found = summarise(lines)
    (out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    text = as_text(found)
    (out / "summary.md").write_text(text)
    print(text)
    return 0 if found["holds"] else 1


def summarise(lines: Sequence[Line]) -> dict[str, Any]:
    """Return what each part found: counts, the worst of like figures, failures, what is missing."""
    names = list(dict.fromkeys(line["part"] for line in lines))
    parts = {name: _part([line for line in lines if line["part"] == name]) for name in names}
    return {"holds": not any(part["failures"] for part in parts.values()), "parts": parts}


def _part(lines: Sequence[Line]) -> dict[str, Any]:
    figures = [line for line in lines if "name" in line and line["name"] != "seconds"]
    limited = [line for line in figures if line["holds"] is not None]
    return {
        "seconds": next((line["value"] for line in lines if line.get("name") == "seconds"), None),
        "figures": len(figures),
        "limited": len(limited),
        "failures": [ln for ln in lines if "failed" in ln or ln.get("holds") is False],
        "skipped": [line for line in lines if "skipped" in line],
        "worst": _worst(limited),
        "others": [line for line in figures if line["holds"] is None],
    }


def _worst(figures: Iterable[Line]) -> list[Line]:
    """Return of all figures with the same name, kernel and dtype the one nearest to its limit."""
    worst: dict[tuple[Any, ...], Line] = {}
    for line in figures:
        labels = line.get("labels", {})
        key = (line["name"], labels.get("kernel"), labels.get("dtype"))
        if key not in worst or _nearness(line) > _nearness(worst[key]):
            worst[key] = line
    return list(worst.values())


def _nearness(line: Line) -> float:
    """Return how near a figure is to its limit: more than 1 is outside of it."""
    if line["holds"] is False:
        return float("inf")
    value, limit = float(line["value"]), line.get("at_most")
    if limit is not None:
        return value / limit if limit else 0.0
    return line["at_least"] / value if value else 0.0


def as_text(found: dict[str, Any]) -> str:
    """Return the summary as Markdown."""
    said = "all figures hold" if found["holds"] else "NOT all figures hold"
    rows = [f"# Check on a GPU: {said}", ""]
    rows += ["| part | seconds | figures | with a limit | failures | skipped |"]
    rows += ["|---|---|---|---|---|---|"]
    for name, part in found["parts"].items():
        counts = part["figures"], part["limited"], len(part["failures"]), len(part["skipped"])
        rows.append(f"| {name} | {part['seconds']} | {' | '.join(map(str, counts))} |")
    for name, part in found["parts"].items():
        rows += ["", f"## {name}", ""]
        rows += [f"- FAILED: {_text(line)}" for line in part["failures"]]
        rows += [f"- skipped: {line['skipped']} ({line['why']})" for line in part["skipped"]]
        rows += [f"- worst: {_text(line)}" for line in part["worst"]]
        rows += [f"- {_text(line)}" for line in part["others"]]
    return "\n".join(rows) + "\n"


def _text(line: Line) -> str:
    if "failed" in line:
        return f"{line['failed']}: {line['why']}"
    value = line["value"]
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = f"{line['name']} = {shown} {line['unit']}".rstrip()
    for limit, sign in (("at_most", "<="), ("at_least", ">=")):
        if limit in line:
            text += f" ({sign} {line[limit]:.4g})"
    labels = ", ".join(f"{key} {label}" for key, label in line.get("labels", {}).items())
    return f"{text} [{labels}]" if labels else text
