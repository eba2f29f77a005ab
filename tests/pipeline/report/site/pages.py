"""A site as a browser reads it: links, identifiers, text, and the data of its figures."""

import base64
import gzip
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Page:
    links: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    specs: dict[str, Any] = field(default_factory=dict)
    cells: list[tuple[str, str]] = field(default_factory=list)  # data-value and text
    tags: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)  # of figures
    text: str = ""


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page, self.inside, self.figure, self.cell = Page(), ("", {}), "", None

    def handle_starttag(self, tag, attrs):
        at = dict(attrs)
        self.inside = (tag, at)
        self.page.tags.append(tag)
        if "id" in at:
            self.page.ids.append(at["id"])
        if tag == "figure":
            self.figure = at["id"]
        if tag == "a":
            self.page.links.append(at["href"])
        if tag in ("script", "link") and ("src" in at or at.get("rel") == "stylesheet"):
            self.page.files.append(at.get("src") or at["href"])
        if tag == "td":
            self.cell = [at["data-value"], ""]

    def handle_endtag(self, tag):
        self.inside = ("", {})
        if tag == "td":
            self.page.cells.append((self.cell[0], self.cell[1].strip()))
            self.cell = None

    def handle_data(self, data):
        tag, at = self.inside
        if at.get("class") == "spec":
            self.page.specs[self.figure] = json.loads(data)
        elif tag not in ("script", "style"):
            if tag == "h3" and self.figure not in self.page.specs:
                self.page.titles.append(data)
            self.page.text += data
            if self.cell is not None:
                self.cell[1] += data


def read(path: Path) -> Page:
    parser = _Parser()
    parser.feed(path.read_text())
    return parser.page


def numbers(array: Any) -> np.ndarray:
    """Return the numbers of an array of a specification, as the site's script reads them."""
    if isinstance(array, list):
        return np.array([np.nan if one is None else one for one in array], dtype=float)
    if "by" in array:
        return np.cumsum([array["from"], *(d for d, count in array["by"] for _ in range(count))])
    if "f32" in array:
        content = base64.b64decode(array["f32"])
        return np.frombuffer(content, "<f4").reshape(array["shape"])
    levels = np.frombuffer(gzip.decompress(base64.b64decode(array["u8"])), np.uint8)
    share = np.where(levels == 255, np.nan, levels / 254)
    values = array["low"] + share * (array["high"] - array["low"])
    return values.reshape(array["shape"])


def data_of(path: Path) -> tuple[str, Any]:
    """Return name and value of a data file."""
    text = path.read_text()
    assert text.startswith("ontogeny.data(") and text.endswith(");\n")
    return tuple(json.loads(f"[{text[len('ontogeny.data(') : -3]}]"))


def all_series(spec: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return every series with its horizontal axis, which a panel has for itself at other steps."""
    of_panels = [
        (one, {**spec["x"], **panel.get("x", {})})
        for panel in spec.get("panels", [])
        for one in panel["series"]
    ]
    return [(one, spec.get("x", {})) for one in spec.get("series", [])] + of_panels
