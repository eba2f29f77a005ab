// Figures over one axis: lines, and strips of lines over the same axis.
import { defined, extent, html, number, svg } from "./dom.js";
import { axisText, LABEL_GAP, powerText, spread, textWidth, xOptions, yDomain } from "./scales.js";
import { state } from "./state.js";
import { addTooltip } from "./tooltip.js";

const { Plot } = window;
const NARROW = 480; // px: below it names stand above the plot instead of at the ends of lines
const LABELLED = 8; // lines that get names where none is emphasised
export const MARGIN = { top: 8, left: 48, bottom: 30 };

export const color = (role) => `var(--role-${(role ?? "none").replace(/[^\w-]/g, "_")})`;

/** Return a series' horizontal values: its own, the chosen axis's, or the figure's. */
export function xValues(spec, series) {
  const axis = chosenAxis(spec);
  const own = axis.perSeries?.[spec.series.indexOf(series)];
  return own ?? (axis === spec.x ? series.x : undefined) ?? axis.values ?? spec.x.values;
}

/** Return the axis that the state names, of a figure that offers several. */
export function chosenAxis(spec) {
  return spec.axes?.find((axis) => axis.name === state.axis) ?? spec.axes?.[0] ?? spec.x;
}

const isEmphasised = (series) => Boolean(series.emphasis);

/** Return the series that have a name: the emphasised ones, or all of a few. */
function namedSeries(spec) {
  const emphasised = spec.series.filter(isEmphasised);
  if (emphasised.length) return emphasised.concat(spec.series.filter((one) => one.dashed));
  return spec.series.length <= LABELLED ? spec.series.filter((one) => one.name) : [];
}

function lastDefined(values) {
  for (let i = values.length - 1; i >= 0; i -= 1) if (defined(values[i])) return i;
  return -1;
}

/** Return the points of a series where some of x, y, low and high are defined. */
export function pointsOf(spec, series, keys) {
  const xs = xValues(spec, series);
  const points = Array.from(xs, (x, i) =>
    ({ x, y: series.values?.[i], low: series.low?.[i], high: series.high?.[i] }));
  return points.filter((point) => keys.every((key) => defined(point[key])));
}

/** Return the marks of the series: null bands below, thin lines, then the emphasised lines. */
function seriesMarks(spec) {
  const some = spec.series.some(isEmphasised);
  const order = [...spec.series].sort((a, b) => isEmphasised(a) - isEmphasised(b));
  const areas = order.filter((one) => one.low?.length && one.high?.length).map((one) =>
    Plot.areaY(pointsOf(spec, one, ["low", "high"]), { x: "x", y1: "low", y2: "high",
      fill: color(one.role), fillOpacity: 0.18 }));
  const lines = order.filter((one) => one.values?.length).map((one) => {
    const faint = some && !isEmphasised(one) && !one.dashed;
    return Plot.line(pointsOf(spec, one, ["x"]), { x: "x", y: "y",
      stroke: faint ? "var(--thin)" : color(one.role),
      strokeWidth: faint ? 0.8 : isEmphasised(one) ? 2.2 : 1.5,
      strokeDasharray: one.dashed ? "3,3" : undefined });
  });
  return [...areas, ...lines];
}

/** Return the bands, which are given in the figure's own axis: none where another is chosen. */
const shownBands = (spec) =>
  (!spec.axes || chosenAxis(spec) === spec.axes[0] ? spec.bands ?? [] : []);

/** Return the marks of the bands, and those of their labels. x: a scale in pixels. */
function bandMarks(spec, x, [low, high], named) {
  const domain = x.domain;
  const bands = shownBands(spec).filter((band) => band.to >= domain[0] && band.from <= domain[1]);
  const marks = bands.map((band) => Plot.rect([band], { x1: Math.max(band.from, domain[0]),
    x2: Math.min(band.to, domain[1]), y1: low, y2: high, fill: color(band.role),
    fillOpacity: 0.22, stroke: color(band.role), strokeOpacity: 0.5, strokeWidth: 0.5 }));
  const placed = named ? inRows(bands.filter((band) => band.label).map((band) => atBand(band, x))) : [];
  const labels = placed.map(({ band, edge, anchor, dx, row }) => Plot.text([band], { x: edge,
    y: high, text: "label", textAnchor: anchor, dx, dy: 8 + row * LABEL_GAP, fill: "var(--quiet)",
    stroke: "var(--page)", strokeWidth: 4 }));
  return [marks, labels];
}

