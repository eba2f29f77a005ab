// The number under the pointer, as HTML over a plot.
import { defined, html } from "./dom.js";

const REACH = 60; // px from the pointer

/** Return the group and index of the point that is nearest to a place, or null. */
function find(points, left, top) {
  let best = null;
  let least = REACH * REACH;
  for (const group of points) {
    for (let i = 0; i < group.lefts.length; i += 1) {
      if (!defined(group.tops[i])) continue;
      const distance = (group.lefts[i] - left) ** 2 + (group.tops[i] - top) ** 2;
      if (distance < least) [best, least] = [{ group, i }, distance];
    }
  }
  return best;
}

/**
 * Show a text beside the nearest point while the pointer is over a chart.
 * groups: [{lefts, tops, text(i), href}] in pixels of the chart.
 */
export function addTooltip(chart, groups) {
  const tip = html("div", { class: "tip", hidden: true });
  const mark = html("div", { class: "tip-mark", hidden: true });
  chart.append(mark, tip);
  let found = null;
  const hide = () => {
    tip.hidden = mark.hidden = true;
    found = null;
  };
  const show = (event) => {
    const box = chart.getBoundingClientRect();
    found = find(groups, event.clientX - box.left, event.clientY - box.top);
    if (!found) return hide();
    const left = found.group.lefts[found.i];
    const top = found.group.tops[found.i];
    tip.textContent = found.group.text(found.i);
    tip.hidden = mark.hidden = false;
    mark.style.cssText = `left:${left}px;top:${top}px`;
    const right = left > box.width / 2;
    tip.style.cssText = `top:${Math.max(0, top - 12)}px;${
      right ? `right:${box.width - left + 10}px` : `left:${left + 10}px`}`;
  };
  // A finger has no place over a chart before it touches: the first tap shows the number, which
  // stays; the second at the same point follows the link.
  let tapped = null;
  let isSecond = true;
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", (event) => {
    show(event);
    const point = found && `${groups.indexOf(found.group)} ${found.i}`;
    isSecond = event.pointerType === "mouse" || point === tapped;
    tapped = point;
  });
  chart.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  document.addEventListener("pointerdown", (event) => chart.contains(event.target) || hide());
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  chart.addEventListener("click", () => {
    if (found?.group.href && isSecond) found.group.follow();
  });
}
