"""llms.txt (llmstxt.org): the site's pages for language models, with a line about each of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.writing import whole_file

_navigation: list[Any] = []
_NO_PROSE = ("#", "|", "```", "    ", "<", "- ", ":::", "!!!")


def remember(nav: Any) -> None:
    """Keep the navigation of the site that is being built."""
    _navigation[:] = [nav]


def write(site: Path, name: str, description: str) -> None:
    """Write the Markdown of each page beside it, and llms.txt with a link to each."""
    lines = [f"# {name}", "", f"> {description}"]
    for title, pages in _sections(_navigation[0].items):
        lines += ["", f"## {title}", ""]
        for page in pages:
            _write(site / page.file.src_uri, page.markdown)
            lines.append(f"- [{page.title}]({page.file.src_uri}): {first_sentence(page.markdown)}")
    _write(site / "llms.txt", "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def first_sentence(markdown: str) -> str:
    """Return the first sentence of a page's first paragraph of prose, without links."""
    parts = markdown.replace("\r", "").split("\n\n")
    prose = [part for part in parts if part.strip() and not part.startswith(_NO_PROSE)]
    text = " ".join((prose or [""])[0].split())
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return re.split(r"(?<=[.?:]) (?=[A-Z`*])", text, maxsplit=1)[0]


def _sections(items: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    alone = [one for one in items if one.is_page]
    if alone:
        yield "Overview", alone
    for one in items:
        if one.is_section:
            yield one.title, list(_pages(one))


def _pages(section: Any) -> Iterator[Any]:
    for one in section.children:
        if one.is_page:
            yield one
        elif one.is_section:
            yield from _pages(one)