/** Place the label of a band: from its left edge on, or up to its right edge near the plot's. */
function atBand(band, x) {
  const [from, to] = [Math.max(band.from, x.domain[0]), Math.min(band.to, x.domain[1])].map(x.apply);
  const width = textWidth(band.label) + 8;
  return from + width <= x.range[1] ? { band, edge: "from", anchor: "start", dx: 4, left: from, right: from + width }
    : { band, edge: "to", anchor: "end", dx: -4, left: to - width, right: to };
}

/** Give each label the first row in which it covers no earlier one. */
function inRows(labels) {
  labels.forEach((label, i) => {
    const rows = labels.slice(0, i)
      .filter((other) => other.left < label.right && label.left < other.right)
      .map((other) => other.row);
    label.row = 0;
    while (rows.includes(label.row)) label.row += 1;
  });
  return labels;
}

export function ruleMarks(spec, [low]) {
  const rules = (spec.rules ?? []).filter((rule) => defined(rule.y));
  const shaded = rules.filter((rule) => rule.shade && rule.y > low);
  return [
    ...shaded.map((rule) => Plot.rect([rule], { y1: low, y2: "y", fill: "var(--shade)" })),
    Plot.ruleY(rules, { y: "y", stroke: "var(--quiet)", strokeWidth: 1, strokeDasharray: "4,3" }),
    ...(spec.rules ?? []).filter((rule) => defined(rule.x)).map((rule) =>
      Plot.ruleX([rule.x], { stroke: "var(--quiet)", strokeDasharray: "4,3" })),
  ];
}

/** Return the labels at the right end: names of lines and rules, with their place in pixels. */
function endLabels(spec, y) {
  const series = namedSeries(spec).map((one) => {
    const values = one.values?.length ? one.values : one.high ?? [];
    const last = lastDefined(values);
    return last < 0 ? null : { y: y.apply(values[last]), text: endText(spec, one, values[last]),
      fill: color(one.role), weight: isEmphasised(one) ? 3 : 1 };
  });
  const rules = (spec.rules ?? []).filter((rule) => rule.label && defined(rule.y))
    .map((rule) => ({ y: y.apply(rule.y), text: rule.label, fill: "var(--quiet)", weight: 2 }));
  return [...series, ...rules].filter((label) => label && defined(label.y));
}

const endText = (spec, series, value) =>
  series.name && spec.series.length > 1 ? series.name : number(value);

export function legend(spec) {
  const named = namedSeries(spec).filter((one) => one.name);
  return html("div", { class: "legend" }, ...named.map((one) => html("span", {},
    html("i", { class: one.dashed ? "dashed" : "", style: `--color:${color(one.role)}` }), one.name)));
}

/** Return the right margin that the labels of a figure need, 0 where they stand above it. */
function labelRoom(spec, width) {
  const texts = [...namedSeries(spec).map((one) => endText(spec, one,
    one.values?.[lastDefined(one.values ?? [])] ?? 0)), ...(spec.rules ?? []).map((one) => one.label ?? "")];
  const need = Math.max(0, ...texts.map(textWidth));
  return need + 10 <= width * 0.28 ? need + 10 : 0;
}

const allX = (spec) => spec.series.map((one) => xValues(spec, one));

