"""The site's scripts in a real browser: what they draw, and what their switches change."""

import base64
import csv
import gzip
import io
import json
import math
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.report.site.browser import Errors, chromium, write_page

STEPS = [0, 1, 10, 100, 1000]
RNG = np.random.default_rng(0)
HEADS = ["L0H0", "L0H1", "L1H0", "L1H1"]


def f32(values: Any) -> dict[str, Any]:
    array = np.asarray(values, "<f4")
    return {"f32": base64.b64encode(array.tobytes()).decode(), "shape": list(array.shape)}


def u8(levels: list[int], low: float, high: float) -> dict[str, Any]:
    content = base64.b64encode(gzip.compress(bytes(levels))).decode()
    return {"u8": content, "shape": [len(levels)], "low": low, "high": high}


SCORE = RNG.random(5).astype("f4")
FRAMES = RNG.random((5, 2, 2)).astype("f4")
OTHER = RNG.random((5, 2, 2)).astype("f4")
ATTENTION = np.tril(RNG.random((2, 4, 4))).astype("f4")
X = {"label": "step", "values": STEPS, "scale": "step"}
LINE = {"name": "L1H1", "role": "induction", "values": f32(SCORE), "emphasis": True}
EDGES = [[{"from": "L0H0", "to": "L1H1", "by": "k", "value": 0.2 + 0.1 * i}] for i in range(5)]
LONG = ["modular_addition/restricted_loss, fall · modular-addition", "weight_norm · " + "run" * 20]
LABELS = [[[-1, -1], [-1, -1]]] * 2 + [[[-1, 0], [-1, -1]]] + [[[-1, 0], [1, -1]]] * 2
TWO = [{"name": "a", "values": [1, 2, 3, 4, 5]}, {"name": "b", "values": [2, 3, 4, 5, 6]}]
AXES = [
    {"name": "steps", "label": "step", "scale": "step", "values": [STEPS, STEPS]},
    {"name": "tokens", "label": "tokens seen", "scale": "step",
     "values": [f32([0, 4, 40, 400, 4000]), f32([0, 8, 80, 800, 8000])]},
    {"name": "onset", "label": "steps since the onset", "scale": "linear",
     "values": [[step - 10 for step in STEPS], [step - 100 for step in STEPS]]},
]  # fmt: skip
CELLS = {"rows": ["L1", "L0"], "columns": ["H0", "H1"]}

