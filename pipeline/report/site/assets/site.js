/* Built by infra/site/build.sh from infra/site/src/site. */
(() => {
  // src/site/arrays.js
  var bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  async function gunzip(compressed) {
    const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  function float32(text) {
    const content = bytes(text);
    const view = new DataView(content.buffer);
    return Float32Array.from({ length: content.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
  }
  function levels(content, low, high) {
    const span = high > low ? high - low : 1;
    const known = Float32Array.from({ length: 256 }, (_, level) => low + span * level / 254);
    known[255] = NaN;
    const values = new Float32Array(content.length);
    for (let i = 0; i < content.length; i += 1) values[i] = known[content[i]];
    return values;
  }
  function summed({ from, by }) {
    const values = [from];
    for (const [difference, count] of by) {
      for (let i = 0; i < count; i += 1) values.push(values.at(-1) + difference);
    }
    return values;
  }
  var isObject = (value) => typeof value === "object" && value !== null;
  var isArray = (value) => isObject(value) && (Array.isArray(value) || "f32" in value || "u8" in value || "by" in value);
  async function decode(array) {
    if (!isArray(array)) return { values: [], approximate: false };
    if ("f32" in array) return { values: float32(array.f32), approximate: false };
    if ("by" in array) return { values: summed(array), approximate: false };
    if ("u8" in array) {
      const content = await gunzip(bytes(array.u8));
      return { values: levels(content, array.low, array.high), approximate: true };
    }
    const flat = array.flat(Infinity).map((value) => value === null ? NaN : value);
    return { values: flat, approximate: false };
  }
  var numbers = async (array) => array ? (await decode(array)).values : void 0;
  async function decodeSeries(series) {
    const names2 = ["values", "low", "high", "x", "steps"];
    const lists = await Promise.all(names2.map((name3) => numbers(series[name3])));
    return { ...series, ...Object.fromEntries(names2.map((name3, i) => [name3, lists[i]])) };
  }
  async function decodeLabels({ labels, onsets }) {
    const scores = [];
    if (labels) {
      const { values } = await decode(labels);
      scores.push({
        kind: "label",
        name: "label",
        label: "by label",
        names: labels.names,
        roles: labels.roles,
        values: values.map(Math.round)
      });
    }
    if (onsets) {
      const values = await numbers(onsets);
      scores.push({ kind: "onset", name: "onset", label: "by onset", values });
    }
    return scores;
  }
  async function decodeFrames(spec) {
    const { frames } = spec;
    const given = frames.scores ?? (frames.values ? [{ name: "", values: frames.values }] : []);
    const scores = await Promise.all(
      given.map(async (score) => ({ ...score, ...await decode(score.values) }))
    );
    return {
      ...frames,
      total: frames.total ?? spec.of,
      steps: await numbers(frames.steps ?? []),
      scores: [...scores, ...await decodeLabels(spec)]
    };
  }
  async function decodeAxis(axis) {
    if (!Array.isArray(axis.values) || !isArray(axis.values[0])) {
      return { ...axis, values: await numbers(axis.values) };
    }
    return { ...axis, perSeries: await Promise.all(axis.values.map(numbers)), values: void 0 };
  }
  async function decodeSpec(spec) {
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
  function shortest32(value) {
    for (let digits = 6; digits < 9; digits += 1) {
      const text = value.toPrecision(digits);
      if (Math.fround(Number(text)) === value) return String(Number(text));
    }
    return String(Number(value.toPrecision(9)));
  }

  // src/site/data.js
  var waiting = /* @__PURE__ */ new Map();
  var loaded = /* @__PURE__ */ new Map();
  function receive(name3, value) {
    loaded.set(name3, value);
    waiting.get(name3)?.(value);
  }
  var loads = /* @__PURE__ */ new Map();
  function load(name3, address2) {
    return new Promise((resolve, reject) => {
      waiting.set(name3, resolve);
      const script = document.createElement("script");
      script.src = address2;
      script.onerror = () => reject(new Error(`cannot read ${address2}`));
      script.onload = () => {
        if (!loaded.has(name3)) reject(new Error(`${address2} has no data named ${name3}`));
      };
      document.head.append(script);
    });
  }
  function dataFile(reference) {
    const isAddress = reference.endsWith(".js");
    const name3 = isAddress ? reference.replace(/^.*\//, "").replace(/\.js$/, "") : reference;
    if (loaded.has(name3)) return Promise.resolve(loaded.get(name3));
    if (!loads.has(name3)) loads.set(name3, load(name3, isAddress ? reference : `data/${name3}.js`));
    return loads.get(name3);
  }

  // src/site/dom.js
  var SVG = "http://www.w3.org/2000/svg";
  function fill(element, attributes, children) {
    for (const [name3, value] of Object.entries(attributes)) {
      if (value === null || value === void 0 || value === false) continue;
      if (name3.startsWith("on")) element.addEventListener(name3.slice(2), value);
      else element.setAttribute(name3, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== void 0));
    return element;
  }
  function html(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }
  function svg(tag, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }
  var defined = (value) => value !== null && value !== void 0 && !Number.isNaN(value);
  var whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
  function number(value) {
    if (!defined(value)) return "undefined";
    if (typeof value !== "number") return String(value);
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e9) return whole.format(value).replace("-", "−");
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
      return value.toExponential(2).replace(/-/g, "−");
    }
    return value.toFixed(size < 0.1 ? 3 : size < 1e3 ? 2 : 0).replace("-", "−");
  }
  function interval(low, high, value, isStep) {
    const width = high - low;
    const needed = width > 0 ? Math.max(0, 1 - Math.floor(Math.log10(width))) : 2;
    const digits = isStep ? 0 : Math.min(needed, 6);
    const text = (one) => one.toLocaleString("en-US", {
      minimumFractionDigits: digits,
      maximumFractionDigits: digits
    }).replace("-", "−");
    const range = defined(low) && defined(high) ? `${text(low)}–${text(high)}` : "";
    if (!defined(value)) return range;
    if (!range && !isStep) return number(value);
    return range ? `${text(value)} (${range})` : text(value);
  }
  var signed = (value) => value > 0 ? `+${number(value)}` : number(value);
  function extent(...lists) {
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
  function atOrBefore(values, value) {
    let last = 0;
    for (let i = 1; i < values.length && values[i] <= value; i += 1) last = i;
    return last;
  }

  // src/site/state.js
  var KEYS = ["steps", "theme", "step", "score", "axis", "text", "token", "paths"];
  var OF_TABLES = /^(sort|filter)\../;
  var OFTEN = /^(step$|filter\.)/;
  var WRITE_EVERY = 100;
  var listeners = [];
  var query = new URLSearchParams(location.search);
  var state = Object.fromEntries([
    ...KEYS.map((key) => [key, query.get(key) ?? ""]),
    ...[...query].filter(([key]) => OF_TABLES.test(key))
  ]);
  var stepScale = () => state.steps || document.body.dataset.steps || "linear";
  function address() {
    const entries2 = new URLSearchParams(location.search);
    for (const [key, value] of Object.entries(state)) {
      if (value === "") entries2.delete(key);
      else entries2.set(key, value);
    }
    const text = entries2.toString();
    return text ? `?${text}` : "";
  }
  var pending = 0;
  function write() {
    clearTimeout(pending);
    pending = 0;
    history.replaceState(null, "", `${location.pathname}${address()}${location.hash}`);
  }
  addEventListener("pagehide", () => pending && write());
  var pageAddress = (id) => location.href.split(/[?#]/)[0] + address() + (id ? `#${id}` : "");
  function applyTheme() {
    document.documentElement.dataset.theme = state.theme;
  }
  function setState(changes) {
    const changed = Object.keys(changes).filter((key) => (state[key] ?? "") !== String(changes[key]));
    if (!changed.length) return;
    for (const key of changed) state[key] = String(changes[key]);
    if (changed.includes("theme")) applyTheme();
    if (changed.every((key) => OFTEN.test(key))) pending ||= setTimeout(write, WRITE_EVERY);
    else write();
    for (const listener of listeners) listener(changed);
  }
  var onState = (listener) => listeners.push(listener);
  var isPage = (link) => link.protocol === location.protocol && link.host === location.host && /\.html$/.test(link.pathname);
  function carryState() {
    const carry = (event) => {
      const link = event.target.closest?.("a[href]");
      if (link && !link.hasAttribute("download") && isPage(link)) link.search = address();
    };
    for (const event of ["pointerdown", "click", "auxclick", "focusin"]) {
      document.addEventListener(event, carry, true);
    }
  }
  function printLight() {
    const show = (theme) => {
      document.documentElement.dataset.theme = theme;
      for (const listener of listeners) listener(["theme"]);
    };
    addEventListener("beforeprint", () => show("light"));
    addEventListener("afterprint", () => show(state.theme));
  }

  // src/site/scales.js
  var LABEL_GAP = 14;
  var FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
  var measure = document.createElement("canvas").getContext("2d");
  function textWidth(text) {
    measure.font = FONT;
    return Math.ceil(measure.measureText(text).width) + 1;
  }
  function shortened(text, width) {
    if (textWidth(text) <= width) return text;
    let length = text.length;
    while (length > 1 && textWidth(`${text.slice(0, length)}…`) > width) length -= 1;
    return `${text.slice(0, length)}…`;
  }
  function logTicks([low, high], width) {
    const ticks = low <= 0 ? [0] : [];
    for (let tick = 1; tick <= high; tick *= 10) if (tick >= low) ticks.push(tick);
    if (high > 1.9 * ticks.at(-1)) ticks.push(high);
    return width < 320 && ticks.length > 5 ? ticks.filter((_, i) => i % 2 === 0) : ticks;
  }
  var compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });
  var tickText = (value) => value >= 1e6 ? compact.format(value) : number(value);
  function powerText([low, high]) {
    const powers = high / low >= 100;
    return (value) => {
      if (powers && Math.abs(Math.log10(value) - Math.round(Math.log10(value))) > 1e-9) return "";
      return value >= 1e-3 && value < 1e6 ? number(value).replace(/\.?0+$/, "") : value.toExponential(0).replace("-", "−");
    };
  }
  function xOptions(axis, values, width) {
    const domain = axis.domain ?? extent(values) ?? [0, 1];
    const common = { domain, label: null, tickFormat: axis.scale === "step" ? tickText : void 0 };
    if (axis.scale === "log" && domain[0] > 0) return { ...common, type: "log" };
    if (axis.scale === "log" || axis.scale === "step" && stepScale() === "log") {
      return { ...common, type: "symlog", constant: 1, tickFormat: tickText, ticks: logTicks(domain, width) };
    }
    return { ...common, type: "linear", ticks: Math.max(2, Math.floor(width / 80)) };
  }
  var axisText = (axis) => [axis?.label, axis?.unit].filter(Boolean).join(", ");
  function yDomain(spec) {
    if (spec.y?.domain) return spec.y.domain;
    const lists = (spec.series ?? []).flatMap((one) => [one.values, one.low, one.high]);
    const found = extent(...lists, (spec.rules ?? []).map((rule) => rule.y).filter(defined));
    if (!found) return [0, 1];
    const space = (found[1] - found[0]) * 0.04 || Math.abs(found[0]) * 0.1 || 1;
    return [found[0] - space, found[1] + space];
  }
  function spread(labels, top, bottom) {
    const room = Math.max(1, Math.floor((bottom - top) / LABEL_GAP) + 1);
    const kept = [...labels].sort((a, b) => (b.weight ?? 0) - (a.weight ?? 0)).slice(0, room);
    kept.sort((a, b) => a.y - b.y);
    const placed = kept.map((label) => ({ ...label }));
    placed.forEach((label, i) => {
      label.y = Math.max(label.y, i ? placed[i - 1].y + LABEL_GAP : top);
    });
    for (let i = placed.length - 1; i >= 0; i -= 1) {
      const limit = i === placed.length - 1 ? bottom : placed[i + 1].y - LABEL_GAP;
      placed[i].y = Math.min(placed[i].y, limit);
    }
    return placed;
  }

  // src/site/tooltip.js
  var REACH = 60;
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
  function addTooltip(chart, groups) {
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
      tip.style.cssText = `top:${Math.max(0, top - 12)}px;${right ? `right:${box.width - left + 10}px` : `left:${left + 10}px`}`;
    };
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

  // src/site/lines.js
  var { Plot } = window;
  var NARROW = 480;
  var LABELLED = 8;
  var MARGIN = { top: 8, left: 48, bottom: 30 };
  var color = (role) => `var(--role-${(role ?? "none").replace(/[^\w-]/g, "_")})`;
  function xValues(spec, series) {
    const axis = chosenAxis(spec);
    const own = axis.perSeries?.[spec.series.indexOf(series)];
    return own ?? (axis === spec.x ? series.x : void 0) ?? axis.values ?? spec.x.values;
  }
  function chosenAxis(spec) {
    return spec.axes?.find((axis) => axis.name === state.axis) ?? spec.axes?.[0] ?? spec.x;
  }
  var isEmphasised = (series) => Boolean(series.emphasis);
  function namedSeries(spec) {
    const emphasised = spec.series.filter(isEmphasised);
    if (emphasised.length) return emphasised.concat(spec.series.filter((one) => one.dashed));
    return spec.series.length <= LABELLED ? spec.series.filter((one) => one.name) : [];
  }
  function lastDefined(values) {
    for (let i = values.length - 1; i >= 0; i -= 1) if (defined(values[i])) return i;
    return -1;
  }
  function pointsOf(spec, series, keys) {
    const xs = xValues(spec, series);
    const points = Array.from(xs, (x, i) => ({ x, y: series.values?.[i], low: series.low?.[i], high: series.high?.[i] }));
    return points.filter((point) => keys.every((key) => defined(point[key])));
  }
  function seriesMarks(spec) {
    const some = spec.series.some(isEmphasised);
    const order = [...spec.series].sort((a, b) => isEmphasised(a) - isEmphasised(b));
    const areas = order.filter((one) => one.low?.length && one.high?.length).map((one) => Plot.areaY(pointsOf(spec, one, ["low", "high"]), {
      x: "x",
      y1: "low",
      y2: "high",
      fill: color(one.role),
      fillOpacity: 0.18
    }));
    const lines = order.filter((one) => one.values?.length).map((one) => {
      const faint = some && !isEmphasised(one) && !one.dashed;
      return Plot.line(pointsOf(spec, one, ["x"]), {
        x: "x",
        y: "y",
        stroke: faint ? "var(--thin)" : color(one.role),
        strokeWidth: faint ? 0.8 : isEmphasised(one) ? 2.2 : 1.5,
        strokeDasharray: one.dashed ? "3,3" : void 0
      });
    });
    return [...areas, ...lines];
  }
  var shownBands = (spec) => !spec.axes || chosenAxis(spec) === spec.axes[0] ? spec.bands ?? [] : [];
  function bandMarks(spec, x, [low, high], named) {
    const domain = x.domain;
    const bands = shownBands(spec).filter((band) => band.to >= domain[0] && band.from <= domain[1]);
    const marks = bands.map((band) => Plot.rect([band], {
      x1: Math.max(band.from, domain[0]),
      x2: Math.min(band.to, domain[1]),
      y1: low,
      y2: high,
      fill: color(band.role),
      fillOpacity: 0.22,
      stroke: color(band.role),
      strokeOpacity: 0.5,
      strokeWidth: 0.5
    }));
    const placed = named ? inRows(bands.filter((band) => band.label).map((band) => atBand(band, x))) : [];
    const labels = placed.map(({ band, edge, anchor, dx, row }) => Plot.text([band], {
      x: edge,
      y: high,
      text: "label",
      textAnchor: anchor,
      dx,
      dy: 8 + row * LABEL_GAP,
      fill: "var(--quiet)",
      stroke: "var(--page)",
      strokeWidth: 4
    }));
    return [marks, labels];
  }
  function atBand(band, x) {
    const [from, to] = [Math.max(band.from, x.domain[0]), Math.min(band.to, x.domain[1])].map(x.apply);
    const width = textWidth(band.label) + 8;
    return from + width <= x.range[1] ? { band, edge: "from", anchor: "start", dx: 4, left: from, right: from + width } : { band, edge: "to", anchor: "end", dx: -4, left: to - width, right: to };
  }
  function inRows(labels) {
    labels.forEach((label, i) => {
      const rows = labels.slice(0, i).filter((other) => other.left < label.right && label.left < other.right).map((other) => other.row);
      label.row = 0;
      while (rows.includes(label.row)) label.row += 1;
    });
    return labels;
  }
  function ruleMarks(spec, [low]) {
    const rules = (spec.rules ?? []).filter((rule) => defined(rule.y));
    const shaded = rules.filter((rule) => rule.shade && rule.y > low);
    return [
      ...shaded.map((rule) => Plot.rect([rule], { y1: low, y2: "y", fill: "var(--shade)" })),
      Plot.ruleY(rules, { y: "y", stroke: "var(--quiet)", strokeWidth: 1, strokeDasharray: "4,3" }),
      ...(spec.rules ?? []).filter((rule) => defined(rule.x)).map((rule) => Plot.ruleX([rule.x], { stroke: "var(--quiet)", strokeDasharray: "4,3" }))
    ];
  }
  function endLabels(spec, y) {
    const series = namedSeries(spec).map((one) => {
      const values = one.values?.length ? one.values : one.high ?? [];
      const last = lastDefined(values);
      return last < 0 ? null : {
        y: y.apply(values[last]),
        text: endText(spec, one, values[last]),
        fill: color(one.role),
        weight: isEmphasised(one) ? 3 : 1
      };
    });
    const rules = (spec.rules ?? []).filter((rule) => rule.label && defined(rule.y)).map((rule) => ({ y: y.apply(rule.y), text: rule.label, fill: "var(--quiet)", weight: 2 }));
    return [...series, ...rules].filter((label) => label && defined(label.y));
  }
  var endText = (spec, series, value) => series.name && spec.series.length > 1 ? series.name : number(value);
  function legend(spec) {
    const named = namedSeries(spec).filter((one) => one.name);
    return html("div", { class: "legend" }, ...named.map((one) => html(
      "span",
      {},
      html("i", { class: one.dashed ? "dashed" : "", style: `--color:${color(one.role)}` }),
      one.name
    )));
  }
  function labelRoom(spec, width) {
    const texts = [...namedSeries(spec).map((one) => endText(
      spec,
      one,
      one.values?.[lastDefined(one.values ?? [])] ?? 0
    )), ...(spec.rules ?? []).map((one) => one.label ?? "")];
    const need = Math.max(0, ...texts.map(textWidth));
    return need + 10 <= width * 0.28 ? need + 10 : 0;
  }
  var allX = (spec) => spec.series.map((one) => xValues(spec, one));
  function strip(spec, width, { right, height, last, first, named = right > 0, xs = allX(spec) }) {
    const axis = chosenAxis(spec);
    const inner = width - MARGIN.left - right;
    const x = xOptions(axis, extent(...xs) ?? [], inner);
    const domain = yDomain(spec);
    const pixels = Plot.scale({ x: { ...x, range: [MARGIN.left, width - Math.max(right, 12)] } });
    const [bands, bandLabels] = bandMarks(spec, pixels, domain, first && width >= NARROW);
    const isLog = spec.y?.scale === "log";
    const marginTop = MARGIN.top + LABEL_GAP;
    const chart = Plot.plot({
      width,
      height,
      marginTop,
      marginLeft: MARGIN.left,
      marginRight: Math.max(right, 12),
      marginBottom: last ? MARGIN.bottom + 8 : 8,
      x: { ...x, axis: null },
      y: { domain, axis: null, type: isLog ? "log" : "linear" },
      marks: [
        Plot.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: Math.max(2, height / 50) }),
        ...bands,
        ...ruleMarks(spec, domain),
        ...seriesMarks(spec),
        ...bandLabels,
        Plot.axisY({
          ticks: Math.max(2, height / 50),
          tickSize: 4,
          label: null,
          tickFormat: isLog ? powerText(domain) : void 0
        }),
        ...last ? [Plot.axisX({ ticks: x.ticks, tickFormat: x.tickFormat, tickSize: 4, label: null })] : []
      ]
    });
    const scales = { x: chart.scale("x"), y: chart.scale("y") };
    annotate(chart, spec, { width, right, height, last, axis, scales, marginTop, named });
    const box = html("div", { class: "chart" }, chart);
    addTooltip(box, tooltipGroups(spec, axis, scales));
    return box;
  }
  function annotate(chart, spec, { width, right, height, last, axis, scales, marginTop, named }) {
    const text = (x, y, content, fill2, anchor = "start") => chart.append(svg("text", { x, y, fill: fill2, "text-anchor": anchor }, content));
    text(4, 12, `↑ ${axisText(spec.y)}`, "var(--quiet)");
    if (last) text(width - Math.max(right, 12), height - 4, `${axisText(axis)} →`, "var(--quiet)", "end");
    if (!named) return;
    const bottom = height - (last ? MARGIN.bottom + 8 : 8);
    for (const label of spread(endLabels(spec, scales.y), marginTop, bottom)) {
      text(width - right + 6, label.y + 4, label.text, label.fill);
    }
  }
  function tooltipGroups(spec, axis, { x, y }) {
    return spec.series.filter((one) => one.values?.length).map((one) => {
      const xs = xValues(spec, one);
      const at = one.steps ? (i) => `step ${number(one.steps[i])}, ` : () => "";
      return {
        lefts: Array.from(xs, x.apply),
        tops: Array.from(xs, (_, i) => y.apply(one.values[i])),
        text: (i) => `${one.name ? `${one.name}: ` : ""}${number(one.values[i])} (${at(i)}${axis.label ?? "x"} ${number(xs[i])})`,
        href: one.href,
        follow: () => {
          location.href = one.href + location.search;
        }
      };
    });
  }
  function drawLines(plot, spec, width) {
    const right = labelRoom(spec, width);
    const height = spec.height ?? Math.round(Math.min(320, Math.max(220, width * 0.42)));
    if (!right && namedSeries(spec).length) plot.append(legend(spec));
    plot.append(strip(spec, width, { right, height, last: true, first: true }));
  }
  var panelsOf = (spec) => spec.panels.map((panel) => ({
    ...panel,
    x: panel.x ? { ...spec.x, perSeries: void 0, ...panel.x } : spec.x,
    axes: spec.axes,
    series: panel.series ?? [],
    bands: spec.bands ?? panel.bands
  }));
  function drawPanels(plot, spec, width) {
    const panels = panelsOf(spec);
    const xs = panels.flatMap(allX);
    const rooms = panels.map((panel) => labelRoom(panel, width));
    const right = Math.max(...rooms);
    panels.forEach((panel, i) => {
      const last = i === panels.length - 1;
      const height = (panel.height ?? 124) + (last ? MARGIN.bottom : 0);
      if (!rooms[i] && namedSeries(panel).length > 1) plot.append(legend(panel));
      plot.append(strip(panel, width, { right, height, last, first: i === 0, named: rooms[i] > 0, xs }));
    });
  }

  // src/site/shades.js
  var TURN = { light: 0.627, dark: 0.503, lightNegative: 0.665, darkNegative: 0.498 };
  var DECIMALS_FROM = 0.5;
  var FIRST_ONSET = 0.2;
  function cellDomain(given, values) {
    if (given) return given;
    const found = extent(values) ?? [0, 1];
    if (found[0] < 0) {
      const most = Math.max(-found[0], found[1]);
      return [-most, most];
    }
    return [0, found[1] || 1];
  }
  function place(value, [low, high]) {
    if (low < 0 && high > 0) {
      const part = Math.min(1, Math.abs(value) / Math.max(-low, high));
      return { part, negative: value < 0 };
    }
    return { part: Math.min(1, Math.max(0, (value - low) / (high - low || 1))), negative: false };
  }
  var turned = (part, negative) => ({
    "over-light": part > (negative ? TURN.lightNegative : TURN.light),
    "over-dark": part > (negative ? TURN.darkNegative : TURN.dark)
  });
  function byNumber({ domain, approximate }) {
    const short = domain[1] >= DECIMALS_FROM && domain[1] < 1e3 ? (value) => value.toFixed(2).replace("-", "−") : number;
    return {
      at: (value) => place(value, domain),
      text: (value) => approximate ? "" : defined(value) ? short(value) : "–",
      describe: (value) => (approximate && defined(value) ? "about " : "") + number(value),
      bar: () => scaleBar(domain)
    };
  }
  function byLabel({ values, names: names2, roles }) {
    const has = (code) => defined(code) && code >= 0 && names2[code] !== void 0;
    const known = (code) => has(code) && roles[code] !== "none";
    const shown = [...new Set(values)].filter(known).sort((a, b) => a - b);
    return {
      at: (code) => known(code) ? { role: roles[code] } : null,
      text: (code) => known(code) ? names2[code].replace(/_/g, " ") : "",
      describe: (code) => has(code) ? names2[code].replace(/_/g, " ") : "no label",
      bar: () => html(
        "div",
        { class: "legend" },
        ...shown.map((code) => html("span", {}, html("i", {
          class: "box",
          style: `--color:${color(roles[code])}`
        }), names2[code].replace(/_/g, " "))),
        html("span", {}, html("i", { class: "box hollow" }), "no label")
      )
    };
  }
  function byOnset({ domain: [first, last] }) {
    const part = (step) => last > first ? FIRST_ONSET + (1 - FIRST_ONSET) * (step - first) / (last - first) : 1;
    return {
      at: (step) => defined(step) ? { part: part(step), negative: false } : null,
      text: (step) => defined(step) ? number(step) : "",
      describe: (step) => defined(step) ? `onset at step ${number(step)}` : "no onset by this step",
      bar: () => html(
        "div",
        {},
        scaleBar([first, last], FIRST_ONSET),
        html("div", { class: "legend" }, html(
          "span",
          {},
          html("i", { class: "box hollow" }),
          "no onset by the step shown"
        ))
      )
    };
  }
  function shadesOf(frame2) {
    if (frame2.kind === "label") return byLabel(frame2);
    return frame2.kind === "onset" ? byOnset(frame2) : byNumber(frame2);
  }
  function scaleBar([low, high], from = 0) {
    const isSigned = low < 0 && high > 0;
    const colors = html("i", {
      class: isSigned ? "signed" : "",
      style: `--from:${from}`,
      "data-low": low,
      "data-high": high,
      "data-from": from
    });
    return html(
      "div",
      { class: "scale" },
      html("span", {}, number(low)),
      colors,
      html("span", {}, number(high))
    );
  }
  function computedColors(at) {
    const probe = html("span", { class: "cell probe" });
    document.body.append(probe);
    const known = /* @__PURE__ */ new Map();
    const find2 = (value) => {
      const found = defined(value) ? at(value) : null;
      if (!found) return "transparent";
      const key = found.role ?? `${found.negative}${found.part.toFixed(2)}`;
      if (!known.has(key)) {
        setColor(probe, found);
        known.set(key, getComputedStyle(probe).backgroundColor);
      }
      return known.get(key);
    };
    return { at: find2, done: () => probe.remove() };
  }
  function setColor(element, found) {
    element.classList.toggle("undefined", !found);
    element.classList.toggle("by-role", Boolean(found?.role));
    element.style.setProperty("--color", found?.role ? color(found.role) : "");
    element.style.setProperty("--part", found?.part?.toFixed(3) ?? "0");
    const part = found?.part ?? 0;
    const flags = { negative: Boolean(found?.negative), ...turned(part, found?.negative) };
    for (const [name3, on] of Object.entries(flags)) element.classList.toggle(name3, on);
  }

  // src/site/cells.js
  var WITH_TEXT = 38;
  var GAP = 2;
  var GAPPED = 12;
  var TARGET = 24;
  var MOST_WIDE = 110;
  var MOST_TALL = 44;
  var names = (list) => list.map((entry) => entry.name ?? String(entry));
  function setCell(cell2, value, shades, rule, room) {
    const { element } = cell2;
    const found = defined(value) ? shades.at(value) : null;
    const describe = shades.describe(value);
    setColor(element, found);
    element.classList.toggle("over-rule", defined(rule) && value >= rule);
    const text = room ? shades.text(value) : "";
    element.textContent = textWidth(text) <= room ? text : "";
    element.setAttribute("aria-label", `${cell2.name} ${element.textContent || describe}`);
    element.title = `${cell2.name}: ${describe}`;
  }
  function buildGrid(parent, spec, width) {
    const [rows, columns] = [names(spec.rows), names(spec.columns)];
    const rowLabel = Math.max(...rows.map(textWidth)) + 10;
    const share = (width - rowLabel) / columns.length;
    const gap = share < GAPPED && !spec.hrefs ? 0 : GAP;
    const fitting = Math.min(MOST_WIDE, share - gap);
    const size = spec.hrefs ? Math.max(TARGET, fitting) : fitting;
    const grid = html("div", {
      class: "grid",
      role: "group",
      "aria-label": spec.label ?? "cells",
      style: `--columns:${columns.length};--row-label:${rowLabel}px;--gap:${gap}px;--cell:${size}px;--cell-height:${Math.max(TARGET, Math.min(MOST_TALL, size))}px`
    });
    const every = Math.ceil((Math.max(...columns.map(textWidth)) + 4) / (size + gap));
    grid.append(html("span"), ...columns.map((name3, i) => html("span", { class: "name" }, i % every ? "" : name3)));
    const cells = rows.flatMap((row, i) => {
      grid.append(html("span", { class: "name row" }, row));
      return columns.map((column, j) => makeCell(grid, spec, row, column, i * columns.length + j));
    });
    const under = html("output", { class: "under" });
    parent.append(html("div", { class: "scrolled" }, grid), under);
    sayUnder(grid, under);
    const rule = spec.rules?.[0]?.y;
    return (values, shades) => {
      const room = size < WITH_TEXT ? 0 : size - 4;
      cells.forEach((cell2, i) => setCell(cell2, values[i], shades, rule, room));
      under.hidden = cells.every(({ element }) => element.textContent);
      under.textContent = " ";
    };
  }
  function sayUnder(grid, under) {
    const say = (event) => {
      const title = event.target.closest(".cell")?.title;
      if (title) under.textContent = title;
    };
    for (const kind of ["pointerover", "pointerdown", "focusin"]) grid.addEventListener(kind, say);
  }
  function makeCell(grid, spec, row, column, index) {
    const href = spec.hrefs?.[index];
    const name3 = spec.names?.[index] ?? (/^H/.test(column) ? row + column : `${row}, ${column}`);
    const element = href ? html("a", { class: "cell", href }) : html("span", { class: "cell", role: "img" });
    grid.append(element);
    return { element, name: name3 };
  }
  function paint(canvas, { rows, columns, values, at, isShown: isShown2 = () => true, size, tall = size }) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [columns * size, rows * tall];
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    canvas.style.cssText = `width:${width}px;height:${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const colors = computedColors(at);
    const gap = Math.min(size, tall) > 6 ? 1 : 0;
    for (let i = 0; i < rows; i += 1) {
      for (let j = 0; j < columns; j += 1) {
        if (!isShown2(i, j)) continue;
        context.fillStyle = colors.at(values[i * columns + j]);
        context.fillRect(j * size, i * tall, size - gap, tall - gap);
      }
    }
    colors.done();
    return context;
  }

  // src/site/steps.js
  var FRAME_TIME = 140;
  var stepIndex = (steps) => state.step === "" ? steps.length - 1 : atOrBefore(steps, Number(state.step));
  var shownScore = (frames) => frames.scores.find((score) => score.name === state.score) ?? frames.scores[0];
  function scoreSelect(frames) {
    if (frames.scores.length < 2) return null;
    const options = frames.scores.map(({ name: name3, label }) => html("option", { value: name3 }, label ?? name3));
    const select = html("select", {
      class: "score",
      "aria-label": "score",
      onchange: () => setState({ score: select.value })
    }, ...options);
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
    const start2 = () => {
      if (Number(slider.value) >= steps.length - 1) setState({ step: steps[0] });
      timer = setInterval(advance, FRAME_TIME);
      button.textContent = "Pause";
    };
    const button = html(
      "button",
      { type: "button", class: "play", onclick: () => timer ? stop() : start2() },
      "Play"
    );
    return button;
  }
  function stepText(frames, index) {
    const total = frames.total ?? frames.steps.length;
    const fewer = frames.steps.length < total ? `; ${frames.steps.length} of ${total} checkpoints are shown` : "";
    return `step ${number(frames.steps[index])} (${index + 1} of ${frames.steps.length})${fewer}`;
  }
  var stepSlider = (steps) => html("input", {
    type: "range",
    class: "step-slider",
    min: 0,
    max: steps.length - 1,
    step: 1,
    "aria-label": "step",
    oninput: (event) => setState({ step: steps[Number(event.target.value)] })
  });
  function addControls(parent, { frames, group }, show) {
    const { steps } = frames;
    const positions = group?.steps ?? steps;
    const leads = group?.isFirst ?? true;
    const output = html("output", { class: "step" });
    const slider = stepSlider(positions);
    const select = leads ? scoreSelect(frames) : null;
    const controls = html(
      "div",
      { class: "controls" },
      select,
      ...leads && positions.length > 1 ? [playButton(positions, slider), slider] : [],
      output
    );
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
  function moveStep(by, slider = document.querySelector(".step-slider")) {
    if (!slider) return false;
    slider.value = Number(slider.value) + by;
    slider.dispatchEvent(new Event("input"));
    return true;
  }
  function play(slider) {
    const isSeen = (one) => {
      const { top, bottom } = one.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    };
    const found = slider ?? [...document.querySelectorAll(".step-slider")].find(isSeen);
    found?.parentElement.querySelector(".play")?.click();
    return Boolean(found);
  }

  // src/site/attention.js
  var DOMAIN = [0, 1];
  function tokenButtons(tokens, choose) {
    return tokens.map((token, i) => html("button", {
      type: "button",
      class: "cell token",
      "aria-pressed": "false",
      onclick: () => choose(i)
    }, token.replace(/\n/g, "⏎") || " "));
  }
  function showRow(buttons, tokens, values, query2, output, says) {
    const count = tokens.length;
    buttons.forEach((button, key) => {
      const value = key <= query2 ? values[query2 * count + key] : 0;
      setColor(button, defined(value) ? place(value, DOMAIN) : null);
      button.setAttribute("aria-pressed", key === query2);
      button.title = key <= query2 ? `${tokens[query2]} attends to ${tokens[key]}: ${says(value)}` : "";
    });
    const row = Array.from(values.slice(query2 * count, query2 * count + query2 + 1));
    const most = row.indexOf(Math.max(...row.filter(defined)));
    const where = most < 0 ? "has no attention at this step" : `attends most to token ${most + 1}, “${tokens[most]}”: ${says(row[most])}`;
    output.textContent = `Token ${query2 + 1}, “${tokens[query2]}”, ${where}`;
  }
  var chosenToken = (count) => (Number(state.token) >= 1 ? Math.min(Math.floor(Number(state.token)), count) : count) - 1;
  function drawText(parent, spec, width, label) {
    const { tokens } = spec;
    const count = tokens.length;
    const size = Math.max(3, Math.min(16, Math.floor(width / count)));
    const canvas = html("canvas", { class: "matrix", role: "img", "aria-label": label });
    const output = html("output", { class: "under" });
    let values = spec.values ?? [];
    const { approximate } = spec.frames?.scores[0] ?? spec;
    const says = (value) => (approximate && defined(value) ? "about " : "") + number(value);
    const choose = (i) => setState({ token: i + 1 });
    const buttons = tokenButtons(tokens, choose);
    const draw2 = () => {
      const query2 = chosenToken(count);
      const context = paint(canvas, {
        rows: count,
        columns: count,
        values,
        size,
        at: (value) => place(value, DOMAIN),
        isShown: (i, j) => j <= i
      });
      context.strokeStyle = getComputedStyle(canvas).color;
      context.lineWidth = 2;
      context.strokeRect(1, query2 * size, (query2 + 1) * size - 2, size - 1);
      showRow(buttons, tokens, values, query2, output, says);
    };
    const show = (index) => {
      const { values: all } = spec.frames.scores[0];
      values = all.slice(index * count * count, (index + 1) * count * count);
      draw2();
    };
    canvas.addEventListener("click", (event) => choose(Math.min(count - 1, Math.floor(event.offsetY / size))));
    onState((changed) => {
      if (canvas.isConnected && (changed.includes("theme") || changed.includes("token"))) draw2();
    });
    const body = html("div", {}, canvas, html("div", { class: "tokens" }, ...buttons), output);
    const controls = html("div");
    parent.append(controls, body);
    if (spec.frames) addControls(controls, spec, show);
    else draw2();
  }
  function drawAttention(plot, spec, width, label) {
    if (!spec.texts) return drawText(plot, spec, width, label);
    const holder = html("div");
    const names2 = spec.texts.map((text, i) => text.name ?? `text ${i + 1}`);
    const select = html(
      "select",
      {
        class: "text",
        "aria-label": "text",
        onchange: () => setState({ text: select.value })
      },
      ...names2.map((name3) => html("option", { value: name3 }, name3))
    );
    plot.append(...names2.length > 1 ? [html("div", { class: "controls" }, select)] : [], holder);
    const show = () => {
      const index = Math.max(0, names2.indexOf(state.text));
      select.value = names2[index];
      holder.replaceChildren();
      drawText(holder, spec.texts[index], width, label);
    };
    onState((changed) => holder.isConnected && changed.includes("text") && show());
    return show();
  }

  // src/site/bars.js
  var { Plot: Plot2 } = window;
  var ROW = 24;
  var TALL_ROW = 42;
  var MOST_NAMES = 0.5;
  function namedRows(spec) {
    if (!spec.rows) {
      return spec.series.map((one) => ({
        name: one.name,
        role: one.role,
        href: one.href,
        value: one.values?.[0],
        low: one.low?.[0],
        high: one.high?.[0]
      }));
    }
    const [series] = spec.series;
    return spec.rows.map((row, i) => ({
      name: row.name ?? String(row),
      role: row.role ?? series.role,
      href: row.href ?? spec.hrefs?.[i],
      value: series.values?.[i],
      low: series.low?.[i],
      high: series.high?.[i]
    }));
  }
  function frame(rows, width, right) {
    const names2 = Math.max(0, ...rows.map((row) => textWidth(row.name))) + 14;
    const above = names2 > MOST_NAMES * width;
    const height = rows.length * (above ? TALL_ROW : ROW) + 46;
    return {
      above,
      width,
      height,
      marginLeft: above ? 8 : names2,
      marginRight: right,
      marginTop: 6,
      marginBottom: 40
    };
  }
  var yOptions = (rows, above) => ({
    type: "band",
    axis: null,
    domain: rows.map((row) => row.name),
    label: null,
    padding: above ? 0.62 : 0.3
  });
  function writeNames(chart, rows, { above, width, marginLeft }) {
    const y = chart.scale("y");
    for (const row of rows) {
      const top = y.apply(row.name);
      const place2 = above ? { x: marginLeft, y: top - 6, "text-anchor": "start" } : { x: marginLeft - 8, y: top + y.bandwidth / 2 + 4, "text-anchor": "end" };
      const text = above ? shortened(row.name, width - 2 * marginLeft) : row.name;
      const title = text === row.name ? [] : [svg("title", {}, row.name)];
      chart.append(svg("text", { ...place2, fill: "var(--ink)", class: "row-name" }, text, ...title));
    }
  }
  function finish(plot, chart, rows, label, size, text) {
    const { width, height, marginRight } = size;
    writeNames(chart, rows, size);
    const [x, y] = [chart.scale("x"), chart.scale("y")];
    const place2 = { x: width - marginRight, y: height - 4, "text-anchor": "end", fill: "var(--quiet)" };
    chart.append(svg("text", place2, `${label} →`));
    const box = html("div", { class: "chart" }, chart);
    addTooltip(box, rows.map((row) => ({
      lefts: [x.apply(row.value ?? row.low)],
      tops: [y.apply(row.name) + (y.bandwidth ?? 0) / 2],
      text: () => `${row.name}: ${text(row)}`,
      href: row.href,
      follow: () => {
        location.href = row.href + location.search;
      }
    })));
    plot.append(box);
  }
  function drawBars(plot, spec, width) {
    const rows = namedRows(spec).filter((row) => defined(row.value));
    const isSigned = rows.some((row) => row.value < 0);
    const text = (row) => isSigned ? signed(row.value) : number(row.value);
    const size = frame(rows, width, Math.max(...rows.map((row) => textWidth(text(row))), 0) + 12);
    const domain = spec.y?.domain ?? extent(rows.map((row) => row.value), [0]) ?? [0, 1];
    const chart = Plot2.plot({ ...size, x: { domain, label: null }, y: yOptions(rows, size.above), marks: [
      Plot2.gridX({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 5 }),
      Plot2.barX(rows, {
        x1: 0,
        x2: "value",
        y: "name",
        stroke: (row) => color(row.role),
        strokeWidth: 1.5,
        fill: (row) => row.value < 0 ? "var(--page)" : color(row.role)
      }),
      ...(spec.rules ?? []).map((rule) => Plot2.ruleX([rule.y ?? rule.x], {
        stroke: "var(--quiet)",
        strokeDasharray: "4,3"
      })),
      Plot2.ruleX([0], { stroke: "var(--quiet)" }),
      Plot2.text(rows, {
        x: (row) => Math.max(row.value, 0),
        y: "name",
        text,
        dx: 6,
        textAnchor: "start",
        fill: "var(--ink)"
      }),
      Plot2.axisX({ ticks: 5, label: null })
    ] });
    finish(plot, chart, rows, axisText(spec.y), size, text);
  }
  function drawIntervals(plot, spec, width) {
    const rows = namedRows(spec).filter((row) => defined(row.low) || defined(row.value));
    const axis = chosenAxis(spec) ?? spec.y;
    const found = extent(rows.flatMap((row) => [row.low, row.high, row.value])) ?? [0, 1];
    const values = extent(found, axis.values, axis.scale === "step" ? [0] : []);
    const text = (row) => interval(row.low, row.high, row.value, axis.scale === "step");
    const size = frame(rows, width, Math.max(24, ...rows.map((row) => textWidth(text(row)) + 12)));
    const x = xOptions(axis, values, width - size.marginLeft - size.marginRight);
    const chart = Plot2.plot({ ...size, x, y: yOptions(rows, size.above), marks: [
      Plot2.gridX({ stroke: "var(--grid)", strokeOpacity: 1, ticks: x.ticks }),
      ...(spec.bands ?? []).map((band) => Plot2.rect([band], {
        x1: "from",
        x2: "to",
        fill: color(band.role),
        fillOpacity: 0.22
      })),
      Plot2.barX(rows.filter((row) => defined(row.low)), {
        x1: "low",
        x2: "high",
        y: "name",
        insetTop: 3,
        insetBottom: 3,
        fill: (row) => color(row.role),
        fillOpacity: 0.45,
        stroke: (row) => color(row.role)
      }),
      Plot2.dot(rows.filter((row) => defined(row.value)), {
        x: "value",
        y: "name",
        r: 4,
        fill: (row) => color(row.role)
      }),
      Plot2.text(rows, {
        x: (row) => row.high ?? row.value,
        y: "name",
        text,
        dx: 8,
        textAnchor: "start",
        fill: "var(--ink)",
        stroke: "var(--page)",
        strokeWidth: 4
      }),
      Plot2.axisX({ ticks: x.ticks, tickFormat: x.tickFormat, label: null })
    ] });
    finish(plot, chart, rows, axisText(axis), size, text);
  }

  // src/site/graph.js
  var NODE_HEIGHT = 26;
  var ROW_GAP = { few: 150, many: 96 };
  var KINDS = ["k", "q", "v"];
  var MOST_WIDE2 = 9;
  function layers(nodes) {
    const found = [...new Set(nodes.map((node) => node.layer))].sort((a, b) => b - a);
    return new Map(found.map((layer, i) => [layer, i]));
  }
  var rowGap = (rows) => rows.size <= 4 ? ROW_GAP.few : ROW_GAP.many;
  function places(nodes, width) {
    const rows = layers(nodes);
    const gap = rowGap(rows);
    const counts = /* @__PURE__ */ new Map();
    for (const node of nodes) counts.set(node.layer, (counts.get(node.layer) ?? 0) + 1);
    const next = /* @__PURE__ */ new Map();
    return new Map(nodes.map((node) => {
      const cell2 = width / counts.get(node.layer);
      const i = next.get(node.layer) ?? 0;
      next.set(node.layer, i + 1);
      const box = { x: (i + 0.5) * cell2, y: 8 + rows.get(node.layer) * gap, width: Math.min(64, cell2 - 3) };
      return [node.name, box];
    }));
  }
  function nodeElement(node, box) {
    const short = box.width < 40 ? node.name.replace(/^L\d+/, "") : node.name;
    const parts = [
      svg("rect", {
        x: box.x - box.width / 2,
        y: box.y,
        width: box.width,
        height: NODE_HEIGHT,
        rx: 5,
        fill: "var(--surface)",
        stroke: color(node.role),
        "stroke-width": 2
      }),
      ...box.width < 22 ? [] : [svg("text", {
        x: box.x,
        y: box.y + 17,
        "text-anchor": "middle",
        fill: "var(--ink)"
      }, short)]
    ];
    if (!node.href) return svg("g", {}, ...parts);
    return svg("a", { href: node.href, "aria-label": node.name }, ...parts);
  }
  function edgeElement(edge, boxes, scale) {
    const [from, to] = [boxes.get(edge.from), boxes.get(edge.to)];
    if (!from || !to) return null;
    const shift = (KINDS.indexOf(edge.by) - 1) * Math.min(12, from.width / 4);
    const [x1, y1] = [from.x + shift, from.y];
    const [x2, y2] = [to.x + shift, to.y + NODE_HEIGHT];
    const middle = (y1 + y2) / 2;
    return svg(
      "path",
      {
        d: `M${x1},${y1}C${x1},${middle} ${x2},${middle} ${x2},${y2}`,
        fill: "none",
        stroke: color(edge.by),
        "stroke-width": scale(edge.value),
        "stroke-opacity": 0.8,
        class: "edge"
      },
      svg("title", {}, `${edge.from} to ${edge.to} by ${edge.by.toUpperCase()}: ${number(edge.value)}`)
    );
  }
  var isShown = (kind) => state.paths === "" || state.paths.includes(kind);
  function toggle(kind) {
    const shown = KINDS.filter((one) => isShown(one) !== (one === kind));
    setState({ paths: shown.length === KINDS.length ? "" : shown.join("") || "-" });
  }
  function kindButtons() {
    return html("div", { class: "kinds", role: "group", "aria-label": "composition" }, ...KINDS.map(
      (kind) => html("button", {
        type: "button",
        "data-kind": kind,
        "aria-pressed": String(isShown(kind)),
        onclick: () => toggle(kind)
      }, html("i", { style: `--color:${color(kind)}` }), kind.toUpperCase())
    ));
  }
  var graphEdges = (spec, index) => spec.frames?.edges?.[index] ?? spec.edges ?? [];
  function drawGraph(plot, spec, width, label) {
    const boxes = places(spec.nodes, width);
    const rows = layers(spec.nodes);
    const height = 16 + NODE_HEIGHT + (rows.size - 1) * rowGap(rows);
    const rule = spec.rules?.[0]?.y ?? 0;
    const every = spec.frames?.edges?.flat() ?? spec.edges ?? [];
    const most = Math.max(rule + 1e-12, ...every.map((edge) => edge.value).filter(defined));
    const scale = (value) => Math.max(0.6, MOST_WIDE2 * (value - rule) / (most - rule));
    const edges = svg("g");
    const drawing = svg(
      "svg",
      { width, height, role: "group", "aria-label": label },
      edges,
      ...spec.nodes.map((node) => nodeElement(node, boxes.get(node.name)))
    );
    let index = 0;
    const redraw = () => {
      const drawn = graphEdges(spec, index).filter((edge) => isShown(edge.by) && edge.value > rule);
      edges.replaceChildren(...drawn.map((edge) => edgeElement(edge, boxes, scale)).filter(Boolean));
    };
    if (spec.frames) {
      addControls(plot, spec, (i) => {
        index = i;
        redraw();
      });
    } else redraw();
    const buttons = kindButtons();
    onState((changed) => {
      if (!buttons.isConnected || !changed.includes("paths")) return;
      for (const one of buttons.children) one.setAttribute("aria-pressed", isShown(one.dataset.kind));
      redraw();
    });
    plot.append(buttons, html("div", { class: "chart" }, drawing));
  }

  // src/site/groups.js
  async function groupOf(figure, spec) {
    if (!spec.group) return null;
    const members = [...document.querySelectorAll(".figure")].map((other) => {
      const text = other.querySelector(".spec")?.textContent ?? "";
      return text.includes('"group"') ? { other, spec: JSON.parse(text) } : null;
    }).filter((member) => member?.spec.group === spec.group);
    const lists = await Promise.all(members.map((member) => decode(member.spec.frames?.steps ?? [])));
    const steps = new Set(lists.flatMap(({ values }) => Array.from(values)));
    return { isFirst: members[0]?.other === figure, steps: [...steps].sort((a, b) => a - b) };
  }

  // src/site/mosaic.js
  var GRID_CELLS = 1500;
  var MOST_WIDE3 = 28;
  var LEAST_TALL = 8;
  var MOST_TALL2 = 400;
  var name = (entry) => entry.name ?? String(entry);
  async function frameValues(spec, index, score) {
    const count = spec.rows.length * spec.columns.length;
    const file = spec.frames.files?.[index];
    if (score?.kind === "onset") {
      const step = spec.frames.steps[index];
      return { ...score, values: score.values.map((onset) => onset <= step ? onset : NaN) };
    }
    if (!file) return { ...score, values: score.values.slice(index * count, (index + 1) * count) };
    const value = await dataFile(file);
    return { ...score, ...await decode(value.values ?? value) };
  }
  function sideNames(list, most, side) {
    const count = Math.min(most, list.length);
    const at = Array.from({ length: count }, (_, i) => Math.round(i * (list.length - 1) / (count - 1 || 1)));
    return html("div", { class: `side ${side}` }, ...at.map((i) => html("span", {}, name(list[i]))));
  }
  function cellSize(rows, columns, width) {
    const size = Math.min(MOST_WIDE3, width / columns);
    return { size, tall: Math.max(size, Math.min(LEAST_TALL, MOST_TALL2 / rows)) };
  }
  function underPointer(event, spec, { size, tall }, shown) {
    const [i, j] = [Math.floor(event.offsetY / tall), Math.floor(event.offsetX / size)];
    if (!shown || !spec.rows[i] || !spec.columns[j]) return null;
    const value = shown.values[i * spec.columns.length + j];
    return `${name(spec.rows[i])}, ${name(spec.columns[j])}: ${shown.shades.describe(value)}`;
  }
  function buildCanvas(parent, spec, width) {
    const [rows, columns] = [spec.rows.length, spec.columns.length];
    const left = 8 + textWidth(name(spec.rows.at(-1)));
    const cell2 = cellSize(rows, columns, width - left);
    const canvas = html("canvas", { class: "matrix", role: "img", "aria-label": spec.label });
    const under = html("output", { class: "under" }, " ");
    parent.append(html(
      "div",
      { class: "sided", style: `--left:${left}px;--wide:${columns * cell2.size}px` },
      sideNames(spec.columns, Math.max(2, Math.floor(columns * cell2.size / 110)), "above"),
      sideNames(spec.rows, Math.max(2, Math.floor(rows * cell2.tall / 60)), "before"),
      canvas
    ), under);
    let shown = null;
    const draw2 = () => shown && paint(
      canvas,
      { rows, columns, ...cell2, values: shown.values, at: shown.shades.at }
    );
    for (const kind of ["pointermove", "pointerdown"]) {
      canvas.addEventListener(kind, (event) => {
        under.textContent = underPointer(event, spec, cell2, shown) ?? " ";
      });
    }
    onState((changed) => canvas.isConnected && changed.includes("theme") && draw2());
    return (values, shades) => {
      shown = { values, shades };
      draw2();
    };
  }
  function drawCells(plot, spec, width) {
    const isLarge = spec.rows.length * spec.columns.length > GRID_CELLS;
    const holder = html("div", { class: "cells" });
    const bar = html("div");
    const show = (isLarge ? buildCanvas : buildGrid)(holder, spec, width);
    const display = (frame2) => {
      const shades = shadesOf(frame2);
      show(frame2.values, shades);
      bar.replaceChildren(shades.bar());
    };
    if (!spec.frames) {
      plot.append(holder, bar);
      display({ ...spec, kind: "", domain: cellDomain(spec.y?.domain, spec.values) });
      return;
    }
    let latest = "";
    const domains = /* @__PURE__ */ new Map();
    addControls(plot, spec, async (index, score) => {
      const asked = `${index} ${score?.name}`;
      latest = asked;
      const frame2 = await frameValues(spec, index, score);
      const key = frame2.name ?? "";
      if (!domains.has(key)) domains.set(key, frameDomain(spec, frame2, score));
      if (latest === asked) display({ ...frame2, domain: domains.get(key) });
    });
    plot.append(holder, bar);
  }
  function frameDomain(spec, frame2, score) {
    const values = score?.values ?? frame2.values;
    if (frame2.kind === "onset") return extent(values) ?? [0, 1];
    return cellDomain(frame2.domain ?? spec.y?.domain, values);
  }

  // src/site/csv.js
  var quoted = (text) => /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  function cell(value, list) {
    if (!defined(value)) return "";
    if (typeof value !== "number") return String(value);
    return list instanceof Float32Array ? shortest32(value) : String(value);
  }
  var name2 = (entry) => entry.name ?? String(entry);
  var ofPoint = (series, i) => ["values", "low", "high"].map((key) => cell(series[key]?.[i], series[key]));
  function linesTable(spec) {
    const label = chosenAxis(spec)?.label ?? "x";
    const axes = spec.series.map((one) => xValues(spec, one));
    const same = axes.every((axis) => axis === axes[0]);
    const lists = spec.series.flatMap((one) => [
      [one.name || spec.y?.label, one.values],
      [`${one.name} low`, one.low],
      [`${one.name} high`, one.high]
    ]).filter(([, list]) => list?.length);
    if (same) {
      const rows2 = Array.from(axes[0] ?? [], (x, i) => [cell(x, axes[0]), ...lists.map(([, list]) => cell(list[i], list))]);
      return [[label, ...lists.map(([title]) => title)], ...rows2];
    }
    const rows = spec.series.flatMap((one, k) => Array.from(axes[k], (x, i) => [one.name, cell(one.steps?.[i], one.steps), cell(x, axes[k]), ...ofPoint(one, i)]));
    return [["name", "step", label, spec.y?.label ?? "value", "low", "high"], ...rows];
  }
  function panelsTable(spec) {
    const rows = panelsOf(spec).flatMap((panel) => panel.series.flatMap((one) => {
      const xs = xValues(panel, one);
      return Array.from(xs, (x, i) => [panel.y?.label ?? "", one.name ?? "", cell(x, xs), ...ofPoint(one, i)]);
    }));
    return [["panel", "name", chosenAxis(spec)?.label ?? "x", "value", "low", "high"], ...rows];
  }
  async function cellsTable(spec) {
    const frames = spec.frames ?? { steps: [""], scores: [{ name: "", ...spec }] };
    const rows = [];
    let approximate = false;
    for (const score of frames.scores.length ? frames.scores : [void 0]) {
      for (let f = 0; f < frames.steps.length; f += 1) {
        const frame2 = spec.frames ? await frameValues(spec, f, score) : score;
        approximate ||= frame2.approximate;
        spec.rows.forEach((row, i) => spec.columns.forEach((column, j) => {
          const value = frame2.values[i * spec.columns.length + j];
          const text = frame2.kind === "label" ? frame2.names[value] ?? "" : cell(value, frame2.values);
          rows.push([frame2.name ?? "", cell(frames.steps[f]), name2(row), name2(column), text]);
        }));
      }
    }
    return [["score", "step", "row", "column", approximate ? "value (8 bits)" : "value"], ...rows];
  }
  function rowsTable(spec) {
    const [series] = spec.series;
    const rows = namedRows(spec).map((row) => [
      row.name,
      cell(row.value, series.values),
      cell(row.low, series.low),
      cell(row.high, series.high)
    ]);
    return [["name", "value", "low", "high"], ...rows];
  }
  function graphTable(spec) {
    const steps = spec.frames?.steps ?? [""];
    const rows = Array.from(steps, (step, i) => graphEdges(spec, i).map((edge) => [cell(step), edge.from, edge.to, edge.by, cell(edge.value)])).flat();
    return [["step", "from", "to", "by", "value"], ...rows];
  }
  function attentionTable(spec) {
    const texts = spec.texts ?? [spec];
    const numbersOf = (text) => text.frames?.scores[0] ?? text;
    const attention = texts.some((text) => numbersOf(text).approximate) ? "attention (8 bits)" : "attention";
    const rows = texts.flatMap((text, t) => {
      const { tokens } = text;
      const { values } = numbersOf(text);
      return Array.from(text.frames?.steps ?? [""], (step, f) => tokens.flatMap((token, query2) => tokens.slice(0, query2 + 1).map((other, key) => [
        text.name ?? t + 1,
        cell(step),
        query2,
        key,
        token,
        other,
        cell(values[(f * tokens.length + query2) * tokens.length + key], values)
      ]))).flat();
    });
    return [["text", "step", "query", "key", "query token", "key token", attention], ...rows];
  }
  var TABLES = {
    panels: panelsTable,
    mosaic: cellsTable,
    matrix: cellsTable,
    bars: rowsTable,
    intervals: rowsTable,
    graph: graphTable,
    attention: attentionTable
  };
  async function csv(spec) {
    const table = await (TABLES[spec.kind] ?? linesTable)(spec);
    return `${table.map((row) => row.map((one) => quoted(String(one ?? ""))).join(",")).join("\n")}
`;
  }

  // src/site/picture.js
  var STYLES = [
    "fill",
    "fill-opacity",
    "stroke",
    "stroke-opacity",
    "stroke-width",
    "stroke-dasharray",
    "stroke-linecap",
    "stroke-linejoin",
    "font-family",
    "font-size",
    "font-weight",
    "opacity",
    "text-anchor",
    "paint-order",
    "display",
    "font-variant-numeric"
  ];
  var MARGIN2 = 12;
  var TITLE = 24;
  var LINE = 17;
  var SCALE_PARTS = 22;
  var SHOWN_KINDS = ".kinds [aria-pressed=true]";
  var TEXTS = `.legend span, .grid .name, .side span, .scale span, .tokens + output, ${SHOWN_KINDS}`;
  var DRAWN = `.chart > svg, canvas, .cell, .legend i, .scale i, ${SHOWN_KINDS} i, ${TEXTS}`;
  function inlined(source, x, y) {
    const copy2 = source.cloneNode(true);
    const [from, to] = [[source, ...source.querySelectorAll("*")], [copy2, ...copy2.querySelectorAll("*")]];
    from.forEach((element, i) => {
      if (["title", "style", "defs"].includes(element.tagName)) return;
      const computed = getComputedStyle(element);
      for (const style of STYLES) to[i].setAttribute(style, computed.getPropertyValue(style));
      to[i].removeAttribute("style");
      to[i].removeAttribute("class");
    });
    copy2.querySelectorAll("style").forEach((style) => style.remove());
    for (const link of copy2.querySelectorAll("a")) link.removeAttribute("href");
    const { width, height } = source.getBoundingClientRect();
    for (const [name3, value] of Object.entries({ x, y, width, height, overflow: "visible" })) {
      copy2.setAttribute(name3, value);
    }
    return copy2;
  }
  function textElement(element, x, y, anchor = "start", text = element.textContent) {
    const { color: color2, fontSize, fontFamily, fontWeight } = getComputedStyle(element);
    return svg("text", {
      x,
      y,
      fill: color2,
      "font-size": fontSize,
      "font-family": fontFamily,
      "font-weight": fontWeight,
      "text-anchor": anchor
    }, text);
  }
  function cellElements(cell2, x, y, { width, height }) {
    const { backgroundColor, borderTopColor, borderTopStyle } = getComputedStyle(cell2);
    const dashes = borderTopStyle === "dashed" ? "3,3" : null;
    return [
      svg("rect", {
        x,
        y,
        width,
        height,
        fill: backgroundColor,
        stroke: borderTopColor,
        "stroke-dasharray": dashes
      }),
      textElement(cell2, x + width / 2, y + height / 2 + 4, "middle")
    ];
  }
  function sampleElements(sample, x, y, { width }) {
    const { borderTopColor, borderTopStyle } = getComputedStyle(sample);
    return [svg("path", {
      d: `M${x},${y + 1.5}h${width}`,
      stroke: borderTopColor,
      "stroke-width": 3,
      "stroke-dasharray": borderTopStyle === "dashed" ? "4,3" : null
    })];
  }
  function scaleElements(bar, x, y, box) {
    const [low, high, from] = ["low", "high", "from"].map((key) => Number(bar.dataset[key]));
    const colors = computedColors((value) => {
      const { part, negative } = place(value, [low, high]);
      return { part: from + (1 - from) * part, negative };
    });
    const width = box.width / SCALE_PARTS;
    const parts = Array.from({ length: SCALE_PARTS }, (_, i) => svg("rect", {
      x: x + i * width,
      y,
      width: width + 0.5,
      height: box.height,
      fill: colors.at(low + (high - low) * (i + 0.5) / SCALE_PARTS)
    }));
    colors.done();
    return parts;
  }
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
    const left = element.querySelector("i")?.getBoundingClientRect();
    const start2 = left ? x + left.right - box.left + 5 : x;
    return [textElement(
      element,
      middle ? x + box.width / 2 : start2,
      y + box.height / 2 + 4,
      middle ? "middle" : "start"
    )];
  }
  function wrapped(text, width) {
    const lines = [];
    for (const word of text.trim().split(/\s+/)) {
      const longer = `${lines.at(-1) ?? ""} ${word}`.trim();
      if (lines.length && textWidth(longer) <= width) lines[lines.length - 1] = longer;
      else lines.push(shortened(word, width));
    }
    return lines;
  }
  function shownText(figure) {
    const { step, score } = figure.querySelector("output.step")?.dataset ?? {};
    return step === void 0 ? "" : `Shown: ${score ? `${score.replace(/_/g, " ")}, ` : ""}step ${step}.`;
  }
  function pictureName(figure, file) {
    const { step, score } = figure.querySelector("output.step")?.dataset ?? {};
    const parts = [file, score && score.replace(/\W+/g, "-"), step && `step-${step}`];
    return parts.filter(Boolean).join("-");
  }
  function addTexts(result, figure, width) {
    const [title, note] = [figure.querySelector("h3"), figure.querySelector(".note")];
    let y = MARGIN2;
    if (title) {
      const size = Number.parseFloat(getComputedStyle(title).fontSize) / 12;
      for (const line of wrapped(title.textContent, 0.9 * width / size)) {
        y += TITLE;
        result.append(textElement(title, MARGIN2, y - 8, "start", line));
      }
    }
    const caption = [note?.textContent.trim(), shownText(figure)].filter(Boolean).join(" ");
    for (const line of caption ? wrapped(caption, 0.9 * width) : []) {
      y += LINE;
      result.append(textElement(note ?? figure, MARGIN2, y - 4, "start", line));
    }
    return y + MARGIN2;
  }
  function picture(figure) {
    const found = [...figure.querySelectorAll(DRAWN.split(", ").map((one) => `.plot ${one}`).join(", "))].map((element) => ({ element, box: element.getBoundingClientRect() })).filter(({ box }) => box.width && box.height);
    const least = (key) => Math.min(...found.map(({ box }) => box[key]));
    const most = (key) => Math.max(...found.map(({ box }) => box[key]));
    const [left, top] = [least("left"), least("top")];
    const width = most("right") - left + 2 * MARGIN2;
    const result = svg("svg", { xmlns: "http://www.w3.org/2000/svg" });
    const head = addTexts(result, figure, width - 2 * MARGIN2);
    const height = most("bottom") - top + head + MARGIN2;
    for (const { element, box } of found) {
      result.append(...elementsOf(element, box.left - left + MARGIN2, box.top - top + head, box));
    }
    const page = getComputedStyle(document.body).backgroundColor;
    result.prepend(svg("rect", { width, height, fill: page }));
    for (const [name3, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) {
      result.setAttribute(name3, value);
    }
    return result;
  }
  var svgText = (figure) => new XMLSerializer().serializeToString(picture(figure));
  async function png(figure) {
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

  // src/site/menu.js
  function download(name3, content, type) {
    const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
    const link = html("a", { href: url, download: name3, hidden: true });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1e4);
  }
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
  function entries(figure, getSpec) {
    const spec = JSON.parse(figure.querySelector(".spec").textContent);
    const file = spec.file ?? figure.id ?? "figure";
    const found = [
      ["CSV", "saved", async () => download(`${file}.csv`, await csv(await getSpec()), "text/csv")],
      ["SVG", "saved", () => download(`${pictureName(figure, file)}.svg`, svgText(figure), "image/svg+xml")],
      ["PNG", "saved", async () => download(`${pictureName(figure, file)}.png`, await png(figure))],
      ["copy link", "copied", () => copy(pageAddress(figure.id))]
    ];
    if (spec.python) found.push(["copy Python", "copied", () => copy(spec.python)]);
    if (spec.command) found.push(["copy command", "copied", () => copy(spec.command)]);
    return found;
  }
  function addMenu(figure, getSpec) {
    const status = html("span", { role: "status" });
    const buttons = entries(figure, getSpec).map(([name3, done, action]) => html("button", {
      type: "button",
      onclick: async () => {
        try {
          await action();
          status.textContent = done;
        } catch (error) {
          status.textContent = `failed: ${error.message}`;
        }
      }
    }, name3));
    const title = figure.querySelector("h3")?.textContent ?? figure.id;
    const menu = html(
      "details",
      { class: "menu" },
      html("summary", { "aria-label": `Data of “${title}”` }, "data"),
      html("div", {}, ...buttons, status)
    );
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      menu.open = false;
      menu.querySelector("summary").focus();
    });
    document.addEventListener("click", (event) => {
      if (event.isTrusted && !menu.contains(event.target)) menu.open = false;
    });
    figure.prepend(menu);
  }

  // src/site/points.js
  var { Plot: Plot3 } = window;
  function drawStems(plot, spec, width) {
    const [series] = spec.series;
    const points = pointsOf(spec, series, ["x", "y"]);
    const end = points.at(-1);
    const values = extent(series.values, [0]) ?? [0, 1];
    const space = (values[1] - values[0]) * 0.08 || 1;
    const right = end ? textWidth(signed(end.y)) + 12 : 12;
    const height = spec.height ?? 170;
    const axis = chosenAxis(spec);
    const x = xOptions(axis, xValues(spec, series), width - MARGIN.left - right);
    const y = { domain: spec.y?.domain ?? [values[0] - (values[0] < 0 ? space : 0), values[1] + space] };
    const chart = Plot3.plot({
      width,
      height,
      marginTop: 22,
      marginLeft: MARGIN.left,
      marginRight: right,
      marginBottom: MARGIN.bottom + 8,
      x,
      y: { ...y, label: null },
      marks: [
        Plot3.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 4 }),
        ...ruleMarks(spec, y.domain),
        Plot3.ruleY([0], { stroke: "var(--quiet)" }),
        Plot3.ruleX(points, { x: "x", y1: 0, y2: "y", stroke: "var(--ink)", strokeWidth: 2.5 }),
        Plot3.dot(points, {
          x: "x",
          y: "y",
          r: 4.5,
          stroke: "var(--ink)",
          strokeWidth: 1.5,
          fill: (point) => point.y < 0 ? "var(--page)" : "var(--ink)"
        }),
        Plot3.axisY({ ticks: 4, tickSize: 4, label: null }),
        Plot3.axisX({ ticks: x.ticks, tickSize: 4, label: null, tickFormat: x.tickFormat })
      ]
    });
    const scales = { x: chart.scale("x"), y: chart.scale("y") };
    const labelled = { ...spec, series: [{ ...series, name: "" }], rules: [] };
    annotate(chart, labelled, { width, right: 0, height, last: true, axis, scales, marginTop: 22 });
    if (end) endValue(chart, scales, end);
    const box = html("div", { class: "chart" }, chart);
    addTooltip(box, tooltipGroups(spec, axis, scales));
    plot.append(box);
  }
  function endValue(chart, { x, y }, end) {
    const place2 = { x: x.apply(end.x) + 8, y: y.apply(end.y) + 4, fill: "var(--ink)", "text-anchor": "start" };
    chart.append(svg("text", place2, signed(end.y)));
  }
  function drawScatter(plot, spec, width) {
    const height = spec.height ?? Math.round(Math.min(420, Math.max(260, width * 0.7)));
    const all = spec.series.map((one) => xValues(spec, one));
    const pad = ([low, high]) => [low - (high - low || 1) * 0.06, high + (high - low || 1) * 0.06];
    const x = xOptions({ ...spec.x, domain: spec.x.domain ?? pad(extent(...all) ?? [0, 1]) }, [], width);
    const marked = spec.marks ?? [];
    const chart = Plot3.plot({
      width,
      height,
      marginTop: 22,
      marginLeft: MARGIN.left,
      marginRight: 16,
      marginBottom: MARGIN.bottom + 8,
      x,
      y: { domain: yDomain(spec), label: null },
      marks: [
        Plot3.gridY({ stroke: "var(--grid)", strokeOpacity: 1 }),
        Plot3.gridX({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 5 }),
        ...ruleMarks(spec, yDomain(spec)),
        ...spec.series.flatMap((one) => trajectory(spec, one)),
        Plot3.dot(marked, { x: "x", y: "y", r: 5, fill: "var(--page)", stroke: "var(--ink)", strokeWidth: 2 }),
        Plot3.text(marked, {
          x: "x",
          y: "y",
          text: "label",
          dy: -12,
          fill: "var(--ink)",
          stroke: "var(--page)",
          strokeWidth: 4
        }),
        Plot3.axisY({ tickSize: 4, label: null }),
        Plot3.axisX({ ticks: 5, tickSize: 4, label: null })
      ]
    });
    const scales = { x: chart.scale("x"), y: chart.scale("y") };
    annotate(chart, spec, { width, right: 0, height, last: true, axis: spec.x, scales, marginTop: 22 });
    if (spec.series.length > 1) plot.append(legend(spec));
    const box = html("div", { class: "chart" }, chart);
    addTooltip(box, tooltipGroups(spec, spec.x, scales));
    plot.append(box);
  }
  function trajectory(spec, series) {
    const points = pointsOf(spec, series, ["x", "y"]);
    const stroke = color(series.role);
    const at = { x: "x", y: "y" };
    const ends = series.steps?.length && points.length > 1 ? [0, points.length - 1].map((i) => ({ ...points[i], text: `step ${number(series.steps[i])}` })) : [];
    return [
      Plot3.line(points, { ...at, stroke, strokeWidth: 1.2 }),
      Plot3.dot(points, { ...at, fill: stroke, r: 2.5 }),
      ...ends.map((end, i) => Plot3.text([end], {
        ...at,
        text: "text",
        fill: "var(--quiet)",
        dy: i ? -10 : 14,
        textAnchor: spec.series.length && xSide(points, end) ? "end" : "start",
        stroke: "var(--page)",
        strokeWidth: 4
      }))
    ];
  }
  var xSide = (points, end) => {
    const [low, high] = extent(points.map((point) => point.x));
    return end.x > (low + high) / 2;
  };

  // src/site/figure.js
  var KINDS2 = {
    lines: drawLines,
    panels: drawPanels,
    stems: drawStems,
    scatter: drawScatter,
    bars: drawBars,
    intervals: drawIntervals,
    mosaic: drawCells,
    matrix: drawCells,
    graph: drawGraph,
    attention: drawAttention
  };
  var NEAR = "600px";
  var REDRAWN = ["steps", "axis"];
  async function complete(figure, given) {
    const spec = await decodeSpec({ series: [], ...given });
    return { ...spec, group: await groupOf(figure, spec) };
  }
  function endOf(series) {
    const values = Array.from(series.values ?? []).filter(defined);
    return values.length ? `${series.name || "value"}: ${number(values[0])} at first, ${number(values.at(-1))} at the end` : "";
  }
  function altText(figure, spec) {
    const title = figure.querySelector("h3")?.textContent ?? "";
    const note = figure.querySelector(".note")?.textContent ?? "";
    const named = spec.series.filter((one) => one.emphasis);
    const ends = (named.length ? named : spec.series).slice(0, 4).map(endOf);
    const isOverTime = ["lines", "stems"].includes(spec.kind);
    const parts = [title, note, ...isOverTime ? ends : []];
    return parts.map((part) => part.trim()).filter(Boolean).join(". ");
  }
  function nameCharts(plot, alt) {
    for (const chart of plot.querySelectorAll("svg:not([role=group])")) {
      for (const part of chart.querySelectorAll("[aria-label], [aria-hidden], [aria-description]")) {
        for (const name3 of ["aria-label", "aria-hidden", "aria-description"]) part.removeAttribute(name3);
      }
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", alt);
      chart.querySelector(":scope > style")?.remove();
    }
  }
  function draw(figure, spec) {
    const plot = figure.querySelector(".plot");
    const width = Math.floor(plot.clientWidth);
    const kind = KINDS2[spec.kind];
    if (!kind) throw new Error(`no figure of kind ${spec.kind}`);
    if (!width) return;
    const alt = altText(figure, spec);
    plot.style.minHeight = `${plot.offsetHeight}px`;
    plot.replaceChildren();
    kind(plot, { ...spec, label: alt }, width, alt);
    nameCharts(plot, alt);
    plot.style.minHeight = "";
    plot.dataset.drawn = width;
  }
  function addAxes(figure, axes) {
    const options = axes.map((axis) => html("option", { value: axis.name }, `by ${axis.label ?? axis.name}`));
    const select = html("select", {
      class: "axis",
      "aria-label": "axis",
      onchange: () => setState({ axis: select.value })
    }, ...options);
    const show = () => {
      select.value = axes.some((axis) => axis.name === state.axis) ? state.axis : axes[0].name;
    };
    onState(show);
    show();
    figure.querySelector(".plot").before(html("div", { class: "controls" }, select));
  }
  function showError(figure, error) {
    figure.querySelector(".plot").replaceChildren(
      html("p", { class: "error" }, `This figure cannot be drawn: ${error.message}`)
    );
    console.error(figure.id, error);
  }
  function drawFigure(figure, given) {
    const plot = figure.querySelector(".plot");
    let spec = null;
    const begin = async () => {
      const found = await complete(figure, given);
      if (found.axes?.length > 1) addAxes(figure, found.axes);
      return found;
    };
    const redraw = async () => {
      try {
        spec ??= begin();
        draw(figure, await spec);
      } catch (error) {
        showError(figure, error);
      }
    };
    onState((changed) => {
      if (!given.frames && !given.texts && changed.some((key) => REDRAWN.includes(key))) redraw();
    });
    new ResizeObserver(() => {
      if (plot.dataset.drawn && Math.abs(plot.clientWidth - plot.dataset.drawn) >= 1) redraw();
    }).observe(plot);
    return redraw();
  }
  function drawFigures() {
    const specOf = (figure) => JSON.parse(figure.querySelector(".spec").textContent);
    const drawOnce = (figure) => {
      observer.unobserve(figure);
      if (figure.dataset.begun) return void 0;
      figure.dataset.begun = "true";
      return drawFigure(figure, specOf(figure));
    };
    const observer = new IntersectionObserver(
      (found) => found.filter((entry) => entry.isIntersecting).forEach((entry) => drawOnce(entry.target)),
      { rootMargin: NEAR }
    );
    for (const figure of document.querySelectorAll(".figure")) {
      if (!figure.querySelector(".spec")) continue;
      addMenu(figure, () => complete(figure, specOf(figure)));
      observer.observe(figure);
    }
    addEventListener("beforeprint", () => document.querySelectorAll(".figure").forEach(drawOnce));
  }

  // src/site/page.js
  var THEMES = ["", "light", "dark"];
  var MOST_RESULTS = 20;
  function addTheme(button) {
    const show = () => {
      button.textContent = `theme: ${state.theme || "auto"}`;
    };
    button.addEventListener("click", () => setState({ theme: THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length] }));
    onState(show);
    show();
  }
  function addSteps(button) {
    const show = () => {
      button.textContent = `steps: ${stepScale()}`;
    };
    button.addEventListener("click", () => setState({ steps: stepScale() === "log" ? "linear" : "log" }));
    onState(show);
    show();
  }
  function addSwitches() {
    applyTheme();
    document.querySelectorAll("[data-action=theme]").forEach(addTheme);
    document.querySelectorAll("[data-action=steps]").forEach(addSteps);
  }
  function matches(word, text) {
    return /^\d+$/.test(word) ? text.split(/[\s_,]+/).includes(word) : text.includes(word);
  }
  function findHeads(heads, text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const found = heads.map((head) => {
      const name3 = head.name.toLowerCase();
      const all = [
        name3,
        head.label ?? "",
        head.score ?? "",
        head.run ?? "",
        `layer ${head.layer ?? ""}`,
        ...head.words ?? []
      ].join(" ").toLowerCase();
      if (!words.every((word) => matches(word, all))) return null;
      return { head, rank: name3 === words[0] ? 0 : name3.startsWith(words[0]) ? 1 : 2 };
    }).filter(Boolean);
    return found.sort((a, b) => a.rank - b.rank).map(({ head }) => head);
  }
  function resultItem(head) {
    const href = head.href ?? `head-${head.name}.html`;
    const score = typeof head.score === "number" ? number(head.score) : head.score ?? "";
    const about = [head.run, (head.label || "no label").replace(/_/g, " "), score];
    return html("li", {}, html("a", { href }, head.name), ` ${about.filter(Boolean).join(" · ")}`);
  }
  function addSearch() {
    const field = document.querySelector("input.search-heads, header input[type=search]");
    if (!field) return;
    const list = html("ul", { class: "results", hidden: true, "aria-label": "heads found" });
    const status = html("span", { class: "for-readers", role: "status" });
    field.after(list, status);
    const close = () => {
      list.hidden = true;
    };
    field.addEventListener("input", () => {
      const found = findHeads(window.ontogeny.heads ?? [], field.value);
      list.replaceChildren(...found.slice(0, MOST_RESULTS).map(resultItem));
      if (found.length > MOST_RESULTS) list.append(html("li", {}, `and ${found.length - MOST_RESULTS} more`));
      if (!found.length && field.value) list.append(html("li", {}, "nothing found"));
      status.textContent = field.value ? `${found.length} found` : "";
      list.hidden = !field.value;
    });
    const within = (event) => {
      const links = [field, ...list.querySelectorAll("a")];
      const at = links.indexOf(document.activeElement);
      if (event.key === "Escape") {
        close();
        field.blur();
        document.activeElement.blur();
      } else if (event.key === "Enter" && at === 0 && !list.hidden) links[1]?.click();
      else if (event.key === "ArrowDown") links[Math.min(at + 1, links.length - 1)].focus();
      else if (event.key === "ArrowUp") links[Math.max(at - 1, 0)].focus();
      else return;
      event.preventDefault();
    };
    field.addEventListener("keydown", within);
    list.addEventListener("keydown", within);
    document.addEventListener("click", (event) => {
      if (event.target !== field && !list.contains(event.target)) close();
    });
  }
  function addKeys() {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const slider = event.target.closest?.(".step-slider");
      if (slider && event.key === " ") {
        play(slider);
        event.preventDefault();
      }
      const isTyping = event.target.closest?.("input:not([type=range]), select, textarea");
      if (isTyping || slider && event.key !== "/") return;
      const moves = { ArrowLeft: -1, ArrowRight: 1 };
      const isFree = !event.target.closest?.("a, button, summary");
      if (event.key === "/") document.querySelector("header input[type=search]")?.focus();
      else if (!(event.key in moves && moveStep(moves[event.key])) && !(event.key === " " && isFree && play())) return;
      event.preventDefault();
    });
  }
  var numeric = (text) => Number.parseFloat(text.replace(/,/g, "").replace("−", "-"));
  var isNumber = (text) => /^[+−-]?[\d.]/.test(text);
  function compareCells(a, b) {
    if (isNumber(a) && isNumber(b)) return numeric(a) - numeric(b);
    const rank = (text) => isNumber(text) ? 0 : /^[\p{L}]/u.test(text) && text !== "nan" ? 1 : 2;
    return rank(a) - rank(b) || a.localeCompare(b, "en", { numeric: true });
  }
  function addTables() {
    document.querySelectorAll("table.sortable").forEach((table, t) => {
      const headers = [...table.tHead.rows[0].cells];
      const body = table.tBodies[0];
      if (!body.rows.length) return;
      const holder = html("div", { class: "sorted", id: table.id ? `${table.id}-list` : `list-${t}` });
      table.replaceWith(holder);
      holder.append(table);
      body.classList.add("list");
      for (const row of body.rows) {
        [...row.cells].forEach((cell2, i) => {
          cell2.classList.add(`c${i}`);
          cell2.dataset.value ??= cell2.textContent.trim();
        });
      }
      const key = table.id || String(t + 1);
      const list = new window.List(holder, { listClass: "list", valueNames: headers.map((_, i) => ({ name: `c${i}`, attr: "data-value" })) });
      addSort(list, headers, `sort.${key}`);
      if ("filter" in table.dataset) addFilter(list, holder, `filter.${key}`);
    });
  }
  function onEntry(key, show) {
    onState((changed) => changed.includes(key) && show());
    if (state[key]) show();
  }
  function addFilter(list, holder, key) {
    const field = html("input", {
      type: "search",
      class: "filter",
      placeholder: "Filter",
      "aria-label": "Filter the rows"
    });
    field.addEventListener("input", () => setState({ [key]: field.value }));
    onEntry(key, () => {
      if (field.value !== state[key]) field.value = state[key];
      const sought = state[key].toLowerCase();
      list.filter((item) => item.elm.textContent.toLowerCase().includes(sought));
    });
    holder.prepend(field);
  }
  function addSort(list, headers, key) {
    headers.forEach((header, i) => {
      header.append(html("button", { type: "button", class: "by", onclick: () => setState({ [key]: state[key] === String(i + 1) ? -(i + 1) : i + 1 }) }, ...header.childNodes));
    });
    onEntry(key, () => {
      const [place2, order] = [Math.abs(state[key]) - 1, state[key] < 0 ? "desc" : "asc"];
      if (!headers[place2]) return;
      headers.forEach((one) => one.removeAttribute("aria-sort"));
      headers[place2].setAttribute("aria-sort", order === "asc" ? "ascending" : "descending");
      list.sort(`c${place2}`, { order, sortFunction: (a, b) => compareCells(a.values()[`c${place2}`], b.values()[`c${place2}`]) });
    });
  }

  // src/site/main.js
  window.ontogeny = { ...window.ontogeny, draw: drawFigure, data: receive, decode, findHeads, compareCells, state, setState };
  function start() {
    addSwitches();
    addSearch();
    addKeys();
    addTables();
    carryState();
    printLight();
    drawFigures();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
