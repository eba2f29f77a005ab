// Figures with one row per name: bars from 0, and intervals.
import { defined, extent, html, interval, number, signed, svg } from "./dom.js";
import { chosenAxis, color } from "./lines.js";
import { axisText, shortened, textWidth, xOptions } from "./scales.js";
import { addTooltip } from "./tooltip.js";

const { Plot } = window;
const ROW = 24; // px
const TALL_ROW = 42; // px, with the name above
const MOST_NAMES = 0.5; // of the width

/** Return the rows of a figure: those it names, else one for each series. */
export function namedRows(spec) {
  if (!spec.rows) {
    return spec.series.map((one) => ({ name: one.name, role: one.role, href: one.href,
      value: one.values?.[0], low: one.low?.[0], high: one.high?.[0] }));
  }
  const [series] = spec.series;
  return spec.rows.map((row, i) => ({ name: row.name ?? String(row), role: row.role ?? series.role,
    href: row.href ?? spec.hrefs?.[i], value: series.values?.[i], low: series.low?.[i],
    high: series.high?.[i] }));
}

/** Return the sizes of a figure whose names stand beside the plot, or above the rows where narrow. */
function frame(rows, width, right) {
  const names = Math.max(0, ...rows.map((row) => textWidth(row.name))) + 14;
  const above = names > MOST_NAMES * width;
  const height = rows.length * (above ? TALL_ROW : ROW) + 46;
  return { above, width, height, marginLeft: above ? 8 : names, marginRight: right, marginTop: 6,
    marginBottom: 40 };
}

const yOptions = (rows, above) => ({ type: "band", axis: null, domain: rows.map((row) => row.name),
  label: null, padding: above ? 0.62 : 0.3 });

/** Write the names of the rows: beside them, or above each and shortened to the width. */
function writeNames(chart, rows, { above, width, marginLeft }) {
  const y = chart.scale("y");
  for (const row of rows) {
    const top = y.apply(row.name);
    const place = above ? { x: marginLeft, y: top - 6, "text-anchor": "start" }
      : { x: marginLeft - 8, y: top + y.bandwidth / 2 + 4, "text-anchor": "end" };
    const text = above ? shortened(row.name, width - 2 * marginLeft) : row.name;
    const title = text === row.name ? [] : [svg("title", {}, row.name)];
    chart.append(svg("text", { ...place, fill: "var(--ink)", class: "row-name" }, text, ...title));
  }
}

function finish(plot, chart, rows, label, size, text) {
  const { width, height, marginRight } = size;
  writeNames(chart, rows, size);
  const [x, y] = [chart.scale("x"), chart.scale("y")];
  const place = { x: width - marginRight, y: height - 4, "text-anchor": "end", fill: "var(--quiet)" };
  chart.append(svg("text", place, `${label} →`));
  const box = html("div", { class: "chart" }, chart);
  addTooltip(box, rows.map((row) => ({ lefts: [x.apply(row.value ?? row.low)],
    tops: [y.apply(row.name) + (y.bandwidth ?? 0) / 2], text: () => `${row.name}: ${text(row)}`,
    href: row.href, follow: () => { location.href = row.href + location.search; } })));
  plot.append(box);
}

/** Draw bars from 0: filled to the right, hollow to the left, each with its number. */
export function drawBars(plot, spec, width) {
  const rows = namedRows(spec).filter((row) => defined(row.value));
  const isSigned = rows.some((row) => row.value < 0);
  const text = (row) => (isSigned ? signed(row.value) : number(row.value));
  const size = frame(rows, width, Math.max(...rows.map((row) => textWidth(text(row))), 0) + 12);
  const domain = spec.y?.domain ?? extent(rows.map((row) => row.value), [0]) ?? [0, 1];
  const chart = Plot.plot({ ...size, x: { domain, label: null }, y: yOptions(rows, size.above), marks: [
    Plot.gridX({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 5 }),
    Plot.barX(rows, { x1: 0, x2: "value", y: "name", stroke: (row) => color(row.role), strokeWidth: 1.5,
      fill: (row) => (row.value < 0 ? "var(--page)" : color(row.role)) }),
    ...(spec.rules ?? []).map((rule) => Plot.ruleX([rule.y ?? rule.x], { stroke: "var(--quiet)",
      strokeDasharray: "4,3" })),
    Plot.ruleX([0], { stroke: "var(--quiet)" }),
    Plot.text(rows, { x: (row) => Math.max(row.value, 0), y: "name", text, dx: 6, textAnchor: "start",
      fill: "var(--ink)" }),
    Plot.axisX({ ticks: 5, label: null }),
  ] });
  finish(plot, chart, rows, axisText(spec.y), size, text);
}

/** Draw one interval for each row, with its point where it has one. */
export function drawIntervals(plot, spec, width) {
  const rows = namedRows(spec).filter((row) => defined(row.low) || defined(row.value));
  const axis = chosenAxis(spec) ?? spec.y;
  const found = extent(rows.flatMap((row) => [row.low, row.high, row.value])) ?? [0, 1];
  const values = extent(found, axis.values, axis.scale === "step" ? [0] : []);
  const text = (row) => interval(row.low, row.high, row.value, axis.scale === "step");
  const size = frame(rows, width, Math.max(24, ...rows.map((row) => textWidth(text(row)) + 12)));
  const x = xOptions(axis, values, width - size.marginLeft - size.marginRight);
  const chart = Plot.plot({ ...size, x, y: yOptions(rows, size.above), marks: [
    Plot.gridX({ stroke: "var(--grid)", strokeOpacity: 1, ticks: x.ticks }),
    ...(spec.bands ?? []).map((band) => Plot.rect([band], { x1: "from", x2: "to",
      fill: color(band.role), fillOpacity: 0.22 })),
    Plot.barX(rows.filter((row) => defined(row.low)), { x1: "low", x2: "high", y: "name",
      insetTop: 3, insetBottom: 3, fill: (row) => color(row.role), fillOpacity: 0.45,
      stroke: (row) => color(row.role) }),
    Plot.dot(rows.filter((row) => defined(row.value)), { x: "value", y: "name", r: 4,
      fill: (row) => color(row.role) }),
    Plot.text(rows, { x: (row) => row.high ?? row.value, y: "name", text, dx: 8, textAnchor: "start",
      fill: "var(--ink)", stroke: "var(--page)", strokeWidth: 4 }),
    Plot.axisX({ ticks: x.ticks, tickFormat: x.tickFormat, label: null }),
  ] });
  finish(plot, chart, rows, axisText(axis), size, text);
}