/** Return one chart: the svg with a tooltip. options: margins, height, whether the axis has text. */
function strip(spec, width, { right, height, last, first, named = right > 0, xs = allX(spec) }) {
  const axis = chosenAxis(spec);
  const inner = width - MARGIN.left - right;
  const x = xOptions(axis, extent(...xs) ?? [], inner);
  const domain = yDomain(spec);
  const pixels = Plot.scale({ x: { ...x, range: [MARGIN.left, width - Math.max(right, 12)] } });
  const [bands, bandLabels] = bandMarks(spec, pixels, domain, first && width >= NARROW);
  const isLog = spec.y?.scale === "log";
  const marginTop = MARGIN.top + LABEL_GAP;
  const chart = Plot.plot({
    width, height, marginTop, marginLeft: MARGIN.left, marginRight: Math.max(right, 12),
    marginBottom: last ? MARGIN.bottom + 8 : 8, x: { ...x, axis: null },
    y: { domain, axis: null, type: isLog ? "log" : "linear" },
    marks: [
      Plot.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: Math.max(2, height / 50) }),
      ...bands, ...ruleMarks(spec, domain), ...seriesMarks(spec), ...bandLabels,
      Plot.axisY({ ticks: Math.max(2, height / 50), tickSize: 4, label: null,
        tickFormat: isLog ? powerText(domain) : undefined }),
      ...(last ? [Plot.axisX({ ticks: x.ticks, tickFormat: x.tickFormat, tickSize: 4, label: null })] : []),
    ],
  });
  const scales = { x: chart.scale("x"), y: chart.scale("y") };
  annotate(chart, spec, { width, right, height, last, axis, scales, marginTop, named });
  const box = html("div", { class: "chart" }, chart);
  addTooltip(box, tooltipGroups(spec, axis, scales));
  return box;
}

/** Add the texts that Plot does not place: the axes' names and the ends of the lines. */
export function annotate(chart, spec, { width, right, height, last, axis, scales, marginTop, named }) {
  const text = (x, y, content, fill, anchor = "start") =>
    chart.append(svg("text", { x, y, fill, "text-anchor": anchor }, content));
  text(4, 12, `↑ ${axisText(spec.y)}`, "var(--quiet)");
  if (last) text(width - Math.max(right, 12), height - 4, `${axisText(axis)} →`, "var(--quiet)", "end");
  if (!named) return;
  const bottom = height - (last ? MARGIN.bottom + 8 : 8);
  for (const label of spread(endLabels(spec, scales.y), marginTop, bottom)) {
    text(width - right + 6, label.y + 4, label.text, label.fill);
  }
}

export function tooltipGroups(spec, axis, { x, y }) {
  return spec.series.filter((one) => one.values?.length).map((one) => {
    const xs = xValues(spec, one);
    const at = one.steps ? (i) => `step ${number(one.steps[i])}, ` : () => "";
    return { lefts: Array.from(xs, x.apply), tops: Array.from(xs, (_, i) => y.apply(one.values[i])),
      text: (i) => `${one.name ? `${one.name}: ` : ""}${number(one.values[i])} (${at(i)}${
        axis.label ?? "x"} ${number(xs[i])})`,
      href: one.href, follow: () => { location.href = one.href + location.search; } };
  });
}

/** Draw lines over one axis. */
export function drawLines(plot, spec, width) {
  const right = labelRoom(spec, width);
  const height = spec.height ?? Math.round(Math.min(320, Math.max(220, width * 0.42)));
  if (!right && namedSeries(spec).length) plot.append(legend(spec));
  plot.append(strip(spec, width, { right, height, last: true, first: true }));
}

/** Return the strips of a figure, each with its own horizontal values or else the figure's. */
export const panelsOf = (spec) => spec.panels.map((panel) => ({ ...panel,
  x: panel.x ? { ...spec.x, perSeries: undefined, ...panel.x } : spec.x, axes: spec.axes,
  series: panel.series ?? [], bands: spec.bands ?? panel.bands }));

/** Draw strips of lines that share bands and the domain of the axis: that of the values of all. */
export function drawPanels(plot, spec, width) {
  const panels = panelsOf(spec);
  const xs = panels.flatMap(allX);
  const rooms = panels.map((panel) => labelRoom(panel, width));
  const right = Math.max(...rooms);
  panels.forEach((panel, i) => {
    const last = i === panels.length - 1;
    const height = (panel.height ?? 124) + (last ? MARGIN.bottom : 0);
    if (!rooms[i] && namedSeries(panel).length > 1) plot.append(legend(panel));
    plot.append(strip(panel, width, { right, height, last, first: i === 0, named: rooms[i] > 0, xs }));
  });
}
