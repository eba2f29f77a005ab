// The mosaic of heads and matrices, at one step or over training.
import { buildGrid, paint } from "./cells.js";
import { extent, html } from "./dom.js";
import { dataFile } from "./data.js";
import { decode } from "./arrays.js";
import { addControls } from "./steps.js";
import { onState } from "./state.js";
import { textWidth } from "./scales.js";
import { cellDomain, shadesOf } from "./shades.js";

const GRID_CELLS = 1500; // more cells than these are drawn on a canvas
const MOST_WIDE = 28; // px, a cell of a canvas
const LEAST_TALL = 8; // px, where cells are narrower and the canvas stays below MOST_TALL
const MOST_TALL = 400;

const name = (entry) => entry.name ?? String(entry);

/** Return the values of one frame; those of a file of their own are read when they are shown. */
export async function frameValues(spec, index, score) {
  const count = spec.rows.length * spec.columns.length;
  const file = spec.frames.files?.[index];
  if (score?.kind === "onset") {
    const step = spec.frames.steps[index];
    return { ...score, values: score.values.map((onset) => (onset <= step ? onset : NaN)) };
  }
  if (!file) return { ...score, values: score.values.slice(index * count, (index + 1) * count) };
  const value = await dataFile(file);
  return { ...score, ...(await decode(value.values ?? value)) };
}

/** Return some names, evenly spaced, as they stand beside a canvas. */
function sideNames(list, most, side) {
  const count = Math.min(most, list.length);
  const at = Array.from({ length: count }, (_, i) => Math.round((i * (list.length - 1)) / (count - 1 || 1)));
  return html("div", { class: `side ${side}` }, ...at.map((i) => html("span", {}, name(list[i]))));
}

/** Return the width and height of a cell: square if there is room, else wider or taller. */
function cellSize(rows, columns, width) {
  const size = Math.min(MOST_WIDE, width / columns);
  return { size, tall: Math.max(size, Math.min(LEAST_TALL, MOST_TALL / rows)) };
}

/** Return the text of the cell under the pointer, null outside. */
function underPointer(event, spec, { size, tall }, shown) {
  const [i, j] = [Math.floor(event.offsetY / tall), Math.floor(event.offsetX / size)];
  if (!shown || !spec.rows[i] || !spec.columns[j]) return null;
  const value = shown.values[i * spec.columns.length + j];
  return `${name(spec.rows[i])}, ${name(spec.columns[j])}: ${shown.shades.describe(value)}`;
}

/** Draw cells on a canvas, with the number under the pointer in words below. */
function buildCanvas(parent, spec, width) {
  const [rows, columns] = [spec.rows.length, spec.columns.length];
  const left = 8 + textWidth(name(spec.rows.at(-1)));
  const cell = cellSize(rows, columns, width - left);
  const canvas = html("canvas", { class: "matrix", role: "img", "aria-label": spec.label });
  const under = html("output", { class: "under" }, "\u00a0");
  parent.append(html("div", { class: "sided", style: `--left:${left}px;--wide:${columns * cell.size}px` },
    sideNames(spec.columns, Math.max(2, Math.floor((columns * cell.size) / 110)), "above"),
    sideNames(spec.rows, Math.max(2, Math.floor((rows * cell.tall) / 60)), "before"), canvas), under);
  let shown = null;
  const draw = () => shown && paint(canvas,
    { rows, columns, ...cell, values: shown.values, at: shown.shades.at });
  for (const kind of ["pointermove", "pointerdown"]) {
    canvas.addEventListener(kind, (event) => {
      under.textContent = underPointer(event, spec, cell, shown) ?? "\u00a0";
    });
  }
  onState((changed) => canvas.isConnected && changed.includes("theme") && draw());
  return (values, shades) => {
    shown = { values, shades };
    draw();
  };
}

/** Draw a mosaic or a matrix. */
export function drawCells(plot, spec, width) {
  const isLarge = spec.rows.length * spec.columns.length > GRID_CELLS;
  const holder = html("div", { class: "cells" });
  const bar = html("div");
  const show = (isLarge ? buildCanvas : buildGrid)(holder, spec, width);
  const display = (frame) => {
    const shades = shadesOf(frame);
    show(frame.values, shades);
    bar.replaceChildren(shades.bar());
  };
  if (!spec.frames) {
    plot.append(holder, bar);
    display({ ...spec, kind: "", domain: cellDomain(spec.y?.domain, spec.values) });
    return;
  }
  let latest = "";
  const domains = new Map();
  addControls(plot, spec, async (index, score) => {
    const asked = `${index} ${score?.name}`;
    latest = asked;
    const frame = await frameValues(spec, index, score);
    const key = frame.name ?? "";
    if (!domains.has(key)) domains.set(key, frameDomain(spec, frame, score));
    if (latest === asked) display({ ...frame, domain: domains.get(key) });
  });
  plot.append(holder, bar);
}

/** Return the domain of the colours of a score, the same in all of its frames. */
function frameDomain(spec, frame, score) {
  const values = score?.values ?? frame.values;
  if (frame.kind === "onset") return extent(values) ?? [0, 1];
  return cellDomain(frame.domain ?? spec.y?.domain, values);
}
