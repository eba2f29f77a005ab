// Figures of cells: the mosaic of heads, matrices, and the triangle of attention.
import { defined, extent, html, number } from "./dom.js";

const WITH_TEXT = 38; // px: narrower cells have no number
// Places on the ramp from which white (light theme) or black (dark theme) is read better: there both
// have a contrast of 4.5. They follow from the colours in site.css.
const TURN = { light: 0.627, dark: 0.503, lightNegative: 0.665, darkNegative: 0.498 };
const DECIMALS_FROM = 0.5; // domains that reach this far have numbers with two decimals

/** Return the domain of colours: the given one, or from 0 (or below it, evenly) to the extreme. */
export function cellDomain(given, values) {
  if (given) return given;
  const found = extent(values) ?? [0, 1];
  if (found[0] < 0) {
    const most = Math.max(-found[0], found[1]);
    return [-most, most];
  }
  return [0, found[1] || 1];
}

/** Return the place of a value on the ramp: 0 to 1, and whether it is on the negative side. */
export function place(value, [low, high]) {
  if (low < 0 && high > 0) {
    const part = Math.min(1, Math.abs(value) / Math.max(-low, high));
    return { part, negative: value < 0 };
  }
  return { part: Math.min(1, Math.max(0, (value - low) / (high - low || 1))), negative: false };
}

/** Return the classes that choose black or white text on a colour. */
export const turned = (part, negative) => ({
  "over-light": part > (negative ? TURN.lightNegative : TURN.light),
  "over-dark": part > (negative ? TURN.darkNegative : TURN.dark),
});

const names = (list) => list.map((entry) => entry.name ?? String(entry));

/** Colour a cell by CSS and write its number; text is black or white, whichever is read better. */
function setCell(cell, value, domain, rule, text) {
  const { part, negative } = place(value, domain);
  cell.element.style.setProperty("--part", defined(value) ? part.toFixed(3) : "0");
  const flags = { undefined: !defined(value), negative, "over-rule": defined(rule) && value >= rule,
    ...turned(part, negative) };
  for (const [name, on] of Object.entries(flags)) cell.element.classList.toggle(name, on);
  cell.element.textContent = text(value);
  // A name has the text that is seen, for those who speak what they see.
  const said = cell.element.textContent || cell.describe(value);
  cell.element.setAttribute("aria-label", `${cell.name} ${said}`);
  cell.element.title = `${cell.name}: ${cell.describe(value)}`;
}

/**
 * Build a grid of cells, links where they have an address, and return a function that shows values.
 * spec: {rows, columns, hrefs, names, rules}; show(values, domain, approximate).
 */
export function buildGrid(parent, spec, width) {
  const [rows, columns] = [names(spec.rows), names(spec.columns)];
  const rowLabel = Math.max(...rows.map((name) => name.length)) * 8 + 8;
  const size = Math.min(spec.cell ?? 110, (width - rowLabel) / columns.length - 2);
  const grid = html("div", { class: "grid", role: "group", "aria-label": spec.label ?? "cells",
    style: `--columns:${columns.length};--row-label:${rowLabel}px;--cell:${size}px;` +
      `--cell-height:${Math.max(24, Math.min(44, size))}px` });
  const every = Math.ceil(22 / size);
  grid.append(html("span"), ...columns.map((name, i) =>
    html("span", { class: "name" }, i % every ? "" : name)));
  const cells = rows.flatMap((row, i) => {
    grid.append(html("span", { class: "name row" }, row));
    return columns.map((column, j) => makeCell(grid, spec, row, column, i * columns.length + j));
  });
  parent.append(grid);
  const rule = spec.rules?.[0]?.y;
  return (values, domain, approximate) => {
    const short = domain[1] >= DECIMALS_FROM && domain[1] < 1000
      ? (value) => value.toFixed(2).replace("-", "−") : number;
    const text = (value) =>
      approximate || size < WITH_TEXT ? "" : defined(value) ? short(value) : "–";
    cells.forEach((cell, i) => {
      cell.describe = (value) => (approximate && defined(value) ? "about " : "") + number(value);
      setCell(cell, values[i], domain, rule, text);
    });
  };
}

function makeCell(grid, spec, row, column, index) {
  const href = spec.hrefs?.[index];
  const name = spec.names?.[index] ?? (/^H/.test(column) ? row + column : `${row}, ${column}`);
  const element = href ? html("a", { class: "cell", href }) : html("span", { class: "cell", role: "img" });
  grid.append(element);
  return { element, name };
}

/** Return a line that explains the colours. */
export function scaleBar([low, high], note) {
  const colors = html("i", { class: low < 0 && high > 0 ? "signed" : "", "data-low": low, "data-high": high });
  return html("div", { class: "scale" }, html("span", {}, number(low)), colors,
    html("span", {}, number(high)), note ? html("span", {}, note) : null);
}

/** Return the colours of the ramp as they are computed now: f(value) gives a CSS colour. */
export function ramp(domain) {
  const probe = html("span", { class: "cell probe" });
  document.body.append(probe);
  const known = new Map();
  const at = (value) => {
    if (!defined(value)) return "transparent";
    const { part, negative } = place(value, domain);
    const key = `${negative}${part.toFixed(2)}`;
    if (!known.has(key)) {
      probe.className = `cell probe${negative ? " negative" : ""}`;
      probe.style.setProperty("--part", part.toFixed(2));
      known.set(key, getComputedStyle(probe).backgroundColor);
    }
    return known.get(key);
  };
  return { at, done: () => probe.remove() };
}

/** Draw a matrix on a canvas; `isShown(row, column)` leaves cells out (above a diagonal). */
export function paint(canvas, { rows, columns, values, domain, isShown = () => true, size,
  tall = size }) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [columns * size, rows * tall];
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  canvas.style.cssText = `width:${width}px;height:${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const colors = ramp(domain);
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
