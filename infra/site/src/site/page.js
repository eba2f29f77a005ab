// What every page has: theme, steps, search, sortable tables, keys.
import { html, number } from "./dom.js";
import { applyTheme, onState, setState, state, stepScale } from "./state.js";
import { moveStep, play } from "./steps.js";

const THEMES = ["", "light", "dark"];
const MOST_RESULTS = 20;

function addTheme(button) {
  const show = () => {
    button.textContent = `theme: ${state.theme || "auto"}`;
  };
  button.addEventListener("click", () =>
    setState({ theme: THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length] }));
  onState(show);
  show();
}

function addSteps(button) {
  const show = () => {
    button.textContent = `steps: ${stepScale()}`;
  };
  button.addEventListener("click", () =>
    setState({ steps: stepScale() === "log" ? "linear" : "log" }));
  onState(show);
  show();
}

/** Make the buttons [data-action=theme] and [data-action=steps] change the state. */
export function addSwitches() {
  applyTheme();
  document.querySelectorAll("[data-action=theme]").forEach(addTheme);
  document.querySelectorAll("[data-action=steps]").forEach(addSteps);
}

/** Return whether a word of a search is in a text: whole if it is a number, else anywhere. */
function matches(word, text) {
  return /^\d+$/.test(word) ? text.split(/[\s_,]+/).includes(word) : text.includes(word);
}

/** Return the heads whose name, label or score has every word; heads that begin with them first. */
export function findHeads(heads, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const found = heads.map((head) => {
    const name = head.name.toLowerCase();
    const all = [name, head.label ?? "", head.score ?? "", head.run ?? "", `layer ${head.layer ?? ""}`,
      ...(head.words ?? [])].join(" ").toLowerCase();
    if (!words.every((word) => matches(word, all))) return null;
    return { head, rank: name === words[0] ? 0 : name.startsWith(words[0]) ? 1 : 2 };
  }).filter(Boolean);
  return found.sort((a, b) => a.rank - b.rank).map(({ head }) => head);
}

function resultItem(head) {
  const href = head.href ?? `head-${head.name}.html`;
  const score = typeof head.score === "number" ? number(head.score) : head.score ?? "";
  const about = [head.run, (head.label || "no label").replace(/_/g, " "), score];
  return html("li", {}, html("a", { href }, head.name), ` ${about.filter(Boolean).join(" · ")}`);
}

/** Make the search field list the heads of ontogeny.heads as links. */
export function addSearch() {
  const field = document.querySelector("input.search-heads, header input[type=search]");
  if (!field) return;
  const list = html("ul", { class: "results", hidden: true, "aria-label": "heads found" });
  const status = html("span", { class: "for-readers", role: "status" });
  field.after(list, status);
  const close = () => {
    list.hidden = true;
  };
  field.addEventListener("input", () => {
    const found = findHeads(window.ontogeny.heads ?? [], field.value);
    list.replaceChildren(...found.slice(0, MOST_RESULTS).map(resultItem));
    if (found.length > MOST_RESULTS) list.append(html("li", {}, `and ${found.length - MOST_RESULTS} more`));
    if (!found.length && field.value) list.append(html("li", {}, "nothing found"));
    status.textContent = field.value ? `${found.length} found` : "";
    list.hidden = !field.value;
  });
  const within = (event) => {
    const links = [field, ...list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (event.key === "Escape") {
      close();
      field.blur();
      document.activeElement.blur();
    } else if (event.key === "Enter" && at === 0 && !list.hidden) links[1]?.click();
    else if (event.key === "ArrowDown") links[Math.min(at + 1, links.length - 1)].focus();
    else if (event.key === "ArrowUp") links[Math.max(at - 1, 0)].focus();
    else return;
    event.preventDefault();
  };
  field.addEventListener("keydown", within);
  list.addEventListener("keydown", within);
  document.addEventListener("click", (event) => {
    if (event.target !== field && !list.contains(event.target)) close();
  });
}

/** Make "/" go to the search field, the arrows move the slider, and space play it. */
export function addKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const slider = event.target.closest?.(".step-slider");
    if (slider && event.key === " ") {
      play(slider);
      event.preventDefault();
    }
    const isTyping = event.target.closest?.("input:not([type=range]), select, textarea");
    if (isTyping || (slider && event.key !== "/")) return;
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    const isFree = !event.target.closest?.("a, button, summary"); // space presses these
    if (event.key === "/") document.querySelector("header input[type=search]")?.focus();
    else if (!(event.key in moves && moveStep(moves[event.key])) &&
      !(event.key === " " && isFree && play())) return;
    event.preventDefault();
  });
}

