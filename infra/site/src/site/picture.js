// A figure as SVG and PNG: its title and caption as text, and what is drawn, without the controls,
// with its computed colours written in.
import { svg } from "./dom.js";
import { shortened, textWidth } from "./scales.js";
import { computedColors, place } from "./shades.js";

const STYLES = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray",
  "stroke-linecap", "stroke-linejoin", "font-family", "font-size", "font-weight", "opacity",
  "text-anchor", "paint-order", "display", "font-variant-numeric"];
const MARGIN = 12; // px
const TITLE = 24; // px
const LINE = 17; // px from one line of the caption to the next
const SCALE_PARTS = 22;
const SHOWN_KINDS = ".kinds [aria-pressed=true]"; // buttons that say what the colours of links mean
const TEXTS = `.legend span, .grid .name, .side span, .scale span, .tokens + output, ${SHOWN_KINDS}`;
const DRAWN = `.chart > svg, canvas, .cell, .legend i, .scale i, ${SHOWN_KINDS} i, ${TEXTS}`;

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
  const { width, height } = source.getBoundingClientRect();
  for (const [name, value] of Object.entries({ x, y, width, height, overflow: "visible" })) {
    copy.setAttribute(name, value);
  }
  return copy;
}

function textElement(element, x, y, anchor = "start", text = element.textContent) {
  const { color, fontSize, fontFamily, fontWeight } = getComputedStyle(element);
  return svg("text", { x, y, fill: color, "font-size": fontSize, "font-family": fontFamily,
    "font-weight": fontWeight, "text-anchor": anchor }, text);
}

/** Return a cell of a grid, a token or the box of a legend: a coloured rectangle with its text. */
function cellElements(cell, x, y, { width, height }) {
  const { backgroundColor, borderTopColor, borderTopStyle } = getComputedStyle(cell);
  const dashes = borderTopStyle === "dashed" ? "3,3" : null;
  return [svg("rect", { x, y, width, height, fill: backgroundColor, stroke: borderTopColor,
    "stroke-dasharray": dashes }),
  textElement(cell, x + width / 2, y + height / 2 + 4, "middle")];
}

/** Return the sample of a line in a legend. */
function sampleElements(sample, x, y, { width }) {
  const { borderTopColor, borderTopStyle } = getComputedStyle(sample);
  return [svg("path", { d: `M${x},${y + 1.5}h${width}`, stroke: borderTopColor, "stroke-width": 3,
    "stroke-dasharray": borderTopStyle === "dashed" ? "4,3" : null })];
}

/** Return the bar of a scale of colours as narrow rectangles. */
function scaleElements(bar, x, y, box) {
  const [low, high, from] = ["low", "high", "from"].map((key) => Number(bar.dataset[key]));
  const colors = computedColors((value) => {
    const { part, negative } = place(value, [low, high]);
    return { part: from + (1 - from) * part, negative };
  });
  const width = box.width / SCALE_PARTS;
  const parts = Array.from({ length: SCALE_PARTS }, (_, i) => svg("rect", { x: x + i * width, y,
    width: width + 0.5, height: box.height,
    fill: colors.at(low + ((high - low) * (i + 0.5)) / SCALE_PARTS) }));
  colors.done();
  return parts;
}

/** Return the elements of a picture for an element of the page at a place. */
function elementsOf(element, x, y, box) {
  if (element.matches("svg")) return [inlined(element, x, y)];
  if (element.matches("canvas")) {
    const { width, height } = box;
    return [svg("image", { x, y, width, height, href: element.toDataURL() })];
  }
  if (element.matches(".cell, .legend i.box")) return cellElements(element, x, y, box);
  if (element.matches(".legend i, .kinds i")) return sampleElements(element, x, y, box);
  if (element.matches(".scale i")) return scaleElements(element, x, y, box);
  const middle = element.matches(".grid .name:not(.row)");
  const left = element.querySelector("i")?.getBoundingClientRect(); // a sample before the text
  const start = left ? x + left.right - box.left + 5 : x;
  return [textElement(element, middle ? x + box.width / 2 : start, y + box.height / 2 + 4,
    middle ? "middle" : "start")];
}

/** Return a text as lines that are no wider than some pixels. */
function wrapped(text, width) {
  const lines = [];
  for (const word of text.trim().split(/\s+/)) {
    const longer = `${lines.at(-1) ?? ""} ${word}`.trim();
    if (lines.length && textWidth(longer) <= width) lines[lines.length - 1] = longer;
    else lines.push(shortened(word, width));
  }
  return lines;
}

/** Return the step and the score that a figure shows, in words; "" without frames. */
function shownText(figure) {
  const { step, score } = figure.querySelector("output.step")?.dataset ?? {};
  return step === undefined ? "" : `Shown: ${score ? `${score.replace(/_/g, " ")}, ` : ""}step ${step}.`;
}

/** Return the name of a picture's file: with the score and the step that it shows. */
export function pictureName(figure, file) {
  const { step, score } = figure.querySelector("output.step")?.dataset ?? {};
  const parts = [file, score && score.replace(/\W+/g, "-"), step && `step-${step}`];
  return parts.filter(Boolean).join("-");
}

/** Add title and caption to a picture; return the height that they take. */
function addTexts(result, figure, width) {
  const [title, note] = [figure.querySelector("h3"), figure.querySelector(".note")];
  let y = MARGIN;
  if (title) {
    const size = Number.parseFloat(getComputedStyle(title).fontSize) / 12; // textWidth is of 12 px
    for (const line of wrapped(title.textContent, (0.9 * width) / size)) {
      y += TITLE;
      result.append(textElement(title, MARGIN, y - 8, "start", line));
    }
  }
  const caption = [note?.textContent.trim(), shownText(figure)].filter(Boolean).join(" ");
  for (const line of caption ? wrapped(caption, 0.9 * width) : []) {
    y += LINE;
    result.append(textElement(note ?? figure, MARGIN, y - 4, "start", line));
  }
  return y + MARGIN;
}

/** Return a figure as an svg element of its own. */
function picture(figure) {
  const found = [...figure.querySelectorAll(DRAWN.split(", ").map((one) => `.plot ${one}`).join(", "))]
    .map((element) => ({ element, box: element.getBoundingClientRect() }))
    .filter(({ box }) => box.width && box.height);
  const least = (key) => Math.min(...found.map(({ box }) => box[key]));
  const most = (key) => Math.max(...found.map(({ box }) => box[key]));
  const [left, top] = [least("left"), least("top")];
  const width = most("right") - left + 2 * MARGIN;
  const result = svg("svg", { xmlns: "http://www.w3.org/2000/svg" });
  const head = addTexts(result, figure, width - 2 * MARGIN);
  const height = most("bottom") - top + head + MARGIN;
  for (const { element, box } of found) {
    result.append(...elementsOf(element, box.left - left + MARGIN, box.top - top + head, box));
  }
  const page = getComputedStyle(document.body).backgroundColor;
  result.prepend(svg("rect", { width, height, fill: page }));
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) {
    result.setAttribute(name, value);
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