SPECS: dict[str, dict[str, Any]] = {
    "lines": {
        "kind": "lines", "file": "induction-L1H1", "x": X,
        "y": {"label": "score", "domain": [0, 1]},
        "series": [LINE, {"name": "L1H0", "values": [0.1, None, 0.2, 0.3, 0.2],
                          "low": [0.0] * 5, "high": [0.4] * 5}],
        "bands": [{"from": 10, "to": 100, "label": "forms", "role": "onset"}],
        "rules": [{"y": 0.3, "label": "rule"}],
        "python": "open_run('a')", "command": "ontogeny query",
    },
    "panels": {"kind": "panels", "x": X, "panels": [
        {"kind": "lines", "y": {"label": "loss", "unit": "nats"}, "series": [LINE]},
        {"kind": "lines", "y": {"label": "score"}, "series": [LINE]},
    ]},
    "strips": {"kind": "panels", "x": X, "panels": [
        {"kind": "lines", "y": {"label": "loss", "unit": "nats"}, "series": [LINE]},
        {"kind": "lines", "x": {"label": "step", "values": [500, 750, 2000], "scale": "step"},
         "y": {"label": "score"},
         "series": [{"name": "head", "role": "test", "values": [0.25, 0.5, 1],
                     "low": [0, 0.25, 0.5], "high": [0.5, 1, 1]}]},
    ]},
    "stems": {"kind": "stems", "x": X, "y": {"label": "increase", "unit": "nats"},
              "series": [{"name": "L1H1", "values": [0, -0.5, 0.25, 0.5, 1.5]}]},
    "scatter": {"kind": "scatter", "x": {"label": "one", "scale": "linear"}, "y": {"label": "two"},
                "series": [{"name": "run", "x": [0, 1, 2], "values": [0, 2, 1],
                            "steps": [0, 5, 9]}],
                "marks": [{"x": 1, "y": 2, "label": "corner"}]},
    "bars": {"kind": "bars", "rows": HEADS, "y": {"label": "increase"},
             "series": [{"name": "", "values": [0.5, -0.25, 1, 2]}]},
    "intervals": {"kind": "intervals", "x": X, "rows": HEADS[:2],
                  "series": [{"name": "", "values": [None, 55], "low": [10, 50],
                              "high": [20, 60]}]},
    "named": {"kind": "intervals", "x": {"label": "step", "scale": "step"}, "rows": LONG,
              "series": [{"name": "", "values": [787.96, 39.88], "low": [787.96, 38.36],
                          "high": [871, 44.81]}]},
    "mosaic": {"kind": "mosaic", **CELLS, "names": ["L1H0", "L1H1", "L0H0", "L0H1"],
               "hrefs": ["other.html"] * 4, "y": {"domain": [0, 1]},
               "frames": {"steps": STEPS, "total": 9, "scores": [
                   {"name": "induction", "values": f32(FRAMES)},
                   {"name": "copying", "values": f32(OTHER)}]}},
    "matrix": {"kind": "matrix", **CELLS, "values": u8([0, 127, 254, 255], -1, 1),
               "y": {"domain": [-1, 1]}},
    "large": {"kind": "matrix", "rows": [str(i) for i in range(50)],
              "columns": [str(i) for i in range(50)], "values": f32(RNG.random((50, 50)))},
    "graph": {"kind": "graph", "rules": [{"y": 0.125}], "frames": {"steps": STEPS, "edges": EDGES},
              "nodes": [{"name": name, "layer": int(name[1]), "href": "other.html"}
                        for name in HEADS]},
    "attention": {"kind": "attention", "tokens": ["a", "b", "a", "b"],
                  "frames": {"steps": [0, 1000], "values": f32(ATTENTION)}},
    "texts": {"kind": "attention", "texts": [
        {"name": name, "tokens": tokens, "frames": {"steps": [0], "values": u8(levels, 0, 1)}}
        for name, tokens, levels in (
            ("first", ["a", "b"], [254, 255, 127, 100]),
            ("second", ["c", "d", "e"], [254, 255, 255, 100, 90, 255, 30, 60, 90]))]},
    "labelled": {"kind": "mosaic", "file": "heads", **CELLS, "group": "heads", "of": 7,
                 "names": HEADS[2:] + HEADS[:2], "hrefs": ["other.html"] * 4,
                 "frames": {"steps": STEPS, "scores": [
                     {"name": "induction", "values": f32(FRAMES), "domain": [0, 1]}]},
                 "labels": {**f32(LABELS), "names": ["induction", "previous_token"],
                            "roles": ["induction", "previous_token"]},
                 "onsets": f32([[math.nan, 10], [100, math.nan]])},
    "linked": {"kind": "mosaic", **CELLS, "group": "heads", "y": {"domain": [0, 1]},
               "frames": {"steps": [0, 60, 1900], "values": f32(FRAMES[:3])}},
    "many": {"kind": "mosaic", "rows": [f"L{i}" for i in range(24)], "hrefs": ["other.html"] * 384,
             "columns": [f"H{i}" for i in range(16)], "values": f32(RNG.random((24, 16)))},
    "axes": {"kind": "lines", "axes": AXES, "series": TWO},
    "also": {"kind": "lines", "axes": [AXES[0], AXES[2]], "series": TWO},
    "spread": {"kind": "lines", "y": {"label": "loss", "unit": "nats"},
               "x": {"label": "steps since", "scale": "linear", "values": [[0, 1], [-1, 0, 1]]},
               "series": [{"name": "run", "values": [3, 1]},
                          {"name": "all", "values": [4, 3, 2], "low": f32([1, 2, 1.1]),
                           "high": [5, None, 3]}]},
    "late": {"kind": "matrix", **CELLS, "frames": {"steps": [0], "files": ["late"]}},
}  # fmt: skip
SEARCHED = [
    {"name": "L1H1", "label": "induction", "score": 0.92, "layer": 1, "href": "other.html"},
    {"name": "L0H1", "label": "previous_token", "score": 0.5, "layer": 0, "href": "other.html"},
]
TABLE = """<table class="sortable" data-filter><thead><tr><th>head</th><th>value</th></tr></thead>
<tbody><tr><td>L1H1</td><td>−2</td></tr><tr><td>L0H0</td><td>1,000</td></tr>
<tr><td>L0H1</td><td>–</td></tr><tr><td>L1H0</td><td>30</td></tr></tbody></table>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("site")
    (folder / "data").mkdir()
    (folder / "data" / "late.js").write_text(
        f"ontogeny.data('late', {json.dumps(f32([[1, 2], [3, 4]]))})"
    )
    return write_page(folder, SPECS, SEARCHED, TABLE)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    errors = Errors(opened)
    opened.goto(address)
    yield opened
    opened.close()
    assert not errors


def draw(page: Any, *ids: str) -> None:
    """Scroll to figures, all of them by default, and wait until they are drawn."""
    for id in ids or SPECS:
        page.locator(f"#{id}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{id} .plot[data-drawn]")


def test_every_kind_is_drawn(page: Any) -> None:
    draw(page)
    assert page.locator(".error").count() == 0
    marks = {
        id: page.locator(f"#{id} .plot").evaluate(
            "plot => plot.querySelectorAll('svg path, svg circle, svg rect, .cell, canvas').length"
        )
        for id in SPECS
    }
    assert all(count > 0 for count in marks.values()), marks
    assert page.locator("#panels svg").count() == 2
    # 4 stems' heads above or at 0, and one below, which is hollow.
    fills = page.locator("#stems svg circle").evaluate_all(
        "all => all.map(c => c.getAttribute('fill'))"
    )
    assert fills.count("var(--page)") == 1 and len(fills) == 5
    assert page.locator("#late .cell").all_text_contents() == ["1.00", "2.00", "3.00", "4.00"]


def test_figures_below_the_screen_are_not_drawn_before_they_come_near(page: Any) -> None:
    page.wait_for_selector("#lines .plot[data-drawn]")
    assert page.locator("#late .plot[data-drawn]").count() == 0


def test_every_chart_has_one_name_and_its_parts_have_none(page: Any) -> None:
    draw(page)
    assert page.locator(".plot svg:not([role=img]):not([role=group])").count() == 0
    assert page.locator(".plot svg[role=img] [aria-label]").count() == 0
    name = page.locator("#lines svg").get_attribute("aria-label")
    assert "Title of lines" in name and f"{SCORE[-1]:.2f} at the end" in name


def test_slider_moves_the_mosaic_and_all_other_figures_with_steps(page: Any) -> None:
    draw(page, "mosaic", "graph")
    cells = "#mosaic .cell"
    expected = [f"{value:.2f}" for value in FRAMES[-1].ravel()]
    assert page.locator(cells).all_text_contents() == expected
    width = page.locator("#graph path.edge").get_attribute("stroke-width")
    page.locator("#mosaic .step-slider").fill("1")
    assert page.locator(cells).all_text_contents() == [f"{v:.2f}" for v in FRAMES[1].ravel()]
    assert (
        "step 1 (2 of 5); 5 of 9 checkpoints" in page.locator("#mosaic output.step").text_content()
    )
    assert page.locator("#graph path.edge").get_attribute("stroke-width") != width
    page.locator("#mosaic select").select_option("copying")
    assert page.locator(cells).all_text_contents() == [f"{v:.2f}" for v in OTHER[1].ravel()]
    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    assert page.locator(cells).all_text_contents() == [f"{v:.2f}" for v in OTHER[2].ravel()]


def test_playback_ends_at_the_last_step(page: Any) -> None:
    draw(page, "mosaic")
    page.locator("#mosaic .play").click()
    assert page.locator("#mosaic .play").text_content() == "Pause"
    page.wait_for_function("document.querySelector('#mosaic .play').textContent === 'Play'")
    assert page.locator("#mosaic .step-slider").input_value() == "4"


def test_state_is_in_the_address_survives_reload_and_goes_into_links(page: Any) -> None:
    draw(page, "mosaic")
    page.locator("#mosaic .step-slider").fill("3")
    page.locator("#mosaic select").select_option("copying")
    page.locator("[data-action=steps]").click()
    page.locator("[data-action=theme]").click()
    page.wait_for_function("location.search.includes('step=100')")
    page.reload()
    draw(page, "mosaic")
    assert page.locator("[data-action=steps]").text_content() == "steps: log"
    assert page.locator("html").get_attribute("data-theme") == "light"
    assert page.locator("#mosaic .cell").all_text_contents() == [
        f"{v:.2f}" for v in OTHER[3].ravel()
    ]
    page.locator("#mosaic a.cell").first.click()
    page.wait_for_url("**/other.html*")
    for entry in ("step=100", "score=copying", "steps=log", "theme=light"):
        assert entry in page.url


def ticks(page: Any) -> dict[str, float]:
    """Return the place of each step of the axis, as a share of the axis's length."""
    found = page.locator("#lines svg g text").evaluate_all(
        "all => all.map(t => [t.textContent, t.getBoundingClientRect().x"
        " + t.getBoundingClientRect().width / 2, t.getBoundingClientRect().y])"
    )
    lowest = max(y for _, _, y in found)
    places = {text.replace(",", ""): x for text, x, y in found if abs(y - lowest) < 2}
    length = places["1000"] - places["0"]
    return {text: (x - places["0"]) / length for text, x in places.items()}


