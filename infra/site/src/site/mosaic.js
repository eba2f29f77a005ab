// The mosaic of heads and matrices, at one step or over training.
import { buildGrid, cellDomain, paint, scaleBar } from "./cells.js";
import { defined, html, number } from "./dom.js";
import { dataFile } from "./data.js";
import { decode } from "./arrays.js";
import { addControls } from "./steps.js";
import { onState } from "./state.js";

const GRID_CELLS = 1500; // more cells than these are drawn on a canvas

const name = (entry) => entry.name ?? String(entry);

/** Return the values of one frame; those of a file of their own are read when they are shown. */
export async function frameValues(spec, index, score) {
  const count = spec.rows.length * spec.columns.length;
  const file = spec.frames.files?.[index];
  if (!file) return { ...score, values: score.values.slice(index * count, (index + 1) * count) };
  const value = await dataFile(file);
  return { ...score, ...(await decode(value.values ?? value)) };
}

/** Draw cells on a canvas, with the number under the pointer in words below. */
function buildCanvas(parent, spec, width) {
  const [rows, columns] = [spec.rows.length, spec.columns.length];
  const size = Math.max(1, Math.min(28, Math.floor((width / columns) * 4) / 4));
  const canvas = html("canvas", { class: "matrix", role: "img", "aria-label": spec.label });
  const under = html("output", { class: "under" }, "\u00a0");
  parent.append(canvas, under);
  let shown = null;
  const draw = () => shown && paint(canvas, { rows, columns, size, ...shown });
  canvas.addEventListener("pointermove", (event) => {
    const [i, j] = [Math.floor(event.offsetY / size), Math.floor(event.offsetX / size)];
    if (!shown || i < 0 || j < 0 || i >= rows || j >= columns) return;
    const value = shown.values[i * columns + j];
    under.textContent = `${name(spec.rows[i])}, ${name(spec.columns[j])}: ${
      shown.approximate && defined(value) ? "about " : ""}${number(value)}`;
  });
  onState((changed) => canvas.isConnected && changed.includes("theme") && draw());
  return (values, domain, approximate) => {
    shown = { values, domain, approximate };
    draw();
  };
}

/** Draw a mosaic or a matrix. */
export function drawCells(plot, spec, width) {
  const isLarge = spec.rows.length * spec.columns.length > GRID_CELLS;
  const holder = html("div", { class: "cells" });
  const bar = html("div");
  const show = (isLarge ? buildCanvas : buildGrid)(holder, spec, width);
  const note = spec.hrefs && !isLarge ? "a cell opens its head" : "";
  const display = ({ values, approximate, domain }) => {
    show(values, domain, approximate);
    bar.replaceChildren(scaleBar(domain, note));
  };
  if (!spec.frames) {
    plot.append(holder, bar);
    display({ ...spec, domain: cellDomain(spec.y?.domain, spec.values) });
    return;
  }
  let latest = 0;
  const domains = new Map();
  addControls(plot, spec.frames, async (index, score) => {
    latest = index;
    const frame = await frameValues(spec, index, score);
    const key = frame.name ?? "";
    if (!domains.has(key)) {
      domains.set(key, cellDomain(frame.domain ?? spec.y?.domain, score?.values ?? frame.values));
    }
    if (latest === index) display({ ...frame, domain: domains.get(key) });
  });
  plot.append(holder, bar);
}
