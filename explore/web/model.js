// The data, what belongs to what in it, the state of the page, and numbers for readers.
const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, settings = {}, ...inside) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(settings)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (k === "style") e.style.cssText = v;
    else if (k in e && k !== "list") e[k] = v;
    else e.setAttribute(k, v);
  }
  e.append(...inside.filter((x) => x !== null && x !== undefined));
  return e;
};

const D = JSON.parse($("#data").textContent);
const COUNT = D.code.layer.length;
const ALL_PHASES = (1 << D.phases.length) - 1;
const short = (layer) => (D.layers[layer].names.length ? D.names[D.layers[layer].names[0]] : "(no node)");
const whole = (layer) => D.layers[layer].names.map((n) => D.names[n]).join(", ") || "instructions of no node";

// numbers
const PREFIX = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1], ["m", 1e-3], ["µ", 1e-6], ["n", 1e-9], ["p", 1e-12], ["f", 1e-15]];
const si = (value, unit) => {
  if (!value) return unit ? `0 ${unit}` : "0";
  const [letter, factor] = PREFIX.find(([, f]) => Math.abs(value) >= f * 0.9995) ?? PREFIX[PREFIX.length - 1];
  const number = value / factor;
  const digits = Number.isInteger(value) && letter === "" && Math.abs(value) < 1000 ? String(value) : number.toPrecision(3);
  return `${digits}${letter || unit ? " " : ""}${letter}${unit}`.trim();
};
const percent = (part) => (part && part < 0.001 ? "< 0.1 %" : `${(100 * part).toFixed(part < 0.0995 ? 1 : 0)} %`);

// what belongs to what
const layerInstr = D.layers.map(() => []);
const matrixInstr = D.matrices.map(() => []);
for (let i = 0; i < COUNT; i++) {
  layerInstr[D.code.layer[i]].push(i);
  if (D.code.matrix[i] >= 0) matrixInstr[D.code.matrix[i]].push(i);
}
const nameLayers = D.names.map(() => []);
D.layers.forEach((layer, i) => layer.names.forEach((n) => nameLayers[n].push(i)));
const tilesOf = new Map(); // sub-array -> [matrix, row, col, k, n, rows, cols, copy]
D.matrices.forEach(([, , , , , , , tiles], m) => {
  for (let t = 0; t < tiles.length; t += 8) {
    if (!tilesOf.has(tiles[t])) tilesOf.set(tiles[t], []);
    tilesOf.get(tiles[t]).push([m, ...tiles.slice(t + 1, t + 8)]);
  }
});
const subArrays = [];
for (let p = 0; p < D.places.length; p += 5) subArrays.push(D.places.slice(p, p + 5));
const lineOf = new Int32Array(COUNT);
D.at.forEach((i, line) => { if (i >= 0) lineOf[i] = line; });
const around = (i) => { // layers that an instruction of no node serves
  const span = D.code.around[i];
  if (!span) return [];
  const found = new Set();
  for (let j = span[0]; j <= span[1]; j++) if (D.layers[D.code.layer[j]].names.length) found.add(D.code.layer[j]);
  return [...found];
};
const layersOfInstr = (i) => (D.layers[D.code.layer[i]].names.length ? [D.code.layer[i]] : around(i));

// times: per entry and instruction; per entry, layer and phase
const entries = D.entries.map((e, number) => {
  const times = new Uint32Array(COUNT), cycles = new Float64Array(COUNT), joules = new Float64Array(COUNT);
  for (let t = 0; t < e.times.length; t += 4) [times[e.times[t]], cycles[e.times[t]], joules[e.times[t]]] = e.times.slice(t + 1, t + 4);
  const byPhase = D.layers.map(() => D.phases.map(() => [0, 0]));
  for (let i = 0; i < COUNT; i++) {
    const sum = byPhase[D.code.layer[i]][D.code.phase[i]];
    sum[0] += cycles[i]; sum[1] += joules[i];
  }
  return { ...e, number, times, executed: times, cyclesOf: cycles, joulesOf: joules, byPhase };
});
const entryTitle = (e) => (e.trains ? "Training step" : e.name === "infer" ? "Inference" : e.name);

// state and its listeners
const state = { entry: 0, stage: 0, heat: "cycles", sel: null };
const listeners = [];
const on = (...what) => { const f = what.pop(); listeners.push([what, f]); };
const change = (changes, from = "") => {
  Object.assign(state, changes);
  const keys = Object.keys(changes);
  if (keys.includes("sel") || keys.includes("entry")) light(); // before anybody looks
  if (keys.includes("heat") || keys.includes("entry")) heatRange();
  for (const [what, f] of listeners) if (what.some((w) => keys.includes(w))) f(from);
};

