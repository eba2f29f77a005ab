// Attention on text: a triangle of queries and keys, and the tokens as buttons.
import { paint } from "./cells.js";
import { defined, html, number } from "./dom.js";
import { place, setColor } from "./shades.js";
import { onState, setState, state } from "./state.js";
import { addControls } from "./steps.js";

const DOMAIN = [0, 1];

function tokenButtons(tokens, choose) {
  return tokens.map((token, i) => html("button", { type: "button", class: "cell token",
    "aria-pressed": "false", onclick: () => choose(i) }, token.replace(/\n/g, "⏎") || " "));
}

/** Colour the tokens by how much the chosen one attends to each; says(value) is a number in words. */
function showRow(buttons, tokens, values, query, output, says) {
  const count = tokens.length;
  buttons.forEach((button, key) => {
    const value = key <= query ? values[query * count + key] : 0;
    setColor(button, defined(value) ? place(value, DOMAIN) : null);
    button.setAttribute("aria-pressed", key === query);
    button.title = key <= query ? `${tokens[query]} attends to ${tokens[key]}: ${says(value)}` : "";
  });
  const row = Array.from(values.slice(query * count, query * count + query + 1));
  const most = row.indexOf(Math.max(...row.filter(defined)));
  const where = most < 0 ? "has no attention at this step"
    : `attends most to token ${most + 1}, “${tokens[most]}”: ${says(row[most])}`;
  output.textContent = `Token ${query + 1}, “${tokens[query]}”, ${where}`;
}

/** Return the place of the token that the state names from 1 on; without one it is the last. */
const chosenToken = (count) => (Number(state.token) >= 1
  ? Math.min(Math.floor(Number(state.token)), count) : count) - 1;

function drawText(parent, spec, width, label) {
  const { tokens } = spec;
  const count = tokens.length;
  const size = Math.max(3, Math.min(16, Math.floor(width / count)));
  const canvas = html("canvas", { class: "matrix", role: "img", "aria-label": label });
  const output = html("output", { class: "under" });
  let values = spec.values ?? [];
  const { approximate } = spec.frames?.scores[0] ?? spec;
  const says = (value) => (approximate && defined(value) ? "about " : "") + number(value);
  const choose = (i) => setState({ token: i + 1 });
  const buttons = tokenButtons(tokens, choose);
  const draw = () => {
    const query = chosenToken(count);
    const context = paint(canvas, { rows: count, columns: count, values, size,
      at: (value) => place(value, DOMAIN), isShown: (i, j) => j <= i });
    context.strokeStyle = getComputedStyle(canvas).color;
    context.lineWidth = 2;
    context.strokeRect(1, query * size, (query + 1) * size - 2, size - 1);
    showRow(buttons, tokens, values, query, output, says);
  };
  const show = (index) => {
    const { values: all } = spec.frames.scores[0];
    values = all.slice(index * count * count, (index + 1) * count * count);
    draw();
  };
  canvas.addEventListener("click", (event) =>
    choose(Math.min(count - 1, Math.floor(event.offsetY / size))));
  onState((changed) => {
    if (canvas.isConnected && (changed.includes("theme") || changed.includes("token"))) draw();
  });
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
  const names = spec.texts.map((text, i) => text.name ?? `text ${i + 1}`);
  const select = html("select", { class: "text", "aria-label": "text",
    onchange: () => setState({ text: select.value }) },
  ...names.map((name) => html("option", { value: name }, name)));
  plot.append(...(names.length > 1 ? [html("div", { class: "controls" }, select)] : []), holder);
  const show = () => {
    const index = Math.max(0, names.indexOf(state.text));
    select.value = names[index];
    holder.replaceChildren();
    drawText(holder, spec.texts[index], width, label);
  };
  onState((changed) => holder.isConnected && changed.includes("text") && show());
  return show();
}
