"""A headless Chromium, and pages with one figure each, for tests of the site's scripts."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pipeline.report

ASSETS = Path(pipeline.report.__file__).parent / "site" / "assets"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

DIGEST = "3d14bffe" * 8  # a word that is wider than a narrow screen

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A run</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="assets/site.css"></head>
<body><header><nav><a href="other.html">Other</a></nav>
<button type="button" data-action="steps">steps</button>
<button type="button" data-action="theme">theme</button>
<div class="search"><input type="search" aria-label="Search a head"></div></header>
<main><h1>A run</h1><h2>Figures</h2>{figures}{more}</main><footer>Digest {digest}.</footer>
<script>window.ontogeny = {{heads: {heads}}}</script>
<script src="assets/plot.js"></script><script src="assets/list.js"></script>
<script src="assets/site.js"></script></body></html>"""

FIGURE = """<figure class="figure" id="{id}"><h3>Title of {id}</h3><p class="note">A note.</p>
<div class="plot"></div><script type="application/json" class="spec">{spec}</script></figure>"""


def write_page(
    folder: Path, specs: dict[str, Any], heads: list[dict[str, Any]] | None = None, more: str = ""
) -> str:
    """Write a page with these figures beside the site's assets; return its file:// address."""
    shutil.copytree(ASSETS, folder / "assets", dirs_exist_ok=True)
    figures = "".join(FIGURE.format(id=id, spec=json.dumps(spec)) for id, spec in specs.items())
    page = folder / "run.html"
    page.write_text(
        PAGE.format(figures=figures, heads=json.dumps(heads or []), more=more, digest=DIGEST)
    )
    (folder / "other.html").write_text(PAGE.format(figures="", heads="[]", more="", digest=DIGEST))
    return page.as_uri()


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser; skip the test where it, or playwright, is not installed."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("needs playwright, which the extra `test` installs")
    if CHROMIUM is None:
        pytest.skip("needs a component: chromium")
    with sync_playwright() as playwright:
        # Containers run as root, where Chromium's sandbox does not start; the pages are the tests'.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Errors(list[str]):
    """Errors and warnings of a page, and requests that leave its site, by default all files."""

    def __init__(self, page: Any, site: str = "file:") -> None:
        super().__init__()
        self.allowed = (site, "data:", "blob:")
        page.on(
            "console", lambda said: said.type in ("error", "warning") and self.append(said.text)
        )
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("request", lambda asked: self._check(asked.url))

    def _check(self, url: str) -> None:
        if not url.startswith(self.allowed):
            self.append(f"request of {url}")
