// Drawing of figures: when they come near, when their width changes, and when the state changes.
import { decodeSpec } from "./arrays.js";
import { drawAttention } from "./attention.js";
import { drawBars, drawIntervals } from "./bars.js";
import { defined, html, number } from "./dom.js";
import { drawGraph } from "./graph.js";
import { groupOf } from "./groups.js";
import { drawLines, drawPanels } from "./lines.js";
import { addMenu } from "./menu.js";
import { drawCells } from "./mosaic.js";
import { drawScatter, drawStems } from "./points.js";
import { onState, setState, state } from "./state.js";

const KINDS = { lines: drawLines, panels: drawPanels, stems: drawStems, scatter: drawScatter,
  bars: drawBars, intervals: drawIntervals, mosaic: drawCells, matrix: drawCells, graph: drawGraph,
  attention: drawAttention };
const NEAR = "600px";
const REDRAWN = ["steps", "axis"]; // by these entries of the state, unless it has frames

/** Return the decoded specification, with what its group needs. */
async function complete(figure, given) {
  const spec = await decodeSpec({ series: [], ...given });
  return { ...spec, group: await groupOf(figure, spec) };
}

function endOf(series) {
  const values = Array.from(series.values ?? []).filter(defined);
  return values.length ? `${series.name || "value"}: ${number(values[0])} at first, ${
    number(values.at(-1))} at the end` : "";
}

/** Return the text that stands for a figure: its title, caption and the ends of its main lines. */
function altText(figure, spec) {
  const title = figure.querySelector("h3")?.textContent ?? "";
  const note = figure.querySelector(".note")?.textContent ?? "";
  const named = spec.series.filter((one) => one.emphasis);
  const ends = (named.length ? named : spec.series).slice(0, 4).map(endOf);
  const isOverTime = ["lines", "stems"].includes(spec.kind);
  const parts = [title, note, ...(isOverTime ? ends : [])];
  return parts.map((part) => part.trim()).filter(Boolean).join(". ");
}

/** Give each chart one name for readers of screens, and take away those that Plot gives its parts. */
function nameCharts(plot, alt) {
  for (const chart of plot.querySelectorAll("svg:not([role=group])")) {
    for (const part of chart.querySelectorAll("[aria-label], [aria-hidden], [aria-description]")) {
      for (const name of ["aria-label", "aria-hidden", "aria-description"]) part.removeAttribute(name);
    }
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", alt);
    chart.querySelector(":scope > style")?.remove();
  }
}

function draw(figure, spec) {
  const plot = figure.querySelector(".plot");
  const width = Math.floor(plot.clientWidth);
  const kind = KINDS[spec.kind];
  if (!kind) throw new Error(`no figure of kind ${spec.kind}`);
  if (!width) return;
  const alt = altText(figure, spec);
  plot.style.minHeight = `${plot.offsetHeight}px`; // so that the page does not jump
  plot.replaceChildren();
  kind(plot, { ...spec, label: alt }, width, alt);
  nameCharts(plot, alt);
  plot.style.minHeight = "";
  plot.dataset.drawn = width;
}

/** Add the choice of an axis before the plot; it stays there when the figure is drawn again. */
function addAxes(figure, axes) {
  const options = axes.map((axis) => html("option", { value: axis.name }, `by ${axis.label ?? axis.name}`));
  const select = html("select", { class: "axis", "aria-label": "axis",
    onchange: () => setState({ axis: select.value }) }, ...options);
  const show = () => {
    select.value = axes.some((axis) => axis.name === state.axis) ? state.axis : axes[0].name;
  };
  onState(show);
  show();
  figure.querySelector(".plot").before(html("div", { class: "controls" }, select));
}

function showError(figure, error) {
  figure.querySelector(".plot").replaceChildren(
    html("p", { class: "error" }, `This figure cannot be drawn: ${error.message}`));
  console.error(figure.id, error);
}

/** Draw a specification in a figure element, now and whenever its width or the state changes. */
export function drawFigure(figure, given) {
  const plot = figure.querySelector(".plot");
  let spec = null;
  const begin = async () => {
    const found = await complete(figure, given);
    if (found.axes?.length > 1) addAxes(figure, found.axes);
    return found;
  };
  const redraw = async () => {
    try {
      spec ??= begin();
      draw(figure, await spec);
    } catch (error) {
      showError(figure, error);
    }
  };
  onState((changed) => {
    if (!given.frames && !given.texts && changed.some((key) => REDRAWN.includes(key))) redraw();
  });
  new ResizeObserver(() => {
    if (plot.dataset.drawn && Math.abs(plot.clientWidth - plot.dataset.drawn) >= 1) redraw();
  }).observe(plot);
  return redraw();
}

/** Draw all figures of the page: those that are near the screen first, the others as they come. */
export function drawFigures() {
  const specOf = (figure) => JSON.parse(figure.querySelector(".spec").textContent);
  const drawOnce = (figure) => {
    observer.unobserve(figure);
    if (figure.dataset.begun) return undefined;
    figure.dataset.begun = "true";
    return drawFigure(figure, specOf(figure));
  };
  const observer = new IntersectionObserver((found) => found
    .filter((entry) => entry.isIntersecting).forEach((entry) => drawOnce(entry.target)),
  { rootMargin: NEAR });
  for (const figure of document.querySelectorAll(".figure")) {
    if (!figure.querySelector(".spec")) continue;
    addMenu(figure, () => complete(figure, specOf(figure)));
    observer.observe(figure);
  }
  addEventListener("beforeprint", () => document.querySelectorAll(".figure").forEach(drawOnce));
}
