// The state of a page: in the query of its address, kept over reloads and carried into links.

const KEYS = ["steps", "theme", "step", "score", "axis", "text", "token", "paths"];
const OF_TABLES = /^(sort|filter)\../; // sort.ID and filter.ID of the tables
const OFTEN = /^(step$|filter\.)/; // change many times a second
const WRITE_EVERY = 100; // ms: browsers refuse more than 200 changes of the address in 10 s
const listeners = [];
const query = new URLSearchParams(location.search);

export const state = Object.fromEntries([...KEYS.map((key) => [key, query.get(key) ?? ""]),
  ...[...query].filter(([key]) => OF_TABLES.test(key))]);

/** Return whether steps are shown "linear" or "log": as the state says, else as the page does. */
export const stepScale = () => state.steps || document.body.dataset.steps || "linear";

function address() {
  const entries = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(state)) {
    if (value === "") entries.delete(key);
    else entries.set(key, value);
  }
  const text = entries.toString();
  return text ? `?${text}` : "";
}

let pending = 0;

/** Write the state into the address. */
function write() {
  clearTimeout(pending);
  pending = 0;
  history.replaceState(null, "", `${location.pathname}${address()}${location.hash}`);
}

addEventListener("pagehide", () => pending && write());

/** Return the address of this page with its state, and with a figure's name. */
export const pageAddress = (id) => location.href.split(/[?#]/)[0] + address() + (id ? `#${id}` : "");

/** Show the page in the state's theme; without one the reader's settings decide. */
export function applyTheme() {
  document.documentElement.dataset.theme = state.theme;
}

/** Set entries of the state, write them into the address, and tell the listeners which changed. */
export function setState(changes) {
  const changed = Object.keys(changes).filter((key) => (state[key] ?? "") !== String(changes[key]));
  if (!changed.length) return;
  for (const key of changed) state[key] = String(changes[key]);
  if (changed.includes("theme")) applyTheme(); // first: listeners read colours
  if (changed.every((key) => OFTEN.test(key))) pending ||= setTimeout(write, WRITE_EVERY);
  else write();
  for (const listener of listeners) listener(changed);
}

/** Call a function with the names of the entries whenever some change. */
export const onState = (listener) => listeners.push(listener);

const isPage = (link) =>
  link.protocol === location.protocol && link.host === location.host && /\.html$/.test(link.pathname);

/** Put the state into a link to another page of the site when it is about to be followed. */
export function carryState() {
  const carry = (event) => {
    const link = event.target.closest?.("a[href]");
    if (link && !link.hasAttribute("download") && isPage(link)) link.search = address();
  };
  for (const event of ["pointerdown", "click", "auxclick", "focusin"]) {
    document.addEventListener(event, carry, true);
  }
}

/** Show the page in light colours while it is printed: paper is white. */
export function printLight() {
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    for (const listener of listeners) listener(["theme"]);
  };
  addEventListener("beforeprint", () => show("light"));
  addEventListener("afterprint", () => show(state.theme));
}
