// Controls of figures with frames: step slider, playback, and the score that is shown.
import { html, nearest, number } from "./dom.js";
import { onState, setState, state } from "./state.js";

const FRAME_TIME = 140; // ms

/** Return the index of the frame that the state names, the last one if it names none. */
export const frameIndex = (steps) =>
  state.step === "" ? steps.length - 1 : nearest(steps, Number(state.step));

/** Return the score that the state names, else the first. */
export const shownScore = (frames) =>
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
export function stepText(frames, index) {
  const total = frames.total ?? frames.steps.length;
  const fewer = frames.steps.length < total
    ? `; ${frames.steps.length} of ${total} checkpoints are shown` : "";
  return `step ${number(frames.steps[index])} (${index + 1} of ${frames.steps.length})${fewer}`;
}

/** Add the controls to a figure, and call show(frame index, score) now and on every change. */
export function addControls(parent, frames, show) {
  const { steps } = frames;
  const output = html("output", { class: "step" });
  const slider = html("input", { type: "range", class: "step-slider", min: 0, max: steps.length - 1,
    step: 1, "aria-label": "step", oninput: () => setState({ step: steps[Number(slider.value)] }) });
  const select = scoreSelect(frames);
  const controls = html("div", { class: "controls" }, select,
    ...(steps.length > 1 ? [playButton(steps, slider), slider] : []), output);
  parent.append(controls);
  const update = () => {
    const index = frameIndex(steps);
    slider.value = index;
    if (select) select.value = shownScore(frames).name;
    output.textContent = stepText(frames, index);
    slider.setAttribute("aria-valuetext", output.textContent);
    show(index, shownScore(frames));
  };
  onState((changed) => {
    if (controls.isConnected && (changed.includes("step") || changed.includes("score"))) update();
  });
  update();
}

/** Move the first slider on the page by some frames; return whether there is one. */
export function moveStep(by) {
  const slider = document.querySelector(".step-slider");
  if (!slider) return false;
  slider.value = Number(slider.value) + by;
  slider.dispatchEvent(new Event("input"));
  return true;
}
