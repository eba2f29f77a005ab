"""Pages as HTML: Jinja2 templates with escaping, in which no text from a store is raw."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.printable import printable
from pipeline.report.site.arrays import script_json

TEMPLATES = "pages"


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """Return the HTML of a page."""
    return _environment().get_template(template).render(**content)


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,  # a misspelt name raises instead of printing nothing
    )
    made.globals.update(json=specification, kind=lambda one: type(one).__name__)
    return made


def _template(name: str) -> str:
    return (files("pipeline.report.site") / TEMPLATES / name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Return a value of a template without raw control characters; see `printable`."""
    # Markup is this package's own: its parts were made printable before they were escaped.
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, kept="\n\t") if plain else value


def specification(value: Any) -> Markup:
    """Return JSON for a <script> element, in which no text can end the element."""
    return Markup(script_json(value))
