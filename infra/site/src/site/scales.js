// Axes: steps linear or as log(1 + step), ticks, and room for labels.
import { defined, extent, number } from "./dom.js";
import { stepScale } from "./state.js";

export const LABEL_GAP = 14;
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'; // .chart
const measure = document.createElement("canvas").getContext("2d");

/** Return the width in pixels of a text of a chart. */
export function textWidth(text) {
  measure.font = FONT;
  return Math.ceil(measure.measureText(text).width) + 1;
}

/** Return a text that is no wider than some pixels: it ends with … where it is cut. */
export function shortened(text, width) {
  if (textWidth(text) <= width) return text;
  let length = text.length;
  while (length > 1 && textWidth(`${text.slice(0, length)}…`) > width) length -= 1;
  return `${text.slice(0, length)}…`;
}

/** Return 0, 1, 10, 100, … up to the last step, with few enough for the width. */
function logTicks([low, high], width) {
  const ticks = low <= 0 ? [0] : [];
  for (let tick = 1; tick <= high; tick *= 10) if (tick >= low) ticks.push(tick);
  if (high > 1.9 * ticks.at(-1)) ticks.push(high);
  return width < 320 && ticks.length > 5 ? ticks.filter((_, i) => i % 2 === 0) : ticks;
}

const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });

/** Return the text of a step or a count of tokens at an axis. */
const tickText = (value) => (value >= 1e6 ? compact.format(value) : number(value));

/** Return a function that gives the text of a tick of a logarithmic axis: of powers of 10, if it has some. */
export function powerText([low, high]) {
  const powers = high / low >= 100;
  return (value) => {
    if (powers && Math.abs(Math.log10(value) - Math.round(Math.log10(value))) > 1e-9) return "";
    return value >= 1e-3 && value < 1e6 ? number(value).replace(/\.?0+$/, "") : value.toExponential(0).replace("-", "−");
  };
}

/** Return the options of Plot for the horizontal axis over some values. */
export function xOptions(axis, values, width) {
  const domain = axis.domain ?? extent(values) ?? [0, 1];
  const common = { domain, label: null, tickFormat: axis.scale === "step" ? tickText : undefined };
  if (axis.scale === "log" && domain[0] > 0) return { ...common, type: "log" };
  if (axis.scale === "log" || (axis.scale === "step" && stepScale() === "log")) {
    return { ...common, type: "symlog", constant: 1, tickFormat: tickText, ticks: logTicks(domain, width) };
  }
  return { ...common, type: "linear", ticks: Math.max(2, Math.floor(width / 80)) };
}

/** Return the text of an axis: its label with its unit. */
export const axisText = (axis) => [axis?.label, axis?.unit].filter(Boolean).join(", ");

/** Return the domain of the vertical axis: the given one, or that of all numbers with 4 % around. */
export function yDomain(spec) {
  if (spec.y?.domain) return spec.y.domain;
  const lists = (spec.series ?? []).flatMap((one) => [one.values, one.low, one.high]);
  const found = extent(...lists, (spec.rules ?? []).map((rule) => rule.y).filter(defined));
  if (!found) return [0, 1];
  const space = (found[1] - found[0]) * 0.04 || Math.abs(found[0]) * 0.1 || 1;
  return [found[0] - space, found[1] + space];
}

/**
 * Return labels {y, text, …} moved apart vertically so that none covers another.
 * Those that do not fit between top and bottom are left out, the last in order of `weight` first.
 */
export function spread(labels, top, bottom) {
  const room = Math.max(1, Math.floor((bottom - top) / LABEL_GAP) + 1);
  const kept = [...labels].sort((a, b) => (b.weight ?? 0) - (a.weight ?? 0)).slice(0, room);
  kept.sort((a, b) => a.y - b.y);
  const placed = kept.map((label) => ({ ...label }));
  placed.forEach((label, i) => {
    label.y = Math.max(label.y, i ? placed[i - 1].y + LABEL_GAP : top);
  });
  for (let i = placed.length - 1; i >= 0; i -= 1) {
    const limit = i === placed.length - 1 ? bottom : placed[i + 1].y - LABEL_GAP;
    placed[i].y = Math.min(placed[i].y, limit);
  }
  return placed;
}
