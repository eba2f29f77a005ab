// Figures of points: stems from 0, and trajectories.
import { extent, html, number, signed, svg } from "./dom.js";
import {
  MARGIN, ruleMarks, pointsOf, annotate, tooltipGroups, color, legend, chosenAxis, xValues,
} from "./lines.js";
import { textWidth, xOptions, yDomain } from "./scales.js";
import { addTooltip } from "./tooltip.js";

const { Plot } = window;

/** Draw stems from 0, filled above it and hollow below. */
export function drawStems(plot, spec, width) {
  const [series] = spec.series;
  const points = pointsOf(spec, series, ["x", "y"]);
  const end = points.at(-1);
  const values = extent(series.values, [0]) ?? [0, 1];
  const space = (values[1] - values[0]) * 0.08 || 1;
  const right = end ? textWidth(signed(end.y)) + 12 : 12;
  const height = spec.height ?? 170;
  const axis = chosenAxis(spec);
  const x = xOptions(axis, xValues(spec, series), width - MARGIN.left - right);
  const y = { domain: spec.y?.domain ?? [values[0] - (values[0] < 0 ? space : 0), values[1] + space] };
  const chart = Plot.plot({ width, height, marginTop: 22, marginLeft: MARGIN.left, marginRight: right,
    marginBottom: MARGIN.bottom + 8, x, y: { ...y, label: null }, marks: [
      Plot.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 4 }),
      ...ruleMarks(spec, y.domain), Plot.ruleY([0], { stroke: "var(--quiet)" }),
      Plot.ruleX(points, { x: "x", y1: 0, y2: "y", stroke: "var(--ink)", strokeWidth: 2.5 }),
      Plot.dot(points, { x: "x", y: "y", r: 4.5, stroke: "var(--ink)", strokeWidth: 1.5,
        fill: (point) => (point.y < 0 ? "var(--page)" : "var(--ink)") }),
      Plot.axisY({ ticks: 4, tickSize: 4, label: null }),
      Plot.axisX({ ticks: x.ticks, tickSize: 4, label: null, tickFormat: x.tickFormat }),
    ] });
  const scales = { x: chart.scale("x"), y: chart.scale("y") };
  const labelled = { ...spec, series: [{ ...series, name: "" }], rules: [] };
  annotate(chart, labelled, { width, right: 0, height, last: true, axis, scales, marginTop: 22 });
  if (end) endValue(chart, scales, end);
  const box = html("div", { class: "chart" }, chart);
  addTooltip(box, tooltipGroups(spec, axis, scales));
  plot.append(box);
}

function endValue(chart, { x, y }, end) {
  const place = { x: x.apply(end.x) + 8, y: y.apply(end.y) + 4, fill: "var(--ink)", "text-anchor": "start" };
  chart.append(svg("text", place, signed(end.y)));
}

/** Draw trajectories: points in order of the steps, with the marked ones named. */
export function drawScatter(plot, spec, width) {
  const height = spec.height ?? Math.round(Math.min(420, Math.max(260, width * 0.7)));
  const all = spec.series.map((one) => xValues(spec, one));
  const pad = ([low, high]) => [low - (high - low || 1) * 0.06, high + (high - low || 1) * 0.06];
  const x = xOptions({ ...spec.x, domain: spec.x.domain ?? pad(extent(...all) ?? [0, 1]) }, [], width);
  const marked = spec.marks ?? [];
  const chart = Plot.plot({ width, height, marginTop: 22, marginLeft: MARGIN.left, marginRight: 16,
    marginBottom: MARGIN.bottom + 8, x, y: { domain: yDomain(spec), label: null }, marks: [
      Plot.gridY({ stroke: "var(--grid)", strokeOpacity: 1 }),
      Plot.gridX({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 5 }),
      ...ruleMarks(spec, yDomain(spec)), ...spec.series.flatMap((one) => trajectory(spec, one)),
      Plot.dot(marked, { x: "x", y: "y", r: 5, fill: "var(--page)", stroke: "var(--ink)", strokeWidth: 2 }),
      Plot.text(marked, { x: "x", y: "y", text: "label", dy: -12, fill: "var(--ink)",
        stroke: "var(--page)", strokeWidth: 4 }),
      Plot.axisY({ tickSize: 4, label: null }),
      Plot.axisX({ ticks: 5, tickSize: 4, label: null }),
    ] });
  const scales = { x: chart.scale("x"), y: chart.scale("y") };
  annotate(chart, spec, { width, right: 0, height, last: true, axis: spec.x, scales, marginTop: 22 });
  if (spec.series.length > 1) plot.append(legend(spec));
  const box = html("div", { class: "chart" }, chart);
  addTooltip(box, tooltipGroups(spec, spec.x, scales));
  plot.append(box);
}

function trajectory(spec, series) {
  const points = pointsOf(spec, series, ["x", "y"]);
  const stroke = color(series.role);
  const at = { x: "x", y: "y" };
  const ends = series.steps?.length && points.length > 1 ? [0, points.length - 1].map((i) =>
    ({ ...points[i], text: `step ${number(series.steps[i])}` })) : [];
  return [
    Plot.line(points, { ...at, stroke, strokeWidth: 1.2 }),
    Plot.dot(points, { ...at, fill: stroke, r: 2.5 }),
    ...ends.map((end, i) => Plot.text([end], { ...at, text: "text", fill: "var(--quiet)", dy: i ? -10 : 14,
      textAnchor: spec.series.length && xSide(points, end) ? "end" : "start", stroke: "var(--page)",
      strokeWidth: 4 })),
  ];
}

const xSide = (points, end) => {
  const [low, high] = extent(points.map((point) => point.x));
  return end.x > (low + high) / 2;
};