// what lights up: sel = [kind, number]; kinds: item, layer, instr, sub, time (an execution of the entry)
const lit = { instr: new Uint8Array(COUNT), names: new Set(), layers: new Set(), subs: new Set(), phases: ALL_PHASES, first: -1 };
const light = () => {
  lit.instr.fill(0); lit.names.clear(); lit.layers.clear(); lit.subs.clear();
  lit.phases = ALL_PHASES; lit.first = -1;
  if (!state.sel) return;
  const [kind, number] = state.sel;
  let layers = [];
  if (kind === "sub") {
    for (const [m] of tilesOf.get(number) ?? []) matrixInstr[m].forEach((i) => { lit.instr[i] = 1; });
    let phases = 0;
    lit.instr.forEach((on, i) => { if (on) { lit.layers.add(D.code.layer[i]); phases |= 1 << D.code.phase[i]; } });
    lit.phases = phases || ALL_PHASES;
    lit.layers.forEach((l) => D.layers[l].names.forEach((n) => lit.names.add(n)));
    lit.subs.add(number);
  } else {
    if (kind === "item") {
      D.items[number][3].forEach((n) => { lit.names.add(n); layers.push(...nameLayers[n]); });
      lit.phases = D.items[number][4];
    } else if (kind === "layer") layers = [number];
    else {
      const i = kind === "instr" ? number : moment(number).instr;
      layers = layersOfInstr(i);
      lit.phases = 1 << D.code.phase[i];
      lit.instr[i] = 1;
    }
    layers.forEach((l) => { lit.layers.add(l); D.layers[l].names.forEach((n) => lit.names.add(n)); });
    lit.layers.forEach((l) => layerInstr[l].forEach((i) => { if (lit.phases & (1 << D.code.phase[i])) lit.instr[i] = 1; }));
    const mats = new Set();
    lit.instr.forEach((on, i) => { if (on && D.code.matrix[i] >= 0) mats.add(D.code.matrix[i]); });
    mats.forEach((m) => { const t = D.matrices[m][7]; for (let k = 0; k < t.length; k += 8) lit.subs.add(t[k]); });
  }
  lit.first = lit.instr.indexOf(1);
};
const itemLit = (item) => state.sel && (D.items[item][4] & lit.phases) !== 0 && D.items[item][3].some((n) => lit.names.has(n));
const select = (kind, number, from = "") => change({ sel: kind === null ? null : [kind, number] }, from);

// an execution of the current entry, by number
const spread = (e) => { // begins of the executions, and where each one's unit begins stand
  if (e.begins) return e;
  const t = e.timeline, n = t.kind.length;
  e.begins = new Float64Array(n + 1); e.unitAt = new Uint32Array(n + 1);
  let at = 0, u = 0;
  for (let x = 0; x < n; x++) {
    at += t.step[x];
    e.begins[x] = at; e.unitAt[x] = u;
    const kind = t.kinds[t.kind[x]];
    for (let k = 1; k <= D.units.length; k++) if (kind[k]) u++;
  }
  e.begins[n] = e.cycles; e.unitAt[n] = u;
  return e;
};
const moment = (number) => {
  const e = spread(entries[state.entry]);
  const x = Math.min(number, e.timeline.kind.length - 1);
  return { instr: e.timeline.kinds[e.timeline.kind[x]][0], begin: e.begins[x], end: e.begins[x + 1], number: x };
};

// heat of a set of layers in some phases
const HEATS = [["cycles", "Cycles"], ["energy", "Energy"], ["bound", "Distance from the bound"], ["buffer", "Buffer"]];
if (D.run) HEATS.push(["measured", "Energy of the run"]);
const heatOf = (layers, phases = ALL_PHASES) => {
  const e = entries[state.entry];
  let value = 0, known = false;
  for (const l of layers) {
    const layer = D.layers[l];
    if (state.heat === "bound") {
      const share = layer.bound && entries[0].byPhase[l][0][0];
      if (share) { value = Math.max(value, share / layer.bound); known = true; }
    } else if (state.heat === "buffer") {
      const share = layer.shares[state.entry];
      if (share) { value = Math.max(value, share[2]); known = true; }
    } else if (state.heat === "measured") { value += D.run.joules[l]; known = true; }
    else {
      for (let p = 0; p < D.phases.length; p++) if (phases & (1 << p)) value += e.byPhase[l][p][state.heat === "cycles" ? 0 : 1];
      known = true;
    }
  }
  return known ? value : null;
};
const heatText = (value) => (value === null ? "–" : { cycles: (v) => `${si(v, "")} cycles`, energy: (v) => si(v, "J"), measured: (v) => si(v, "J"),
  bound: (v) => `× ${v.toFixed(2)}`, buffer: (v) => si(v, "B") }[state.heat](value));
let heatTop = 1;
const heatRange = () => {
  const top = (kept) => Math.max(0, ...D.layers.map((layer, l) => (kept(layer) ? heatOf([l]) ?? 0 : 0)));
  heatTop = top((layer) => layer.names.length) || top(() => true) || 1;
  if (state.heat === "bound") heatTop = Math.max(1.01, heatTop);
};
const heatLevel = (value) => { // 0..1, null where there is none
  if (value === null) return null;
  if (state.heat === "bound") return Math.min(1, Math.max(0, (value - 1) / (heatTop - 1)));
  return Math.sqrt(Math.min(1, value / heatTop));
};
const heatColour = (level) => (level === null ? "transparent"
  : level < 0.5 ? `color-mix(in oklab, var(--heat-mid) ${(200 * level).toFixed(0)}%, var(--heat-lo))`
    : `color-mix(in oklab, var(--heat-hi) ${(200 * level - 100).toFixed(0)}%, var(--heat-mid))`);
