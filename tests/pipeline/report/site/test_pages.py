"""A written site in a real browser, over file:// and http, wide and narrow, light and dark."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pipeline import open_run
from pipeline.report import write_report
from tests.pipeline.report import fake
from tests.pipeline.report.site import stores
from tests.pipeline.report.site.browser import Errors, chromium
from tests.pipeline.report.site.test_site import check_links

SERVED = ["file", "http"]
SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
THEMES = ["light", "dark"]
KINDS = ["overview", "heads", "head-L1H1", "composition", "loss", "checkpoints", "method"]
FOUND = ".results a"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing about requests."""


class Site(NamedTuple):
    folder: Path
    uri: str
    bases: dict[str, str]  # address of the folder over file:// and http


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def sites(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    """Write the sites of one run and of three, and serve them."""
    folder = tmp_path_factory.mktemp("sites")
    language = stores.language(f"{folder}/run.zarr")
    made = fake.modular_addition()
    modular = stores.stored(f"{folder}/modular.zarr", made["step"].values, modular_addition=made)
    write_report([modular], folder / "one")
    heads = stores.stored(f"{folder}/heads.zarr", head_scores=fake.head_scores())
    write_report([language, modular, heads], folder / "several")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    http = f"http://127.0.0.1:{server.server_port}"
    yield {
        name: Site(folder / name, language,
                   {"file": (folder / name).as_uri(), "http": f"{http}/{name}"})
        for name in ("one", "several")
    }  # fmt: skip
    server.shutdown()
    server.server_close()


@pytest.fixture
def visit(browser: Any, sites: dict[str, Site]) -> Iterator[Any]:
    """Return a function that opens a page; the errors of all that it opened fail the test."""
    opened = []

    def open_page(
        path: str, served: str = "file", size: str = "wide", site: str = "several", **state: str
    ) -> Any:
        width, height = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height})
        base = sites[site].bases[served]
        opened.append((page, Errors(page, f"{base}/")))
        query = "&".join(f"{key}={value}" for key, value in state.items())
        page.goto(f"{base}/{path}?{query}")
        return page

    yield open_page
    errors = [error for _, found in opened for error in found]
    for page, _ in opened:
        page.close()
    assert not errors


def texts(values: np.ndarray) -> list[str]:
    """Return the numbers of cells as they are written, the last layer at the top."""
    return [f"{value:.2f}" for value in values[::-1].ravel()]


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("served", SERVED)
def test_a_step_is_chosen_a_head_opened_and_the_state_kept(
    visit: Any, sites: dict[str, Site], served: str, size: str, theme: str
) -> None:
    stored = open_run(sites["several"].uri)["head_scores"].to_dataset()
    page = visit("run/heads.html", served, size, theme=theme)
    page.wait_for_selector("#mosaic .plot[data-drawn]")
    cells = page.locator("#mosaic .cell")
    background = "element => getComputedStyle(element).backgroundColor"
    colour = cells.nth(1).evaluate(background)
    assert cells.all_text_contents() == texts(stored["induction"].values[-1])
    page.locator("#mosaic .step-slider").fill("3")
    assert cells.all_text_contents() == texts(stored["induction"].values[3])
    assert cells.nth(1).evaluate(background) != colour  # L1H1 forms
    page.locator("#mosaic select.score").select_option("previous_token")
    step = int(stored["step"].values[3])
    page.wait_for_function(f"location.search.includes('step={step}')")
    page.reload()
    page.wait_for_selector("#mosaic .plot[data-drawn]")
    assert cells.all_text_contents() == texts(stored["previous_token"].values[3])
    assert page.locator("html").get_attribute("data-theme") == theme
    cells.nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/head-L1H1.html*")
    assert page.locator("h1").text_content().startswith("L1H1")
    for entry in (f"step={step}", "score=previous_token", f"theme={theme}"):
        assert entry in page.url


