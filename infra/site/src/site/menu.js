// The menu of a figure: its numbers, pictures, the lines that give them, and its link.
import { csv } from "./csv.js";
import { html } from "./dom.js";
import { pictureName, png, svgText } from "./picture.js";
import { pageAddress } from "./state.js";

function download(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = html("a", { href: url, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Copy a text; over file:// or http some browsers have no clipboard but the selection's. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = html("textarea", { style: "position:fixed;opacity:0" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** Return the entries of the menu: [name, what it says afterwards, action]. */
function entries(figure, getSpec) {
  const spec = JSON.parse(figure.querySelector(".spec").textContent);
  const file = spec.file ?? figure.id ?? "figure";
  const found = [
    ["CSV", "saved", async () => download(`${file}.csv`, await csv(await getSpec()), "text/csv")],
    ["SVG", "saved", () => download(`${pictureName(figure, file)}.svg`, svgText(figure), "image/svg+xml")],
    ["PNG", "saved", async () => download(`${pictureName(figure, file)}.png`, await png(figure))],
    ["copy link", "copied", () => copy(pageAddress(figure.id))],
  ];
  if (spec.python) found.push(["copy Python", "copied", () => copy(spec.python)]);
  if (spec.command) found.push(["copy command", "copied", () => copy(spec.command)]);
  return found;
}

/** Add the menu to a figure, before its drawing. */
export function addMenu(figure, getSpec) {
  const status = html("span", { role: "status" });
  const buttons = entries(figure, getSpec).map(([name, done, action]) => html("button", {
    type: "button", onclick: async () => {
      try {
        await action();
        status.textContent = done;
      } catch (error) {
        status.textContent = `failed: ${error.message}`;
      }
    } }, name));
  const title = figure.querySelector("h3")?.textContent ?? figure.id;
  const menu = html("details", { class: "menu" },
    html("summary", { "aria-label": `Data of “${title}”` }, "data"),
    html("div", {}, ...buttons, status));
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("click", (event) => {
    if (event.isTrusted && !menu.contains(event.target)) menu.open = false; // not for a download
  });
  figure.prepend(menu);
}
