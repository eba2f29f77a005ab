// How cells are coloured: by a number on a ramp, by the role of a label, or by the step of an onset.
import { defined, extent, html, number } from "./dom.js";
import { color } from "./lines.js";

// Places on the ramp from which white (light theme) or black (dark theme) is read better: there both
// have a contrast of 4.5. They follow from the colours in site.css.
const TURN = { light: 0.627, dark: 0.503, lightNegative: 0.665, darkNegative: 0.498 };
const DECIMALS_FROM = 0.5; // domains that reach this far have numbers with two decimals
const FIRST_ONSET = 0.2; // place of the first onset on the ramp: apart from a head without one

/** Return the domain of colours: the given one, or from 0 (or below it, evenly) to the extreme. */
export function cellDomain(given, values) {
  if (given) return given;
  const found = extent(values) ?? [0, 1];
  if (found[0] < 0) {
    const most = Math.max(-found[0], found[1]);
    return [-most, most];
  }
  return [0, found[1] || 1];
}

/** Return the place of a value on the ramp: 0 to 1, and whether it is on the negative side. */
export function place(value, [low, high]) {
  if (low < 0 && high > 0) {
    const part = Math.min(1, Math.abs(value) / Math.max(-low, high));
    return { part, negative: value < 0 };
  }
  return { part: Math.min(1, Math.max(0, (value - low) / (high - low || 1))), negative: false };
}

/** Return the classes that choose black or white text on a colour. */
const turned = (part, negative) => ({
  "over-light": part > (negative ? TURN.lightNegative : TURN.light),
  "over-dark": part > (negative ? TURN.darkNegative : TURN.dark),
});

function byNumber({ domain, approximate }) {
  const short = domain[1] >= DECIMALS_FROM && domain[1] < 1000
    ? (value) => value.toFixed(2).replace("-", "−") : number;
  return {
    at: (value) => place(value, domain),
    text: (value) => (approximate ? "" : defined(value) ? short(value) : "–"),
    describe: (value) => (approximate && defined(value) ? "about " : "") + number(value),
    bar: () => scaleBar(domain),
  };
}

function byLabel({ values, names, roles }) {
  const has = (code) => defined(code) && code >= 0 && names[code] !== undefined;
  const known = (code) => has(code) && roles[code] !== "none";
  const shown = [...new Set(values)].filter(known).sort((a, b) => a - b);
  return {
    at: (code) => (known(code) ? { role: roles[code] } : null),
    text: (code) => (known(code) ? names[code].replace(/_/g, " ") : ""),
    describe: (code) => (has(code) ? names[code].replace(/_/g, " ") : "no label"),
    bar: () => html("div", { class: "legend" },
      ...shown.map((code) => html("span", {}, html("i", { class: "box",
        style: `--color:${color(roles[code])}` }), names[code].replace(/_/g, " "))),
      html("span", {}, html("i", { class: "box hollow" }), "no label")),
  };
}

function byOnset({ domain: [first, last] }) {
  const part = (step) => (last > first
    ? FIRST_ONSET + ((1 - FIRST_ONSET) * (step - first)) / (last - first) : 1);
  return {
    at: (step) => (defined(step) ? { part: part(step), negative: false } : null),
    text: (step) => (defined(step) ? number(step) : ""),
    describe: (step) => (defined(step) ? `onset at step ${number(step)}` : "no onset by this step"),
    bar: () => html("div", {}, scaleBar([first, last], FIRST_ONSET),
      html("div", { class: "legend" }, html("span", {}, html("i", { class: "box hollow" }),
        "no onset by the step shown"))),
  };
}

/**
 * Return how a frame is drawn: at(value) gives {part, negative} on the ramp, {role}, or null for a
 * hollow cell; text and describe what is written in a cell and about it; bar() explains the colours.
 */
export function shadesOf(frame) {
  if (frame.kind === "label") return byLabel(frame);
  return frame.kind === "onset" ? byOnset(frame) : byNumber(frame);
}

/** Return a line that explains the colours from low to high; from: where on the ramp low is. */
function scaleBar([low, high], from = 0) {
  const isSigned = low < 0 && high > 0;
  const colors = html("i", { class: isSigned ? "signed" : "", style: `--from:${from}`,
    "data-low": low, "data-high": high, "data-from": from });
  return html("div", { class: "scale" }, html("span", {}, number(low)), colors,
    html("span", {}, number(high)));
}

/** Return the colours of cells as they are computed now: at(value) gives a CSS colour. */
export function computedColors(at) {
  const probe = html("span", { class: "cell probe" });
  document.body.append(probe);
  const known = new Map();
  const find = (value) => {
    const found = defined(value) ? at(value) : null;
    if (!found) return "transparent";
    const key = found.role ?? `${found.negative}${found.part.toFixed(2)}`;
    if (!known.has(key)) {
      setColor(probe, found);
      known.set(key, getComputedStyle(probe).backgroundColor);
    }
    return known.get(key);
  };
  return { at: find, done: () => probe.remove() };
}

/** Give an element the colour of a place on the ramp, of a role, or none. */
export function setColor(element, found) {
  element.classList.toggle("undefined", !found);
  element.classList.toggle("by-role", Boolean(found?.role));
  element.style.setProperty("--color", found?.role ? color(found.role) : "");
  element.style.setProperty("--part", found?.part?.toFixed(3) ?? "0");
  const part = found?.part ?? 0;
  const flags = { negative: Boolean(found?.negative), ...turned(part, found?.negative) };
  for (const [name, on] of Object.entries(flags)) element.classList.toggle(name, on);
}
