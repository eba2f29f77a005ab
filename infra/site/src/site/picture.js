// A figure as SVG and PNG: what is on the page now, with its computed colours written in.
import { ramp } from "./cells.js";
import { svg } from "./dom.js";

const STYLES = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray",
  "stroke-linecap", "stroke-linejoin", "font-family", "font-size", "font-weight", "opacity",
  "text-anchor", "paint-order", "display", "font-variant-numeric"];
const HEAD = 30; // px for the title
const MARGIN = 12;
const SCALE_PARTS = 22;
const TEXTS = ".legend span, .grid .name, .side span, output.step, .scale span";

/** Return a copy of an svg whose styles no longer need the page's stylesheet. */
function inlined(source, x, y) {
  const copy = source.cloneNode(true);
  const [from, to] = [[source, ...source.querySelectorAll("*")], [copy, ...copy.querySelectorAll("*")]];
  from.forEach((element, i) => {
    if (["title", "style", "defs"].includes(element.tagName)) return;
    const computed = getComputedStyle(element);
    for (const style of STYLES) to[i].setAttribute(style, computed.getPropertyValue(style));
    to[i].removeAttribute("style");
    to[i].removeAttribute("class");
  });
  copy.querySelectorAll("style").forEach((style) => style.remove());
  for (const link of copy.querySelectorAll("a")) link.removeAttribute("href");
  const box = source.getBoundingClientRect();
  fillIn(copy, { x, y, width: box.width, height: box.height, overflow: "visible" });
  return copy;
}

function fillIn(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

function textElement(element, x, y, anchor = "start") {
  const { color, fontSize, fontFamily, fontWeight } = getComputedStyle(element);
  return svg("text", { x, y, fill: color, "font-size": fontSize, "font-family": fontFamily,
    "font-weight": fontWeight, "text-anchor": anchor }, element.textContent);
}

/** Return a cell of a grid or a token: a coloured rectangle with its text. */
function cellElements(cell, x, y, box) {
  const { backgroundColor, borderColor } = getComputedStyle(cell);
  const size = { x, y, width: box.width, height: box.height, fill: backgroundColor, stroke: borderColor };
  return [svg("rect", size), textElement(cell, x + box.width / 2, y + box.height / 2 + 4, "middle")];
}

/** Return the bar of a scale of colours as narrow rectangles. */
function scaleElements(bar, x, y, box) {
  const [low, high] = [Number(bar.dataset.low), Number(bar.dataset.high)];
  const colors = ramp([low, high]);
  const width = box.width / SCALE_PARTS;
  const parts = Array.from({ length: SCALE_PARTS }, (_, i) => svg("rect", { x: x + i * width, y,
    width: width + 0.5, height: box.height,
    fill: colors.at(low + ((high - low) * (i + 0.5)) / SCALE_PARTS) }));
  colors.done();
  return parts;
}

/** Return a figure as an svg element of its own. */
export function picture(figure) {
  const plot = figure.querySelector(".plot");
  const outer = plot.getBoundingClientRect();
  const at = (element) => {
    const box = element.getBoundingClientRect();
    return [box.left - outer.left + MARGIN, box.top - outer.top + HEAD, box];
  };
  const [width, height] = [outer.width + 2 * MARGIN, outer.height + HEAD + MARGIN];
  const page = getComputedStyle(document.body).backgroundColor;
  const result = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width, height,
    viewBox: `0 0 ${width} ${height}` }, svg("rect", { width, height, fill: page }));
  const title = figure.querySelector("h3");
  if (title) result.append(textElement(title, MARGIN, 20));
  for (const element of plot.querySelectorAll("svg")) {
    const [x, y] = at(element);
    result.append(inlined(element, x, y));
  }
  for (const element of plot.querySelectorAll("canvas")) {
    const [x, y, box] = at(element);
    result.append(svg("image", { x, y, width: box.width, height: box.height, href: element.toDataURL() }));
  }
  for (const element of plot.querySelectorAll(".cell")) result.append(...cellElements(element, ...at(element)));
  for (const bar of plot.querySelectorAll(".scale i")) result.append(...scaleElements(bar, ...at(bar)));
  for (const element of plot.querySelectorAll(TEXTS)) {
    const [x, y, box] = at(element);
    const isName = element.matches(".grid .name:not(.row)");
    result.append(textElement(element, isName ? x + box.width / 2 : x, y + box.height / 2 + 4,
      isName ? "middle" : "start"));
  }
  return result;
}

export const svgText = (figure) => new XMLSerializer().serializeToString(picture(figure));

/** Return a figure as PNG with twice as many pixels as on the page. */
export async function png(figure) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(figure))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: 2 * image.width, height: 2 * image.height });
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  context.drawImage(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