def test_steps_are_linear_or_as_their_logarithm(page: Any) -> None:
    page.wait_for_selector("#lines .plot[data-drawn]")
    assert ticks(page)["200"] == pytest.approx(0.2, abs=0.01)
    page.locator("[data-action=steps]").click()
    page.wait_for_function("!document.querySelector('#lines svg').textContent.includes('200')")
    # log(1 + 10) / log(1 + 1000), log(1 + 100) / log(1 + 1000)
    assert ticks(page)["10"] == pytest.approx(math.log1p(10) / math.log1p(1000), abs=0.01)
    assert ticks(page)["100"] == pytest.approx(math.log1p(100) / math.log1p(1000), abs=0.01)


def test_theme_changes_colours_without_a_new_drawing(page: Any) -> None:
    draw(page, "lines", "mosaic", "large")
    color = "element => getComputedStyle(element).backgroundColor"
    stroke = "all => all.map(p => getComputedStyle(p).stroke)"
    seen = []
    for theme in ("light", "dark"):
        page.evaluate("theme => ontogeny.setState({theme})", theme)
        seen.append((
            page.locator("body").evaluate(color),
            page.locator("#mosaic .cell").first.evaluate(color),
            tuple(page.locator("#lines svg path").evaluate_all(stroke)),
            page.locator("#large canvas").evaluate("canvas => canvas.toDataURL()"),
        ))  # fmt: skip
    for light, dark in zip(*seen, strict=True):
        assert light != dark


