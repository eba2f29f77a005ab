// The graph of composition: heads in rows by layer, links by K, Q and V as wide as they are strong.
import { defined, html, number, svg } from "./dom.js";
import { color } from "./lines.js";
import { onState, setState, state } from "./state.js";
import { addControls } from "./steps.js";

const NODE_HEIGHT = 26;
const ROW_GAP = { few: 150, many: 96 }; // px from one layer to the next, of up to 4 or more
const KINDS = ["k", "q", "v"];
const MOST_WIDE = 9; // px

function layers(nodes) {
  const found = [...new Set(nodes.map((node) => node.layer))].sort((a, b) => b - a);
  return new Map(found.map((layer, i) => [layer, i]));
}

const rowGap = (rows) => (rows.size <= 4 ? ROW_GAP.few : ROW_GAP.many);

/** Return the place of each head: {x, y, width} by name; the last layer is at the top. */
function places(nodes, width) {
  const rows = layers(nodes);
  const gap = rowGap(rows);
  const counts = new Map();
  for (const node of nodes) counts.set(node.layer, (counts.get(node.layer) ?? 0) + 1);
  const next = new Map();
  return new Map(nodes.map((node) => {
    const cell = width / counts.get(node.layer);
    const i = next.get(node.layer) ?? 0;
    next.set(node.layer, i + 1);
    const box = { x: (i + 0.5) * cell, y: 8 + rows.get(node.layer) * gap, width: Math.min(64, cell - 3) };
    return [node.name, box];
  }));
}

function nodeElement(node, box) {
  const short = box.width < 40 ? node.name.replace(/^L\d+/, "") : node.name;
  const parts = [
    svg("rect", { x: box.x - box.width / 2, y: box.y, width: box.width, height: NODE_HEIGHT, rx: 5,
      fill: "var(--surface)", stroke: color(node.role), "stroke-width": 2 }),
    ...(box.width < 22 ? [] : [svg("text", { x: box.x, y: box.y + 17, "text-anchor": "middle",
      fill: "var(--ink)" }, short)]),
  ];
  if (!node.href) return svg("g", {}, ...parts);
  return svg("a", { href: node.href, "aria-label": node.name }, ...parts);
}

/** Return the path of an edge; edges of one kind leave a head at the same place. */
function edgeElement(edge, boxes, scale) {
  const [from, to] = [boxes.get(edge.from), boxes.get(edge.to)];
  if (!from || !to) return null;
  const shift = (KINDS.indexOf(edge.by) - 1) * Math.min(12, from.width / 4);
  const [x1, y1] = [from.x + shift, from.y];
  const [x2, y2] = [to.x + shift, to.y + NODE_HEIGHT];
  const middle = (y1 + y2) / 2;
  return svg("path", { d: `M${x1},${y1}C${x1},${middle} ${x2},${middle} ${x2},${y2}`, fill: "none",
    stroke: color(edge.by), "stroke-width": scale(edge.value), "stroke-opacity": 0.8, class: "edge" },
  svg("title", {}, `${edge.from} to ${edge.to} by ${edge.by.toUpperCase()}: ${number(edge.value)}`));
}

/** Return whether the links of a kind are shown: the state has the letters of those that are, or none. */
const isShown = (kind) => state.paths === "" || state.paths.includes(kind);

/** Show or hide the links of a kind; with all of them shown the state has no entry. */
function toggle(kind) {
  const shown = KINDS.filter((one) => isShown(one) !== (one === kind));
  setState({ paths: shown.length === KINDS.length ? "" : shown.join("") || "-" });
}

function kindButtons() {
  return html("div", { class: "kinds", role: "group", "aria-label": "composition" }, ...KINDS.map(
    (kind) => html("button", { type: "button", "data-kind": kind, "aria-pressed": String(isShown(kind)),
      onclick: () => toggle(kind) }, html("i", { style: `--color:${color(kind)}` }), kind.toUpperCase())));
}

/** Return the edges of a frame, or the figure's. */
export const graphEdges = (spec, index) => spec.frames?.edges?.[index] ?? spec.edges ?? [];

/** Draw the graph; frames.edges has the edges of each step. */
export function drawGraph(plot, spec, width, label) {
  const boxes = places(spec.nodes, width);
  const rows = layers(spec.nodes);
  const height = 16 + NODE_HEIGHT + (rows.size - 1) * rowGap(rows);
  const rule = spec.rules?.[0]?.y ?? 0;
  const every = spec.frames?.edges?.flat() ?? spec.edges ?? [];
  const most = Math.max(rule + 1e-12, ...every.map((edge) => edge.value).filter(defined));
  const scale = (value) => Math.max(0.6, (MOST_WIDE * (value - rule)) / (most - rule));
  const edges = svg("g");
  const drawing = svg("svg", { width, height, role: "group", "aria-label": label }, edges,
    ...spec.nodes.map((node) => nodeElement(node, boxes.get(node.name))));
  let index = 0;
  const redraw = () => {
    const drawn = graphEdges(spec, index).filter((edge) => isShown(edge.by) && edge.value > rule);
    edges.replaceChildren(...drawn.map((edge) => edgeElement(edge, boxes, scale)).filter(Boolean));
  };
  if (spec.frames) {
    addControls(plot, spec, (i) => {
      index = i;
      redraw();
    });
  } else redraw();
  const buttons = kindButtons();
  onState((changed) => {
    if (!buttons.isConnected || !changed.includes("paths")) return;
    for (const one of buttons.children) one.setAttribute("aria-pressed", isShown(one.dataset.kind));
    redraw();
  });
  plot.append(buttons, html("div", { class: "chart" }, drawing));
}
