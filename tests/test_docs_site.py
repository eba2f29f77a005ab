"""The documentation site: built strictly, with no dead link, and nothing from another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer

import pipeline
from flows.cli import app
from tests.pipeline.report.site.browser import Errors, chromium

ROOT = Path(__file__).resolve().parents[1]
LOADING = {"img", "script", "iframe", "audio", "video", "source", "embed", "object", "input"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site in strict mode, some 10 s."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


class Page(HTMLParser):
    """The ids of a page, what it links to, and what a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link":
            self.loads.append(given.get("href", ""))
        if tag in LOADING:
            self.loads += [given[name] for name in ("src", "srcset", "data") if name in given]


def pages_of(folder: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}


def dead_links(folder: Path) -> list[str]:
    """Return the links within a site to a page, a file or a part of a page that is not there."""
    pages, dead = pages_of(folder), []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are relative to any address
            continue
        for link in (*page.links, *page.loads):
            to = urlsplit(link)
            if to.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            there = target.is_file() or (target.is_dir() and to.path in (".", "./"))
            known = pages[target].ids | {"", "__"} if target in pages else {to.fragment}
            if not there or unquote(to.fragment) not in known:
                dead.append(f"{path.relative_to(folder.resolve())}: {link}")
    return dead


def outside_loads(folder: Path) -> list[str]:
    """Return what pages and styles of a site make a browser load from another host."""
    asked = [link for page in pages_of(folder).values() for link in page.loads]
    for style in folder.rglob("*.css"):
        text = style.read_text("utf-8")
        asked += re.findall(r"url\(\s*['\"]?([^'\")]+)", text)
        asked += re.findall(r"@import\s+['\"]([^'\"]+)", text)
    return [link for link in asked if link.startswith(("http:", "https:", "//"))]


def test_no_link_is_dead(site: Path) -> None:
    assert len(pages_of(site)) > 25
    assert dead_links(site) == []


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    assert outside_loads(site) == []


def test_dead_links_and_outside_loads_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="#top"></a><a href="b.html"></a><a href="#below"></a>'
        '<a href="https://example.org"></a><script src="//example.org/a.js"></script>'
    )
    (tmp_path / "a.css").write_text('@import "http://example.org/b.css"; a {color: red}')
    assert dead_links(tmp_path) == ["a.html: b.html", "a.html: #below"]
    assert outside_loads(tmp_path) == ["//example.org/a.js", "http://example.org/b.css"]


def test_reference_has_every_command_and_option(site: Path) -> None:
    text = (site / "reference/commands.html").read_text("utf-8")
    group: Any = typer.main.get_command(app)
    names = {*group.commands, *group.commands["store"].commands, *group.commands["submit"].commands}
    assert len(names) > 20
    for name in names:
        assert name in text
    options = [one for one in group.commands["query"].params if one.param_type_name == "option"]
    assert len(options) > 10
    assert all(name in text for option in options for name in option.opts)


def test_reference_has_every_public_name(site: Path) -> None:
    page = Page(site / "reference/python.html")
    homes = {full.rpartition(".")[2] for full in page.ids if full.startswith("pipeline.")}
    assert set(pipeline.__all__) - {"__version__"} <= homes


def test_reference_has_every_field(site: Path) -> None:
    from pipeline.config import Analysis, Workers
    from pipeline.training.config import Optimizer, Training

    for page, models in {
        "analysis": (Analysis, Workers),
        "training": (Training, Optimizer),
    }.items():
        text = (site / f"reference/{page}.html").read_text("utf-8")
        for model in models:
            assert all(f"<code>{name}</code>" in text for name in model.model_fields)


def test_llms_txt_links_to_every_page(site: Path) -> None:
    text = (site / "llms.txt").read_text("utf-8")
    assert re.match(r"# Ontogeny\n\n> [^\n]+\n\n## ", text)
    links = re.findall(r"^- \[[^]]+\]\(([^)]+)\): \S", text, re.MULTILINE)
    assert all((site / link).is_file() for link in links)
    pages = {str(path.relative_to(site).with_suffix(".md")) for path in site.rglob("*.html")}
    assert set(links) == pages - {"404.md"}


@pytest.fixture(scope="module")
def browser() -> Any:
    with chromium() as started:
        yield started


def test_pages_open_from_a_disk_without_errors(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    errors = Errors(page)
    for name in ("index", "tutorial-induction", "reference/commands", "reference/analysis", "faq"):
        page.goto((site / f"{name}.html").as_uri())
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0, name
    assert errors == []
    page.close()


def test_search_works_from_a_disk(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    errors = Errors(page)
    page.goto((site / "index.html").as_uri())
    page.fill("input[name=query]", "prefix matching")
    found = page.locator(".md-search-result__link")
    found.first.wait_for(timeout=20_000)
    assert any("measures.html" in one.get_attribute("href") for one in found.all())
    assert errors == []
    page.close()