def saved(page: Any, id: str, button: str) -> tuple[str, bytes]:
    """Return the name and the content of what an entry of a figure's menu saves."""
    page.locator(f"#{id} summary").click()
    with page.expect_download() as found:
        page.locator(f"#{id} .menu button", has_text=button).first.click()
    page.locator(f"#{id} summary").click()
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_csv_has_the_stored_numbers(page: Any) -> None:
    draw(page, "lines", "mosaic", "attention", "graph")
    name, content = saved(page, "lines", "CSV")
    rows = rows_of(content)
    assert name == "induction-L1H1.csv"
    assert [int(row["step"]) for row in rows] == STEPS
    assert [np.float32(row["L1H1"]) for row in rows] == SCORE.tolist()
    assert [row["L1H0"] for row in rows] == ["0.1", "", "0.2", "0.3", "0.2"]
    assert {row["L1H0 high"] for row in rows} == {"0.4"}
    cells = rows_of(saved(page, "mosaic", "CSV")[1])
    numbers = [np.float32(row["value"]) for row in cells]
    assert numbers == [*FRAMES.ravel().tolist(), *OTHER.ravel().tolist()]
    assert cells[5] == {**cells[5], "score": "induction", "step": "1", "row": "L1", "column": "H1"}
    attention = rows_of(saved(page, "attention", "CSV")[1])
    lower = [ATTENTION[f, q, k] for f in range(2) for q in range(4) for k in range(q + 1)]
    assert [np.float32(row["attention"]) for row in attention] == lower
    edges = rows_of(saved(page, "graph", "CSV")[1])
    assert [float(row["value"]) for row in edges] == [frame[0]["value"] for frame in EDGES]


