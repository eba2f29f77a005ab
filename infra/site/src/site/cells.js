// Cells as a grid of elements, or on a canvas.
import { defined, html } from "./dom.js";
import { textWidth } from "./scales.js";
import { computedColors, setColor } from "./shades.js";

const WITH_TEXT = 38; // px: narrower cells have no number
const GAP = 2; // px, between cells of at least GAPPED px
const GAPPED = 12;
const TARGET = 24; // px, the least width and height of what a finger can hit
const MOST_WIDE = 110; // px
const MOST_TALL = 44; // px

const names = (list) => list.map((entry) => entry.name ?? String(entry));

/** Colour a cell by CSS and write its number; text is black or white, whichever is read better. */
function setCell(cell, value, shades, rule, room) {
  const { element } = cell;
  const found = defined(value) ? shades.at(value) : null;
  const describe = shades.describe(value);
  setColor(element, found);
  element.classList.toggle("over-rule", defined(rule) && value >= rule);
  const text = room ? shades.text(value) : "";
  element.textContent = textWidth(text) <= room ? text : "";
  // A name has the text that is seen, for those who speak what they see.
  element.setAttribute("aria-label", `${cell.name} ${element.textContent || describe}`);
  element.title = `${cell.name}: ${describe}`;
}

/**
 * Build a grid of cells, links where they have an address, and return a function that shows values.
 * spec: {rows, columns, hrefs, names, rules}; show(values, shades). Where the cells of a narrow
 * screen would be too small to hit, the grid is wider, and scrolls in its own box.
 */
export function buildGrid(parent, spec, width) {
  const [rows, columns] = [names(spec.rows), names(spec.columns)];
  const rowLabel = Math.max(...rows.map(textWidth)) + 10;
  const share = (width - rowLabel) / columns.length;
  const gap = share < GAPPED && !spec.hrefs ? 0 : GAP; // lines between small cells would flicker
  const fitting = Math.min(MOST_WIDE, share - gap);
  const size = spec.hrefs ? Math.max(TARGET, fitting) : fitting;
  const grid = html("div", { class: "grid", role: "group", "aria-label": spec.label ?? "cells",
    style: `--columns:${columns.length};--row-label:${rowLabel}px;--gap:${gap}px;--cell:${size}px;` +
      `--cell-height:${Math.max(TARGET, Math.min(MOST_TALL, size))}px` });
  const every = Math.ceil((Math.max(...columns.map(textWidth)) + 4) / (size + gap));
  grid.append(html("span"), ...columns.map((name, i) =>
    html("span", { class: "name" }, i % every ? "" : name)));
  const cells = rows.flatMap((row, i) => {
    grid.append(html("span", { class: "name row" }, row));
    return columns.map((column, j) => makeCell(grid, spec, row, column, i * columns.length + j));
  });
  const under = html("output", { class: "under" });
  parent.append(html("div", { class: "scrolled" }, grid), under);
  sayUnder(grid, under);
  const rule = spec.rules?.[0]?.y;
  return (values, shades) => {
    const room = size < WITH_TEXT ? 0 : size - 4;
    cells.forEach((cell, i) => setCell(cell, values[i], shades, rule, room));
    under.hidden = cells.every(({ element }) => element.textContent);
    under.textContent = "\u00a0";
  };
}

/** Write what a cell says below the grid, while the pointer, a finger or the focus is on it. */
function sayUnder(grid, under) {
  const say = (event) => {
    const title = event.target.closest(".cell")?.title;
    if (title) under.textContent = title;
  };
  for (const kind of ["pointerover", "pointerdown", "focusin"]) grid.addEventListener(kind, say);
}

function makeCell(grid, spec, row, column, index) {
  const href = spec.hrefs?.[index];
  const name = spec.names?.[index] ?? (/^H/.test(column) ? row + column : `${row}, ${column}`);
  const element = href ? html("a", { class: "cell", href }) : html("span", { class: "cell", role: "img" });
  grid.append(element);
  return { element, name };
}

/** Draw a matrix on a canvas; `isShown(row, column)` leaves cells out (above a diagonal). */
export function paint(canvas, { rows, columns, values, at, isShown = () => true, size, tall = size }) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [columns * size, rows * tall];
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  canvas.style.cssText = `width:${width}px;height:${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const colors = computedColors(at);
  const gap = Math.min(size, tall) > 6 ? 1 : 0;
  for (let i = 0; i < rows; i += 1) {
    for (let j = 0; j < columns; j += 1) {
      if (!isShown(i, j)) continue;
      context.fillStyle = colors.at(values[i * columns + j]);
      context.fillRect(j * size, i * tall, size - gap, tall - gap);
    }
  }
  colors.done();
  return context;
}
