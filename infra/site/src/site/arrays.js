// ARRAY of a specification: a list, float32 in base64, whole numbers by their differences, or 8 bits
// (gzip, base64) for colours.

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function gunzip(compressed) {
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function float32(text) {
  const content = bytes(text);
  const view = new DataView(content.buffer);
  return Float32Array.from({ length: content.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** Return numbers from the 254 steps between low and high; 255 is undefined. */
function levels(content, low, high) {
  const span = high > low ? high - low : 1;
  const known = Float32Array.from({ length: 256 }, (_, level) => low + (span * level) / 254);
  known[255] = NaN;
  // A loop over a table: a page of all heads has millions of levels, and waits for them.
  const values = new Float32Array(content.length);
  for (let i = 0; i < content.length; i += 1) values[i] = known[content[i]];
  return values;
}

/** Return whole numbers from the first one and [difference, how often] from each to the next. */
function summed({ from, by }) {
  const values = [from];
  for (const [difference, count] of by) {
    for (let i = 0; i < count; i += 1) values.push(values.at(-1) + difference);
  }
  return values;
}

const isObject = (value) => typeof value === "object" && value !== null;
const isArray = (value) => isObject(value) && (Array.isArray(value) || "f32" in value || "u8" in value || "by" in value);

/** Return {values, approximate}: the numbers of an ARRAY, flat; approximate ones are for colours. */
export async function decode(array) {
  if (!isArray(array)) return { values: [], approximate: false };
  if ("f32" in array) return { values: float32(array.f32), approximate: false };
  if ("by" in array) return { values: summed(array), approximate: false };
  if ("u8" in array) {
    const content = await gunzip(bytes(array.u8));
    return { values: levels(content, array.low, array.high), approximate: true };
  }
  const flat = array.flat(Infinity).map((value) => (value === null ? NaN : value));
  return { values: flat, approximate: false };
}

const numbers = async (array) => (array ? (await decode(array)).values : undefined);

async function decodeSeries(series) {
  const names = ["values", "low", "high", "x", "steps"];
  const lists = await Promise.all(names.map((name) => numbers(series[name])));
  return { ...series, ...Object.fromEntries(names.map((name, i) => [name, lists[i]])) };
}

/** Return two more scores of a mosaic: the label of each head, and the step of its onset. */
async function decodeLabels({ labels, onsets }) {
  const scores = [];
  if (labels) {
    const { values } = await decode(labels);
    scores.push({ kind: "label", name: "label", label: "by label", names: labels.names,
      roles: labels.roles, values: values.map(Math.round) }); // codes, exact also from 8 bits
  }
  if (onsets) {
    const values = await numbers(onsets);
    scores.push({ kind: "onset", name: "onset", label: "by onset", values });
  }
  return scores;
}

/** Return the scores of frames: one if the frames have values of their own. */
async function decodeFrames(spec) {
  const { frames } = spec;
  const given = frames.scores ?? (frames.values ? [{ name: "", values: frames.values }] : []);
  const scores = await Promise.all(
    given.map(async (score) => ({ ...score, ...(await decode(score.values)) })),
  );
  return { ...frames, total: frames.total ?? spec.of, steps: await numbers(frames.steps ?? []),
    scores: [...scores, ...(await decodeLabels(spec))] };
}

/** Return an axis whose values are numbers: one ARRAY, or a list with an ARRAY for each series. */
async function decodeAxis(axis) {
  if (!Array.isArray(axis.values) || !isArray(axis.values[0])) {
    return { ...axis, values: await numbers(axis.values) };
  }
  return { ...axis, perSeries: await Promise.all(axis.values.map(numbers)), values: undefined };
}

/** Return a specification whose arrays are numbers. */
export async function decodeSpec(spec) {
  const result = { ...spec };
  if (spec.x) result.x = await decodeAxis(spec.x);
  if (spec.axes) result.axes = await Promise.all(spec.axes.map(decodeAxis));
  if (spec.series) result.series = await Promise.all(spec.series.map(decodeSeries));
  if (spec.panels) result.panels = await Promise.all(spec.panels.map(decodeSpec));
  if (spec.frames) result.frames = await decodeFrames(spec);
  if (spec.texts) result.texts = await Promise.all(spec.texts.map(decodeSpec));
  if (spec.values) Object.assign(result, await decode(spec.values));
  return result;
}

/** Return the shortest text that reads back as the same float32. */
export function shortest32(value) {
  for (let digits = 6; digits < 9; digits += 1) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(Number(value.toPrecision(9)));
}
