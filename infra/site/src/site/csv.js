// The numbers of a figure as CSV, one row per point: all digits that the page has. float32 are those
// that are stored; the head of a column says where they were decoded from 8 bits.
import { shortest32 } from "./arrays.js";
import { defined } from "./dom.js";
import { namedRows } from "./bars.js";
import { graphEdges } from "./graph.js";
import { chosenAxis, panelsOf, xValues } from "./lines.js";
import { frameValues } from "./mosaic.js";

const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);

function cell(value, list) {
  if (!defined(value)) return "";
  if (typeof value !== "number") return String(value);
  return list instanceof Float32Array ? shortest32(value) : String(value);
}

const name = (entry) => entry.name ?? String(entry);

/** Return value, low and high of a point of a series. */
const ofPoint = (series, i) =>
  ["values", "low", "high"].map((key) => cell(series[key]?.[i], series[key]));

/** Return lines as columns if all have the same horizontal values, else one row per point. */
function linesTable(spec) {
  const label = chosenAxis(spec)?.label ?? "x";
  const axes = spec.series.map((one) => xValues(spec, one));
  const same = axes.every((axis) => axis === axes[0]);
  const lists = spec.series.flatMap((one) => [[one.name || spec.y?.label, one.values],
    [`${one.name} low`, one.low], [`${one.name} high`, one.high]]).filter(([, list]) => list?.length);
  if (same) {
    const rows = Array.from(axes[0] ?? [], (x, i) =>
      [cell(x, axes[0]), ...lists.map(([, list]) => cell(list[i], list))]);
    return [[label, ...lists.map(([title]) => title)], ...rows];
  }
  const rows = spec.series.flatMap((one, k) => Array.from(axes[k], (x, i) =>
    [one.name, cell(one.steps?.[i], one.steps), cell(x, axes[k]), ...ofPoint(one, i)]));
  return [["name", "step", label, spec.y?.label ?? "value", "low", "high"], ...rows];
}

function panelsTable(spec) {
  const rows = panelsOf(spec).flatMap((panel) => panel.series.flatMap((one) => {
    const xs = xValues(panel, one);
    return Array.from(xs, (x, i) =>
      [panel.y?.label ?? "", one.name ?? "", cell(x, xs), ...ofPoint(one, i)]);
  }));
  return [["panel", "name", chosenAxis(spec)?.label ?? "x", "value", "low", "high"], ...rows];
}

/** Return the cells of every frame, labels by name; colours in 8 bits are named as approximate. */
async function cellsTable(spec) {
  const frames = spec.frames ?? { steps: [""], scores: [{ name: "", ...spec }] };
  const rows = [];
  let approximate = false;
  for (const score of frames.scores.length ? frames.scores : [undefined]) {
    for (let f = 0; f < frames.steps.length; f += 1) {
      const frame = spec.frames ? await frameValues(spec, f, score) : score;
      approximate ||= frame.approximate;
      spec.rows.forEach((row, i) => spec.columns.forEach((column, j) => {
        const value = frame.values[i * spec.columns.length + j];
        const text = frame.kind === "label" ? frame.names[value] ?? "" : cell(value, frame.values);
        rows.push([frame.name ?? "", cell(frames.steps[f]), name(row), name(column), text]);
      }));
    }
  }
  return [["score", "step", "row", "column", approximate ? "value (8 bits)" : "value"], ...rows];
}

function rowsTable(spec) {
  const [series] = spec.series;
  const rows = namedRows(spec).map((row) => [row.name, cell(row.value, series.values),
    cell(row.low, series.low), cell(row.high, series.high)]);
  return [["name", "value", "low", "high"], ...rows];
}

function graphTable(spec) {
  const steps = spec.frames?.steps ?? [""];
  const rows = Array.from(steps, (step, i) => graphEdges(spec, i).map((edge) =>
    [cell(step), edge.from, edge.to, edge.by, cell(edge.value)])).flat();
  return [["step", "from", "to", "by", "value"], ...rows];
}

function attentionTable(spec) {
  const texts = spec.texts ?? [spec];
  const numbersOf = (text) => text.frames?.scores[0] ?? text;
  const attention = texts.some((text) => numbersOf(text).approximate)
    ? "attention (8 bits)" : "attention";
  const rows = texts.flatMap((text, t) => {
    const { tokens } = text;
    const { values } = numbersOf(text);
    return Array.from(text.frames?.steps ?? [""], (step, f) => tokens.flatMap((token, query) =>
      tokens.slice(0, query + 1).map((other, key) => [text.name ?? t + 1, cell(step), query, key,
        token, other,
        cell(values[(f * tokens.length + query) * tokens.length + key], values)]))).flat();
  });
  return [["text", "step", "query", "key", "query token", "key token", attention], ...rows];
}

const TABLES = { panels: panelsTable, mosaic: cellsTable, matrix: cellsTable, bars: rowsTable,
  intervals: rowsTable, graph: graphTable, attention: attentionTable };

/** Return a figure's numbers as CSV. */
export async function csv(spec) {
  const table = await (TABLES[spec.kind] ?? linesTable)(spec);
  return `${table.map((row) => row.map((one) => quoted(String(one ?? ""))).join(",")).join("\n")}\n`;
}