def test_csv_of_lines_at_different_steps_has_their_spread(page: Any) -> None:
    draw(page, "spread")
    rows = rows_of(saved(page, "spread", "CSV")[1])
    keys = ("name", "steps since", "loss", "low", "high")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("run", "0", "3", "", ""), ("run", "1", "1", "", ""),
        ("all", "-1", "4", "1", "5"), ("all", "0", "3", "2", ""), ("all", "1", "2", "1.1", "3"),
    ]  # fmt: skip


def test_a_strip_has_its_own_steps_on_the_axis_of_all(page: Any) -> None:
    draw(page, "strips")
    rows = rows_of(saved(page, "strips", "CSV")[1])
    steps = {panel: [int(row["step"]) for row in rows if row["panel"] == panel]
             for panel in ("loss", "score")}  # fmt: skip
    assert steps == {"loss": STEPS, "score": [500, 750, 2000]}
    assert [row["high"] for row in rows if row["panel"] == "score"] == ["0.5", "1", "1"]
    ends = []
    for role in ("induction", "test"):
        path = page.locator(f"#strips g[stroke='var(--role-{role})'][fill=none] path")
        box = path.first.evaluate("path => {const b = path.getBBox(); return [b.x, b.x + b.width]}")
        ends.append(box)
    (first, to_1000), (at_500, last) = ends
    assert (to_1000 - first) / (last - first) == pytest.approx(1000 / 2000, abs=1e-3)
    assert (at_500 - first) / (last - first) == pytest.approx(500 / 2000, abs=1e-3)


def test_colours_in_8_bits_are_decoded_and_never_read_as_exact(page: Any) -> None:
    draw(page, "matrix")
    # 254 steps from -1 to 1: byte 0 is -1, 127 is 0, 254 is 1; 255 is undefined.
    rows = rows_of(saved(page, "matrix", "CSV")[1])
    assert [row["value (8 bits)"] for row in rows] == ["-1", "0", "1", ""]
    assert page.locator("#matrix .cell").all_text_contents() == [""] * 4
    assert page.locator("#matrix .cell").nth(2).get_attribute("title") == "L0H0: about 1"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_stand_alone(page: Any, theme: str) -> None:
    page.evaluate("theme => ontogeny.setState({theme})", theme)
    draw(page, "lines", "mosaic", "large", "graph")
    background = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    for id in ("lines", "mosaic", "large", "graph"):
        name, content = saved(page, id, "SVG")
        assert name.endswith(".svg") and b"var(--" not in content and b"class=" not in content
        texts = [
            one.text for one in ET.fromstring(content).iter("{http://www.w3.org/2000/svg}text")
        ]
        assert texts[0] == f"Title of {id}" and texts[1].startswith("A note.")
        assert "Play" not in texts
        first = ET.fromstring(content)[0]
        assert first.tag.endswith("rect") and first.attrib["fill"] == background
    assert saved(page, "mosaic", "SVG")[0] == "mosaic-induction-step-1000.svg"
    name, content = saved(page, "lines", "PNG")
    assert name == "induction-L1H1.png" and content.startswith(b"\x89PNG")
    width, _ = struct.unpack(">II", content[16:24])
    box = page.locator("#lines svg").bounding_box()
    assert width == pytest.approx(2 * (box["width"] + 24), abs=2)


def test_pictures_have_no_empty_strip_of_controls(page: Any) -> None:
    draw(page, "mosaic")
    picture = ET.fromstring(saved(page, "mosaic", "SVG")[1])
    # 12 above, 24 of title, 17 of caption, 12 below these, the grid with its scale, and 12 below.
    grid = page.locator("#mosaic .grid").bounding_box()
    scale = page.locator("#mosaic .scale").bounding_box()
    drawn = scale["y"] + scale["height"] - grid["y"]
    assert float(picture.attrib["height"]) == pytest.approx(12 + 24 + 17 + 12 + drawn + 12, abs=5)


def test_every_kind_of_figure_has_numbers_and_a_picture(page: Any) -> None:
    draw(page)
    for id in SPECS:
        rows = rows_of(saved(page, id, "CSV")[1])
        numbers = [value for row in rows for value in row.values() if value]
        assert rows and len(numbers) >= len(rows), id
        assert ET.fromstring(saved(page, id, "SVG")[1]).tag.endswith("svg"), id


