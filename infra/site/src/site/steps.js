// Controls of figures with frames: step slider, playback, and the score that is shown.
import { atOrBefore, html, number } from "./dom.js";
import { onState, setState, state } from "./state.js";

const FRAME_TIME = 140; // ms

/** Return the index of the last step at or before that of the state, which without one is the last. */
const stepIndex = (steps) =>
  state.step === "" ? steps.length - 1 : atOrBefore(steps, Number(state.step));

/** Return the score that the state names, else the first. */
const shownScore = (frames) =>
  frames.scores.find((score) => score.name === state.score) ?? frames.scores[0];

function scoreSelect(frames) {
  if (frames.scores.length < 2) return null;
  const options = frames.scores.map(({ name, label }) => html("option", { value: name }, label ?? name));
  const select = html("select", { class: "score", "aria-label": "score",
    onchange: () => setState({ score: select.value }) }, ...options);
  select.value = shownScore(frames).name;
  return select;
}

function playButton(steps, slider) {
  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  };
  const advance = () => {
    if (!slider.isConnected || Number(slider.value) >= steps.length - 1) return stop();
    return setState({ step: steps[Number(slider.value) + 1] });
  };
  const start = () => {
    if (Number(slider.value) >= steps.length - 1) setState({ step: steps[0] });
    timer = setInterval(advance, FRAME_TIME);
    button.textContent = "Pause";
  };
  const button = html("button", { type: "button", class: "play", onclick: () => (timer ? stop() : start()) },
    "Play");
  return button;
}

/** Return the text beside the slider: the step, and how many of the checkpoints have a frame. */
function stepText(frames, index) {
  const total = frames.total ?? frames.steps.length;
  const fewer = frames.steps.length < total
    ? `; ${frames.steps.length} of ${total} checkpoints are shown` : "";
  return `step ${number(frames.steps[index])} (${index + 1} of ${frames.steps.length})${fewer}`;
}

/** Return the slider over some steps, which change the state. */
const stepSlider = (steps) => html("input", { type: "range", class: "step-slider", min: 0,
  max: steps.length - 1, step: 1, "aria-label": "step",
  oninput: (event) => setState({ step: steps[Number(event.target.value)] }) });

/**
 * Add the controls to a figure, and call show(frame index, score) now and on every change.
 * The first figure of a group has the controls of all, over the steps of all.
 */
export function addControls(parent, { frames, group }, show) {
  const { steps } = frames;
  const positions = group?.steps ?? steps;
  const leads = group?.isFirst ?? true;
  const output = html("output", { class: "step" });
  const slider = stepSlider(positions);
  const select = leads ? scoreSelect(frames) : null;
  const controls = html("div", { class: "controls" }, select,
    ...(leads && positions.length > 1 ? [playButton(positions, slider), slider] : []), output);
  parent.append(controls);
  const update = () => {
    const index = stepIndex(steps);
    const score = shownScore(frames);
    slider.value = stepIndex(positions);
    if (select) select.value = score.name;
    const text = stepText(frames, index);
    output.textContent = leads ? text : [score?.label ?? score?.name, text].filter(Boolean).join(", ");
    output.dataset.step = steps[index];
    output.dataset.score = score?.name ?? "";
    slider.setAttribute("aria-valuetext", text);
    show(index, score);
  };
  onState((changed) => {
    if (controls.isConnected && (changed.includes("step") || changed.includes("score"))) update();
  });
  update();
}

/** Move a slider, the first of the page by default, by some frames; return whether there is one. */
export function moveStep(by, slider = document.querySelector(".step-slider")) {
  if (!slider) return false;
  slider.value = Number(slider.value) + by;
  slider.dispatchEvent(new Event("input"));
  return true;
}

/** Start or stop the playback of a slider, the first on the screen by default; return whether. */
export function play(slider) {
  const isSeen = (one) => {
    const { top, bottom } = one.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  };
  const found = slider ?? [...document.querySelectorAll(".step-slider")].find(isSeen);
  found?.parentElement.querySelector(".play")?.click();
  return Boolean(found);
}