@pytest.mark.parametrize("served", SERVED)
def test_every_page_draws_its_first_figure_without_a_horizontal_bar(
    visit: Any, sites: dict[str, Site], served: str
) -> None:
    size, theme = {"file": ("narrow", "dark"), "http": ("narrow", "light")}[served]
    page = visit("run/overview.html", served, size, theme=theme)
    base = sites["several"].bases[served]
    for path in sorted(sites["several"].folder.glob("run/*.html")):
        if path.stem.startswith("head-") and path.stem != "head-L1H1":
            continue  # pages of one kind
        page.goto(f"{base}/run/{path.name}?theme={theme}")
        if page.locator(".figure").count():
            page.wait_for_selector(".figure .plot[data-drawn]")
        assert page.evaluate("document.documentElement.scrollWidth") == 390, path.name
        assert page.locator(".error").count() == 0, path.name


@pytest.mark.parametrize("served", SERVED)
@pytest.mark.parametrize(
    ("sought", "first"),
    [("induction", "L1H1"), ("previous token", "L0H2"), ("layer 1", "L1H0"), ("l0h3", "L0H3")],
)
def test_search_finds_heads_by_label_layer_and_name(
    visit: Any, served: str, sought: str, first: str
) -> None:
    page = visit("run/overview.html", served)
    page.locator("h1").click()
    page.keyboard.press("/")
    page.keyboard.type(sought)
    page.wait_for_selector(FOUND)
    assert first in page.locator(FOUND).all_text_contents()
    page.keyboard.press("Escape")
    assert page.locator(FOUND).count() == 0 or page.locator(FOUND).first.is_hidden()


def test_search_finds_a_head_by_its_score_and_opens_it(visit: Any) -> None:
    page = visit("run/overview.html")
    heads = page.evaluate("ontogeny.heads")
    labelled = next(head for head in heads if head["label"] and head["score"])
    page.keyboard.press("/")
    page.keyboard.type(f"{labelled['name']} {labelled['score']:.2f}")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/head-{labelled['name']}.html*")


@pytest.mark.parametrize("served", SERVED)
def test_runs_side_by_side(visit: Any, sites: dict[str, Site], served: str) -> None:
    page = visit("index.html", served, "narrow", theme="dark")
    page.wait_for_selector(".figure .plot[data-drawn]")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    mosaics = page.locator(".figure:has(.cell)")
    assert mosaics.count() == 2 and mosaics.locator(".step-slider:visible").count() == 1
    stored = open_run(sites["several"].uri)["head_scores"].to_dataset()["induction"].values
    mosaics.locator(".step-slider:visible").fill("3")
    for mosaic in mosaics.all():
        assert mosaic.locator(".cell").all_text_contents() == texts(stored[3])
    page.keyboard.press("/")
    page.keyboard.type("L1H1")
    page.locator(FOUND).first.click()
    page.wait_for_url("**/run/head-L1H1.html*")
    assert "theme=dark" in page.url
    page.go_back()
    page.locator("table a", has_text="modular").first.click()
    page.wait_for_selector(".figure .plot[data-drawn]")


@pytest.mark.parametrize("served", SERVED)
def test_the_first_page_of_one_run_is_its_overview(visit: Any, served: str) -> None:
    page = visit("index.html", served, "narrow", "one")
    page.wait_for_url("**/modular/overview.html*")
    page.wait_for_selector(".figure .plot[data-drawn]")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_every_link_of_every_page_resolves(sites: dict[str, Site]) -> None:
    assert check_links(sites["one"].folder) > 10
    assert check_links(sites["several"].folder) > 200


def serious(page: Any) -> list[str]:
    """Return what axe finds that is serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    # preload reads style sheets by XHR, which file:// refuses.
    options = {"resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['html'][:90]}"
        for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]
    ]  # fmt: skip


def draw_all(page: Any) -> None:
    for plot in page.locator(".figure .plot").all():
        plot.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('.figure .plot')].every(plot => plot.dataset.drawn)"
    )


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("path", [*(f"run/{kind}.html" for kind in KINDS), "index.html",
                                  "modular/progress.html"])  # fmt: skip
def test_axe_finds_nothing_serious(visit: Any, path: str, theme: str) -> None:
    page = visit(path, theme=theme)
    draw_all(page)
    assert serious(page) == []
