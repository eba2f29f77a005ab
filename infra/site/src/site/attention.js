// Attention on text: a triangle of queries and keys, and the tokens as buttons.
import { paint } from "./cells.js";
import { html, number } from "./dom.js";
import { place, setColor } from "./shades.js";
import { onState } from "./state.js";
import { addControls } from "./steps.js";

const DOMAIN = [0, 1];

function tokenButtons(tokens, choose) {
  return tokens.map((token, i) => html("button", { type: "button", class: "cell token",
    "aria-pressed": "false", onclick: () => choose(i) }, token.replace(/\n/g, "⏎") || " "));
}

/** Colour the tokens by how much the chosen one attends to each. */
function showRow(buttons, tokens, values, query, output) {
  const count = tokens.length;
  buttons.forEach((button, key) => {
    const value = key <= query ? values[query * count + key] : 0;
    setColor(button, place(value, DOMAIN));
    button.setAttribute("aria-pressed", key === query);
    button.title = key <= query ? `${tokens[query]} attends to ${tokens[key]}: ${number(value)}` : "";
  });
  const row = Array.from(values.slice(query * count, query * count + query + 1));
  const most = row.indexOf(Math.max(...row));
  output.textContent = `Token ${query + 1}, “${tokens[query]}”, attends most to token ${most + 1}, “${
    tokens[most]}”: ${number(row[most])}`;
}

function drawText(parent, spec, width, label) {
  const { tokens } = spec;
  const count = tokens.length;
  const size = Math.max(3, Math.min(16, Math.floor(width / count)));
  const canvas = html("canvas", { class: "matrix", role: "img", "aria-label": label });
  const output = html("output", { class: "under" });
  let values = spec.values ?? [];
  let query = spec.query ?? count - 1;
  const buttons = tokenButtons(tokens, (i) => {
    query = i;
    draw();
  });
  const draw = () => {
    const context = paint(canvas, { rows: count, columns: count, values, size,
      at: (value) => place(value, DOMAIN), isShown: (i, j) => j <= i });
    context.strokeStyle = getComputedStyle(canvas).color;
    context.lineWidth = 2;
    context.strokeRect(1, query * size, (query + 1) * size - 2, size - 1);
    showRow(buttons, tokens, values, query, output);
  };
  const show = (index) => {
    const { values: all } = spec.frames.scores[0];
    values = all.slice(index * count * count, (index + 1) * count * count);
    draw();
  };
  canvas.addEventListener("click", (event) => {
    query = Math.min(count - 1, Math.floor(event.offsetY / size));
    draw();
  });
  onState((changed) => canvas.isConnected && changed.includes("theme") && draw());
  const body = html("div", {}, canvas, html("div", { class: "tokens" }, ...buttons), output);
  const controls = html("div");
  parent.append(controls, body); // first: what is not on the page has no computed colours
  if (spec.frames) addControls(controls, spec, show);
  else draw();
}

/** Draw the attention of one head on a text, or on one of several that are chosen by name. */
export function drawAttention(plot, spec, width, label) {
  if (!spec.texts) return drawText(plot, spec, width, label);
  const holder = html("div");
  const select = html("select", { "aria-label": "text", onchange: () => {
    holder.replaceChildren();
    drawText(holder, spec.texts[Number(select.value)], width, label);
  } }, ...spec.texts.map((text, i) => html("option", { value: i }, text.name ?? `text ${i + 1}`)));
  plot.append(...(spec.texts.length > 1 ? [html("div", { class: "controls" }, select)] : []), holder);
  return drawText(holder, spec.texts[0], width, label);
}
