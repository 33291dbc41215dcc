// Simulated time: phases, layers, units, activation groups, buffer. Each pixel shows how much of its time something is busy.
const timePane = (() => {
  const box = $("#time"), canvas = $("canvas", box), ctx = canvas.getContext("2d");
  const groups = Math.max(1, Math.ceil(D.machine.subarrays / D.machine.group));
  const LEFT = 96, UNIT = 15, GROUP = Math.max(2, Math.min(6, Math.floor(160 / groups)));
  const lanes = { axis: 0, phase: 20, layer: 34 };
  lanes.units = lanes.layer + 26; lanes.groups = lanes.units + D.units.length * (UNIT + 2) + 8;
  lanes.buffer = lanes.groups + groups * GROUP + 10; lanes.end = lanes.buffer + 46;
  let view = [0, 1], hover = null, wide = 0;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const entry = () => spread(entries[state.entry]);
  const at = (x) => view[0] + ((x - LEFT) / (wide - LEFT)) * (view[1] - view[0]);
  const found = (cycle) => { // the execution at a moment
    const b = entry().begins;
    let low = 0, up = b.length - 1;
    while (low < up - 1) { const mid = (low + up) >> 1; if (b[mid] <= cycle) low = mid; else up = mid; }
    return low;
  };
  const draw = () => {
    wide = box.clientWidth;
    if (!wide) return;
    const ratio = devicePixelRatio || 1, high = lanes.end;
    canvas.width = wide * ratio; canvas.height = high * ratio; canvas.style.height = `${high}px`;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, wide, high);
    const e = entry(), t = e.timeline, n = t.kind.length, pixels = Math.max(1, wide - LEFT), scale = pixels / (view[1] - view[0]);
    const first = found(view[0]), text = colour("--text"), dim = colour("--dim"), line = colour("--line"), accent = colour("--accent"), surface = colour("--surface");
    const phases = D.phases.map((p) => colour(`--p-${p}`));
    const units = D.units.map(() => new Float32Array(pixels + 1)), unitsLit = D.units.map(() => new Float32Array(pixels + 1));
    const busy = Array.from({ length: groups }, () => new Float32Array(pixels + 1)), busyLit = Array.from({ length: groups }, () => new Float32Array(pixels + 1));
    const add = (bins, begin, length) => {
      let a = (begin - view[0]) * scale, b = a + length * scale;
      if (b <= 0 || a >= pixels) return;
      a = Math.max(0, a); b = Math.min(pixels, b);
      const i = Math.floor(a), j = Math.floor(b);
      if (i === j) { bins[i] += b - a; return; }
      bins[i] += i + 1 - a;
      for (let k = i + 1; k < j; k++) bins[k] += 1;
      bins[j] += b - j;
    };
    ctx.font = "11px system-ui, sans-serif"; ctx.textBaseline = "middle";
    // layers and phases: stretches of equal ones
    const layerAt = [];
    let turn = 0;
    const phaseOf = (x) => { while (turn + 1 < t.turns.length && t.turns[turn + 1][0] <= x) turn++; return t.turns[turn][1]; };
    for (let x = first; x < n && e.begins[x] < view[1]; x++) {
      const kind = t.kinds[t.kind[x]], i = kind[0], on = state.sel && lit.instr[i];
      let u = e.unitAt[x], array = e.begins[x];
      for (let k = 0; k < D.units.length; k++) if (kind[k + 1]) {
        const begin = e.begins[x] + t.units[u++];
        add(units[k], begin, kind[k + 1]);
        if (on) add(unitsLit[k], begin, kind[k + 1]);
        if (D.units[k] === "array") array = begin;
      }
      for (let g = D.units.length + 1; g < kind.length; g += 3) {
        const busyFor = kind[D.units.indexOf("array") + 1];
        add(busy[kind[g]], array + (busyFor * kind[g + 1]) / 1000, (busyFor * kind[g + 2]) / 1000);
        if (on) add(busyLit[kind[g]], array + (busyFor * kind[g + 1]) / 1000, (busyFor * kind[g + 2]) / 1000);
      }
      const layer = D.layers[D.code.layer[i]].names.length ? D.code.layer[i] : -1, phase = phaseOf(x), last = layerAt[layerAt.length - 1];
      if (layer < 0 && last) last[2] = e.begins[x + 1];
      else if (last && last[0] === layer && last[3] === phase) { last[2] = e.begins[x + 1]; last[4] ||= !!on; }
      else layerAt.push([layer, e.begins[x], e.begins[x + 1], phase, !!on]);
    }
    const px = (cycle) => LEFT + (Math.max(view[0], Math.min(view[1], cycle)) - view[0]) * scale;
    layerAt.forEach(([layer, a, b, phase, on], k) => {
      const x = px(a), w = Math.max(0.5, px(b) - x);
      ctx.fillStyle = phases[phase]; ctx.globalAlpha = 1; ctx.fillRect(x, lanes.phase, w, 10);
      ctx.globalAlpha = state.sel ? (on ? 1 : 0.18) : k % 2 ? 0.42 : 0.62;
      ctx.fillStyle = on ? accent : phases[phase];
      ctx.fillRect(x, lanes.layer, w, 20);
      ctx.globalAlpha = 1;
      if (w > 24 && layer >= 0) {
        const words = [short(layer), short(layer).replace(/^[^./]*[./]/, "")].find((name) => ctx.measureText(name).width < w - 8);
        if (words) { ctx.fillStyle = on ? surface : text; ctx.textAlign = "left"; ctx.fillText(words, x + 4, lanes.layer + 10.5); }
      }
    });
    const label = (words, y, strong) => { ctx.fillStyle = strong ? text : dim; ctx.textAlign = "right"; ctx.fillText(words, LEFT - 8, y); };
    label("phase", lanes.phase + 5.5); label("layer", lanes.layer + 10.5);
    D.units.forEach((name, k) => {
      const y = lanes.units + k * (UNIT + 2);
      label(name.replace("_", " "), y + UNIT / 2 + 0.5);
      ctx.fillStyle = line; ctx.globalAlpha = 0.45; ctx.fillRect(LEFT, y, pixels, UNIT); ctx.globalAlpha = 1;
      for (const [bins, fill] of [[units[k], dim], [unitsLit[k], accent]]) {
        ctx.fillStyle = fill;
        for (let p = 0; p < pixels; p++) if (bins[p] > 0.004) { const h = Math.max(1, Math.min(1, bins[p]) * UNIT); ctx.fillRect(LEFT + p, y + UNIT - h, 1.02, h); }
      }
    });
    label("groups", lanes.groups + (groups * GROUP) / 2 - 7); label(`0 to ${groups - 1}`, lanes.groups + (groups * GROUP) / 2 + 7);
    for (let g = 0; g < groups; g++) {
      const y = lanes.groups + g * GROUP;
      ctx.fillStyle = line; ctx.globalAlpha = 0.35; ctx.fillRect(LEFT, y, pixels, GROUP - 1);
      for (let p = 0; p < pixels; p++) {
        const all_ = Math.min(1, busy[g][p]), on = Math.min(1, busyLit[g][p]);
        if (all_ > 0.004) { ctx.globalAlpha = 0.12 + 0.88 * (on > 0.004 ? on : all_); ctx.fillStyle = on > 0.004 ? accent : dim; ctx.fillRect(LEFT + p, y, 1.02, GROUP - 1); }
      }
    }
    ctx.globalAlpha = 1;
    // buffer: the most bytes in use in each pixel
    const peak = new Float32Array(pixels + 1);
    for (let x = first; x < n && e.begins[x] < view[1]; x++) {
      const bytes = e.live[t.kinds[t.kind[x]][0] - e.first] ?? 0, a = Math.max(0, Math.floor((e.begins[x] - view[0]) * scale)), b = Math.min(pixels - 1, Math.floor((e.begins[x + 1] - view[0]) * scale));
      for (let p = a; p <= b; p++) peak[p] = Math.max(peak[p], bytes);
    }
    ctx.fillStyle = colour("--k-buffer");
    for (let p = 0; p < pixels; p++) { const h = (40 * peak[p]) / D.machine.buffer; ctx.fillRect(LEFT + p, lanes.buffer + 40 - h, 1.02, h); }
    ctx.strokeStyle = dim; ctx.setLineDash([3, 3]); ctx.beginPath(); ctx.moveTo(LEFT, lanes.buffer + 0.5); ctx.lineTo(wide, lanes.buffer + 0.5); ctx.stroke(); ctx.setLineDash([]);
    label("buffer", lanes.buffer + 22); label(si(D.machine.buffer, "B"), lanes.buffer + 4);
    // axis
    ctx.fillStyle = dim; ctx.strokeStyle = line;
    const seconds = [view[0] / D.machine.clock, view[1] / D.machine.clock], most = Math.max(2, Math.floor(pixels / 110)), raw = (seconds[1] - seconds[0]) / most;
    const power = 10 ** Math.floor(Math.log10(raw)), step = power * [1, 2, 5, 10].find((f) => f * power >= raw * 0.999);
    for (let s = Math.ceil(seconds[0] / step) * step; s <= seconds[1]; s += step) {
      const x = px(s * D.machine.clock);
      if (x < LEFT - 1 || x > wide - 44) continue;
      ctx.textAlign = "left"; ctx.fillText(s < step / 2 ? "0" : si(+s.toPrecision(6), "s"), x + 3, 8);
      ctx.beginPath(); ctx.moveTo(x + 0.5, 2); ctx.lineTo(x + 0.5, lanes.end); ctx.stroke();
    }
    const mark = state.sel && state.sel[0] === "time" ? moment(state.sel[1]) : null;
    for (const [cycle, strong] of [[hover, false], [mark && (mark.begin + mark.end) / 2, true]]) if (cycle !== null && cycle !== false && cycle >= view[0] && cycle <= view[1]) {
      ctx.strokeStyle = strong ? accent : text; ctx.lineWidth = strong ? 2 : 1; ctx.beginPath(); ctx.moveTo(px(cycle), 12); ctx.lineTo(px(cycle), lanes.end); ctx.stroke(); ctx.lineWidth = 1;
    }
  };
  let waiting = false;
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };
  const limit = (a, b) => {
    const end = entry().cycles, length = Math.min(end, Math.max(32, b - a));
    a = Math.max(0, Math.min(end - length, a));
    view = [a, a + length];
    soon();
  };
  const zoom = (by, centre = (view[0] + view[1]) / 2) => limit(centre - (centre - view[0]) * by, centre + (view[1] - centre) * by);
  const say = () => {
    const says = $("#time-says");
    const cycle = hover ?? (state.sel && state.sel[0] === "time" ? moment(state.sel[1]).begin : null);
    if (cycle === null) { says.textContent = ""; return; }
    const x = found(cycle), i = entry().timeline.kinds[entry().timeline.kind[x]][0];
    says.textContent = `${si(cycle / D.machine.clock, "s")}, ${D.phases[D.code.phase[i]]}: ${D.lines[lineOf[i]].trim()}`;
  };
  let drag = null;
  canvas.addEventListener("pointerdown", (e) => { drag = [e.clientX, view[0], false]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", (e) => {
    const x = e.clientX - canvas.getBoundingClientRect().left;
    if (drag && Math.abs(e.clientX - drag[0]) > 4) {
      drag[2] = true;
      const length = view[1] - view[0], a = drag[1] - ((e.clientX - drag[0]) / (wide - LEFT)) * length;
      limit(a, a + length);
    }
    hover = x > LEFT ? at(x) : null;
    say(); soon();
  });
  canvas.addEventListener("pointerup", (e) => {
    const x = e.clientX - canvas.getBoundingClientRect().left;
    if (drag && !drag[2] && x > LEFT) select("time", found(at(x)), "time");
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { hover = null; say(); soon(); });
  canvas.addEventListener("wheel", (e) => {
    if (!e.ctrlKey && !e.metaKey) return; // the page scrolls
    e.preventDefault();
    zoom(e.deltaY > 0 ? 1.25 : 0.8, at(e.clientX - canvas.getBoundingClientRect().left));
  }, { passive: false });
  box.addEventListener("keydown", (e) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (step) {
      e.preventDefault();
      const now = state.sel && state.sel[0] === "time" ? state.sel[1] : found(view[0]) - step;
      select("time", Math.max(0, Math.min(entry().timeline.kind.length - 1, now + step)), "time");
      const m = moment(state.sel[1]);
      if (m.end > view[1] || m.begin < view[0]) limit(m.begin - (view[1] - view[0]) / 2, m.begin + (view[1] - view[0]) / 2);
    } else if (e.key === "+" || e.key === "-") zoom(e.key === "+" ? 0.5 : 2, state.sel && state.sel[0] === "time" ? moment(state.sel[1]).begin : undefined);
    else if (e.key === "Home") limit(0, entry().cycles);
  });
  all("[data-time]").forEach((b) => b.addEventListener("click", () => { if (b.dataset.time === "0") limit(0, entry().cycles); else zoom(b.dataset.time === "+" ? 0.5 : 2, state.sel && state.sel[0] === "time" ? moment(state.sel[1]).begin : undefined); }));
  on("entry", () => {
    const e = entry();
    view = [0, e.cycles]; hover = null;
    $("#time-what").textContent = `one ${entryTitle(e).toLowerCase()}${e.images > 1 ? ` of ${e.images} images` : ""}`;
    $("#time-legend").replaceChildren(...[...new Set(e.timeline.turns.map(([, p]) => p))].sort().map((p) => make("li", {}, make("i", { style: `background:var(--p-${D.phases[p]})` }), D.phases[p])), make("li", {}, "a column's height or darkness: the part of its time that the unit or group is busy"));
    say(); soon();
  });
  on("sel", () => { say(); soon(); });
  new ResizeObserver(soon).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  return { draw };
})();
