// Elements and numbers as text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return an HTML element; attributes that begin with "on" are listeners. */
export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const defined = (value) =>
  value !== null && value !== undefined && !Number.isNaN(value);

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** Return a number as it is read: steps with separators, else three or four digits. */
export function number(value) {
  if (!defined(value)) return "undefined";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e9) return whole.format(value).replace("-", "−");
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
    return value.toExponential(2).replace(/-/g, "−");
  }
  return value.toFixed(size < 0.1 ? 3 : size < 1000 ? 2 : 0).replace("-", "−");
}

/** Return an interval, with as many decimals as its width needs; steps have none. */
export function interval(low, high, value, isStep) {
  const width = high - low;
  const needed = width > 0 ? Math.max(0, 1 - Math.floor(Math.log10(width))) : 2;
  const digits = isStep ? 0 : Math.min(needed, 6);
  const text = (one) => one.toLocaleString("en-US", { minimumFractionDigits: digits,
    maximumFractionDigits: digits }).replace("-", "−");
  const range = defined(low) && defined(high) ? `${text(low)}–${text(high)}` : "";
  if (!defined(value)) return range;
  if (!range && !isStep) return number(value);
  return range ? `${text(value)} (${range})` : text(value);
}

/** Return a number with its sign. */
export const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));

/** Return the smallest and largest defined number of several lists, or null if there is none. */
export function extent(...lists) {
  let low = Infinity;
  let high = -Infinity;
  for (const list of lists) {
    for (const value of list ?? []) {
      if (!defined(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

/** Return the index of the last number of a rising list that is at most a value; 0 if none is. */
export function atOrBefore(values, value) {
  let last = 0;
  for (let i = 1; i < values.length && values[i] <= value; i += 1) last = i;
  return last;
}