def test_lines_that_give_the_numbers_are_copied(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#lines summary").click()
    copied = []
    for name in ("copy Python", "copy command", "copy link"):
        page.locator("#lines .menu button", has_text=name).click()
        page.wait_for_function(
            "document.querySelector('#lines .menu [role=status]').textContent === 'copied'"
        )
        copied.append(page.evaluate("navigator.clipboard.readText()"))
    assert copied[:2] == ["open_run('a')", "ontogeny query"]
    assert copied[2].endswith("run.html#lines")


def test_long_names_of_rows_are_read_in_full_or_end_with_dots(browser: Any, address: str) -> None:
    for width in (1200, 390):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(address)
        draw(page, "named")
        plot = page.locator("#named .plot").bounding_box()
        names = page.locator("#named .row-name")
        for i in range(len(LONG)):
            box = names.nth(i).bounding_box()
            assert box["x"] >= plot["x"]
            assert box["x"] + box["width"] <= plot["x"] + plot["width"] + 1
        assert names.first.text_content() == LONG[0]
        shown = names.nth(1).evaluate("name => name.firstChild.data")
        assert shown == LONG[1] or (width == 390 and shown.endswith("…"))
        page.close()


def test_intervals_of_steps_are_whole_numbers(page: Any) -> None:
    draw(page, "named", "intervals")
    texts = page.locator("#named svg text").all_text_contents()
    assert {"788 (788–871)", "40 (38–45)"} <= set(texts)
    assert {"10–20", "55 (50–60)"} <= set(page.locator("#intervals svg text").all_text_contents())


def test_the_axis_is_chosen_once_for_all_figures_that_have_it(page: Any) -> None:
    draw(page, "axes", "also")
    below = "#{} svg text"

    def names() -> list[str]:
        return [next(text for text in page.locator(below.format(id)).all_text_contents()
                     if text.endswith("→")) for id in ("axes", "also")]  # fmt: skip

    assert names() == ["step →", "step →"]
    page.locator("#axes select").select_option("onset")
    assert page.evaluate("document.activeElement.className") in ("axis", "")
    page.wait_for_function("location.search.includes('axis=onset')")
    assert names() == ["steps since the onset →"] * 2
    assert page.locator("#also select").input_value() == "onset"
    rows = rows_of(saved(page, "axes", "CSV")[1])
    assert [float(row["steps since the onset"]) for row in rows[:2]] == [-10, -9]
    assert float(rows[5]["steps since the onset"]) == -100
    page.locator("#axes select").select_option("tokens")
    page.wait_for_function("location.search.includes('axis=tokens')")
    assert names() == ["tokens seen →", "step →"]  # the second has no such axis
    page.reload()
    draw(page, "axes")
    assert page.locator("#axes select").input_value() == "tokens"


def test_mosaic_by_label_and_by_onset(page: Any) -> None:
    draw(page, "labelled")
    cells = page.locator("#labelled .cell")
    page.locator("#labelled select").select_option("label")
    assert cells.all_text_contents() == ["", "induction", "previous token", ""]
    page.evaluate("document.querySelector('#labelled .step-slider').focus()")
    colour = "[getComputedStyle(cell).backgroundColor, getComputedStyle(probe).color]"
    own = cells.nth(1).evaluate(
        "cell => {const probe = document.body.appendChild(document.createElement('i'));"
        f"probe.style.color = 'var(--role-induction)'; return {colour}}}"
    )
    assert own[0] == own[1]
    assert "undefined" in cells.nth(0).get_attribute("class").split()
    page.evaluate("ontogeny.setState({step: 10})")
    assert cells.all_text_contents() == ["", "induction", "", ""]
    page.locator("#labelled select").select_option("onset")
    assert cells.all_text_contents() == ["", "10", "", ""]  # the other forms at step 100
    page.evaluate("ontogeny.setState({step: 1000})")
    assert cells.all_text_contents() == ["", "10", "100", ""]
    parts = cells.evaluate_all("all => all.map(cell => +cell.style.getPropertyValue('--part'))")
    assert parts == [0, 0.2, 1, 0]
    assert cells.nth(3).get_attribute("title") == "L0H1: no onset by this step"
    rows = rows_of(saved(page, "labelled", "CSV")[1])
    by_label = [row["value"] for row in rows if row["score"] == "label" and row["step"] == "1000"]
    assert by_label == ["", "induction", "previous_token", ""]


def test_one_slider_moves_all_mosaics_of_a_group(page: Any) -> None:
    draw(page, "labelled", "linked")
    assert page.locator("#linked .step-slider").count() == 0
    steps = sorted({*STEPS, 0, 60, 1900})
    slider = page.locator("#labelled .step-slider")
    assert slider.get_attribute("max") == str(len(steps) - 1)
    assert "step 1,000 (5 of 5); 5 of 7" in page.locator("#labelled output.step").text_content()
    # At or before, not nearest: 60 is nearer to 100 than to 10, and 1,000 to 1,900 than to 60.
    for step, first, second in ((10, 2, 0), (60, 2, 1), (100, 3, 1), (1000, 4, 1), (1900, 4, 2)):
        slider.fill(str(steps.index(step)))
        shown = page.locator("#labelled .cell").all_text_contents()
        assert shown == [f"{value:.2f}" for value in FRAMES[first].ravel()]
        shown = page.locator("#linked .cell").all_text_contents()
        assert shown == [f"{value:.2f}" for value in FRAMES[second].ravel()], step


def test_keys_and_fingers(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(address)
    draw(page, "lines", "mosaic", "many")
    for target in ("#many .cell", "#mosaic .cell", ".step-slider", ".play", "select"):
        for box in page.locator(target).evaluate_all(
            "all => all.map(one => one.getBoundingClientRect()).map(b => [b.width, b.height])"
        ):
            assert min(box) >= 24, target
    page.locator("#many .cell").nth(5).hover()
    said = page.locator("#many .under").text_content()
    assert said == page.locator("#many .cell").nth(5).get_attribute("title")
    page.locator("#mosaic .step-slider").focus()
    page.keyboard.press("ArrowLeft")
    assert "step 100 " in page.locator("#mosaic output.step").text_content()
    page.keyboard.press(" ")
    assert page.locator("#mosaic .play").text_content() == "Pause"
    page.locator("#lines svg").scroll_into_view_if_needed()
    box = page.locator("#lines svg").bounding_box()
    page.touchscreen.tap(box["x"] + 52, box["y"] + box["height"] / 2)
    assert page.locator("#lines .tip").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#lines .tip").is_hidden()
    context.close()


def test_paper_is_white_and_has_no_controls(page: Any) -> None:
    page.evaluate("ontogeny.setState({theme: 'dark'})")
    draw(page, "lines", "mosaic", "graph")
    page.emulate_media(media="print")
    white = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert white == "rgb(255, 255, 255)"
    for hidden in (".menu", ".play", ".step-slider", ".kinds", "[data-action]", "input"):
        assert not any(one.is_visible() for one in page.locator(hidden).all()), hidden
    assert page.locator("#mosaic output.step").is_visible()


def test_search_finds_heads_and_escape_leaves(page: Any) -> None:
    page.locator("h1").click()
    page.keyboard.press("/")
    page.keyboard.type("previous")
    assert page.locator(".results a").all_text_contents() == ["L0H1"]
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "L0H1"
    page.keyboard.press("Escape")
    assert page.locator(".results").is_hidden()
    found = "text => ontogeny.findHeads(ontogeny.heads, text).map(head => head.name)"
    assert page.evaluate(found, "l1h1") == ["L1H1"]
    assert page.evaluate(found, "layer 0") == ["L0H1"]
    assert page.evaluate(found, "0.92 induction") == ["L1H1"]
    assert page.evaluate(found, "nothing") == []


def test_tables_sort_by_value_and_filter(page: Any) -> None:
    draw(page, "late")  # what is drawn on the way to the table moves it
    first = "table.sortable tbody td:first-child"
    page.locator("th button", has_text="value").click()
    # −2 < 30 < 1,000; what is undefined comes last.
    assert page.locator(first).all_text_contents() == ["L1H1", "L1H0", "L0H0", "L0H1"]
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    page.locator("input.filter").fill("L0")
    assert sorted(page.locator(first).all_text_contents()) == ["L0H0", "L0H1"]


def test_a_token_shows_what_it_attends_to(page: Any) -> None:
    draw(page, "attention")
    page.locator("#attention .token").nth(2).click()
    row = ATTENTION[-1, 2, :3]
    said = page.locator("#attention .under").text_content()
    assert f"attends most to token {row.argmax() + 1}," in said and f"{row.max():.2f}" in said


def test_attention_in_8_bits_is_about_its_number(page: Any) -> None:
    draw(page, "texts", "attention")
    said = page.locator("#texts .tokens + output")
    assert said.text_content() == "Token 2, “b”, attends most to token 1, “a”: about 0.50"
    assert (
        page.locator("#texts .token").first.get_attribute("title") == "b attends to a: about 0.50"
    )
    assert "about" not in page.locator("#attention .tokens + output").text_content()
    assert "attention (8 bits)" in rows_of(saved(page, "texts", "CSV")[1])[0]


def test_text_token_and_paths_are_in_the_address_and_survive_reload(page: Any) -> None:
    draw(page, "texts", "graph")
    page.locator("#texts select.text").select_option("second")
    page.locator("#texts .token").nth(1).click()
    page.locator("#graph .kinds button", has_text="K").click()
    assert page.locator("#graph path.edge").count() == 0  # all links are by K
    query = "Object.fromEntries(new URLSearchParams(location.search))"
    assert page.evaluate(query) == {"text": "second", "token": "2", "paths": "qv"}
    page.reload()
    draw(page, "texts", "graph")
    assert page.locator("#texts select.text").input_value() == "second"
    assert page.locator("#texts .tokens + output").text_content().startswith("Token 2, “d”")
    assert page.locator("#graph path.edge").count() == 0
    pressed = "all => all.map(button => button.getAttribute('aria-pressed'))"
    kinds = page.locator("#graph .kinds button")
    assert kinds.evaluate_all(pressed) == ["false", "true", "true"]
    for name in ("Q", "V"):
        page.locator("#graph .kinds button", has_text=name).click()
    assert kinds.evaluate_all(pressed) == ["false"] * 3
    for name in ("K", "Q", "V"):
        page.locator("#graph .kinds button", has_text=name).click()
    assert "paths" not in page.evaluate(query)
    assert page.locator("#graph path.edge").count() == 1


def test_sorting_and_filter_are_in_the_address_and_survive_reload(page: Any) -> None:
    draw(page, "late")
    for _ in range(2):
        page.locator("th button", has_text="value").click()
    page.locator("input.filter").fill("H1")
    page.wait_for_function("location.search.includes('filter.1=H1')")
    assert "sort.1=-2" in page.url
    page.reload()
    assert page.locator("input.filter").input_value() == "H1"
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    assert page.locator("table.sortable tbody td:first-child").all_text_contents() == [
        "L0H1", "L1H1"
    ]  # fmt: skip
    page.locator("input.filter").fill("")
    page.wait_for_function("!location.search.includes('filter')")
    assert page.locator("table.sortable tbody tr").count() == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_a_narrow_screen(browser: Any, address: str, theme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    errors = Errors(page)
    page.goto(f"{address}?theme={theme}")
    draw(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    sizes = page.locator("svg text, .plot *, p, td").evaluate_all(
        "all => Math.min(...all.map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert sizes >= 12 and not errors
    page.close()


def test_names_at_the_ends_of_lines_do_not_cover_each_other(page: Any) -> None:
    page.evaluate("document.querySelector('main').insertAdjacentHTML('afterbegin',"
                  " '<figure class=figure id=ends><div class=plot></div></figure>')")  # fmt: skip
    series = [{"name": f"line {i}", "values": [0, 0, 0, 0, 0.001 * i]} for i in range(6)]
    spec = {"kind": "lines", "x": X, "y": {"label": "y", "domain": [0, 1]}, "series": series}
    page.evaluate("spec => ontogeny.draw(document.querySelector('#ends'), spec)", spec)
    page.wait_for_selector("#ends .plot[data-drawn]")
    tops = page.locator("#ends svg text").evaluate_all(
        "all => all.filter(t => t.textContent.startsWith('line '))"
        ".map(t => t.getBoundingClientRect()).map(box => [box.top, box.bottom])"
    )
    tops.sort()
    assert len(tops) == 6
    assert all(tops[i + 1][0] - tops[i][0] >= 13 for i in range(5))