const numeric = (text) => Number.parseFloat(text.replace(/,/g, "").replace("−", "-"));
const isNumber = (text) => /^[+−-]?[\d.]/.test(text);

/** Compare two texts of cells: numbers by value and before others, what is undefined last. */
export function compareCells(a, b) {
  if (isNumber(a) && isNumber(b)) return numeric(a) - numeric(b);
  const rank = (text) => (isNumber(text) ? 0 : /^[\p{L}]/u.test(text) && text !== "nan" ? 1 : 2);
  return rank(a) - rank(b) || a.localeCompare(b, "en", { numeric: true });
}

/** Make tables of class "sortable" sort by their heads, and filter where they have data-filter. */
export function addTables() {
  document.querySelectorAll("table.sortable").forEach((table, t) => {
    const headers = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    if (!body.rows.length) return;
    const holder = html("div", { class: "sorted", id: table.id ? `${table.id}-list` : `list-${t}` });
    table.replaceWith(holder);
    holder.append(table);
    body.classList.add("list");
    for (const row of body.rows) {
      [...row.cells].forEach((cell, i) => {
        cell.classList.add(`c${i}`);
        cell.dataset.value ??= cell.textContent.trim();
      });
    }
    const key = table.id || String(t + 1);
    const list = new window.List(holder, { listClass: "list", valueNames: headers.map((_, i) => ({ name: `c${i}`, attr: "data-value" })) });
    addSort(list, headers, `sort.${key}`);
    if ("filter" in table.dataset) addFilter(list, holder, `filter.${key}`);
  });
}

/** Call a function now if the state has an entry, and whenever the entry changes. */
function onEntry(key, show) {
  onState((changed) => changed.includes(key) && show());
  if (state[key]) show();
}

/** Add a field that filters the rows. key: of the state, which has its text. */
function addFilter(list, holder, key) {
  const field = html("input", { type: "search", class: "filter", placeholder: "Filter",
    "aria-label": "Filter the rows" });
  field.addEventListener("input", () => setState({ [key]: field.value }));
  onEntry(key, () => {
    if (field.value !== state[key]) field.value = state[key];
    const sought = state[key].toLowerCase();
    list.filter((item) => item.elm.textContent.toLowerCase().includes(sought));
  });
  holder.prepend(field);
}

/** Make the heads sort. key: of the state, which has the place of a column from 1 on, below 0 if falling. */
function addSort(list, headers, key) {
  headers.forEach((header, i) => {
    header.append(html("button", { type: "button", class: "by", onclick: () =>
      setState({ [key]: state[key] === String(i + 1) ? -(i + 1) : i + 1 }) }, ...header.childNodes));
  });
  onEntry(key, () => {
    const [place, order] = [Math.abs(state[key]) - 1, state[key] < 0 ? "desc" : "asc"];
    if (!headers[place]) return;
    headers.forEach((one) => one.removeAttribute("aria-sort"));
    headers[place].setAttribute("aria-sort", order === "asc" ? "ascending" : "descending");
    list.sort(`c${place}`, { order, sortFunction: (a, b) =>
      compareCells(a.values()[`c${place}`], b.values()[`c${place}`]) });
  });
}
