// Figures of one group: the slider of the first moves all of them.
import { decode } from "./arrays.js";

/**
 * Return what a figure of a group needs: whether it has the group's slider (the first has), and the
 * steps of all its figures, in order. Null for a figure without a group.
 */
export async function groupOf(figure, spec) {
  if (!spec.group) return null;
  const members = [...document.querySelectorAll(".figure")].map((other) => {
    const text = other.querySelector(".spec")?.textContent ?? "";
    return text.includes('"group"') ? { other, spec: JSON.parse(text) } : null;
  }).filter((member) => member?.spec.group === spec.group);
  const lists = await Promise.all(members.map((member) => decode(member.spec.frames?.steps ?? [])));
  const steps = new Set(lists.flatMap(({ values }) => Array.from(values)));
  return { isFirst: members[0]?.other === figure, steps: [...steps].sort((a, b) => a - b) };
}
