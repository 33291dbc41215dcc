"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const study = report.study;
const parameters = Object.keys(study.vary);
const goals = [...study.minimise, ...study.maximise];
const feasible = report.points.filter((p) => !p.infeasible);
const names = [...parameters, ...study.metrics.filter((m) => feasible.some((p) => p.metrics[m] !== null))];
const value = (p, name) => (name in p.point ? p.point[name] : p.metrics[name]);
const svg = "http://www.w3.org/2000/svg";
const make = (tag, attributes, text) => {
  const e = document.createElementNS(svg, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
};
const shown = (v) => (typeof v === "number" ? (Number.isInteger(v) && Math.abs(v) < 1e9 ? String(v) : Math.abs(v) < 1e-3 || Math.abs(v) >= 1e6 ? v.toExponential(3) : v.toPrecision(4)) : v === undefined || v === null ? "–" : String(v));
const ranges = new Map(); // brushed axes: name -> [low, high] in 0..1

// A scale: value -> 0..1, by order for words.
function scaleOf(name) {
  const values = feasible.map((p) => value(p, name)).filter((v) => v !== undefined && v !== null);
  if (values.some((v) => typeof v !== "number")) {
    const words = [...new Set(values.map(String))];
    return { at: (v) => (words.length > 1 ? words.indexOf(String(v)) / (words.length - 1) : 0.5), ticks: words.map((w, i) => [words.length > 1 ? i / (words.length - 1) : 0.5, w]) };
  }
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  return { at: (v) => (high > low ? (v - low) / span : 0.5), ticks: high > low ? [0, 0.25, 0.5, 0.75, 1].map((t) => [t, shown(low + t * span)]) : [[0.5, shown(low)]] };
}
const scales = new Map(names.map((n) => [n, scaleOf(n)]));
const kept = (p) => [...ranges].every(([n, [a, b]]) => {
  const v = value(p, n);
  if (v === undefined || v === null) return false;
  const t = scales.get(n).at(v);
  return t >= a - 1e-9 && t <= b + 1e-9;
});
const colour = (t) => `color-mix(in oklab, var(--high) ${(100 * t).toFixed(0)}%, var(--low))`;

document.title = study.name;
document.getElementById("name").textContent = study.name;
document.getElementById("summary").textContent = `${feasible.length} feasible points of ${report.points.length}; goals: ` +
  ([...study.minimise.map((g) => `least ${g}`), ...study.maximise.map((g) => `most ${g}`)].join(", ") || "none") + `; model ${study.model}, seeds ${study.seeds.join(", ")}`;

const choice = (id, first) => {
  const select = document.getElementById(id);
  for (const n of names) select.add(new Option(n, n));
  select.value = first ?? names[0];
  select.onchange = draw;
  return select;
};
const measured = names.filter((n) => !parameters.includes(n));
const x = choice("x", goals[0] ?? measured[0]), y = choice("y", goals[1] ?? measured[1] ?? measured[0]), tint = choice("colour", goals[2] ?? parameters[0]);

function scatter() {
  const box = document.getElementById("scatter"), w = 900, h = 420, l = 90, b = 50;
  box.setAttribute("viewBox", `0 0 ${w} ${h}`);
  box.replaceChildren();
  const sx = scales.get(x.value), sy = scales.get(y.value), sc = scales.get(tint.value);
  const px = (t) => l + 10 + t * (w - l - 40), py = (t) => h - b - 10 - t * (h - b - 40);
  for (const [t, text] of sx.ticks) box.append(make("line", { x1: px(t), x2: px(t), y1: 20, y2: h - b, class: "axis" }), make("text", { x: px(t), y: h - b + 18, "text-anchor": "middle", class: "tick" }, text));
  for (const [t, text] of sy.ticks) box.append(make("line", { x1: l, x2: w - 20, y1: py(t), y2: py(t), class: "axis" }), make("text", { x: l - 8, y: py(t) + 4, "text-anchor": "end", class: "tick" }, text));
  box.append(make("text", { x: w - 20, y: h - 8, "text-anchor": "end" }, x.value), make("text", { x: 8, y: 14 }, y.value));
  for (const p of feasible) {
    const a = value(p, x.value), c = value(p, y.value);
    if (a === undefined || c === undefined || a === null || c === null) continue;
    const t = value(p, tint.value), on = kept(p);
    const dot = make("circle", { cx: px(sx.at(a)), cy: py(sy.at(c)), r: p.front ? 6 : 4, style: `fill:${t === undefined || t === null ? "var(--dim)" : colour(sc.at(t))};opacity:${on ? 0.9 : 0.08}` });
    if (p.front) dot.setAttribute("stroke", "var(--ink)");
    dot.append(make("title", {}, names.map((n) => `${n}: ${shown(value(p, n))}`).join("\n")));
    box.append(dot);
  }
}

function parallel() {
  const box = document.getElementById("parallel"), w = Math.max(640, 120 * names.length), h = 320, top = 46, low = 20;
  box.setAttribute("viewBox", `0 0 ${w} ${h}`);
  box.replaceChildren();
  const at = (i) => 60 + (i * (w - 120)) / Math.max(1, names.length - 1), up = (t) => h - low - t * (h - top - low);
  const sc = scales.get(tint.value);
  for (const p of [...feasible].sort((a, b) => kept(a) - kept(b))) {
    const points = names.map((n, i) => [at(i), value(p, n), n]).filter(([, v]) => v !== undefined && v !== null).map(([X, v, n]) => `${X},${up(scales.get(n).at(v)).toFixed(1)}`);
    const t = value(p, tint.value);
    box.append(make("polyline", { points: points.join(" "), fill: "none", "stroke-width": p.front ? 2 : 1, style: `stroke:${t === undefined || t === null ? "var(--dim)" : colour(sc.at(t))};opacity:${kept(p) ? 0.75 : 0.05}` }));
  }
  names.forEach((n, i) => {
    const X = at(i), s = scales.get(n);
    box.append(make("line", { x1: X, x2: X, y1: up(1), y2: up(0), stroke: "var(--ink)" }));
    box.append(make("text", { x: X, y: i % 2 ? 30 : 14, "text-anchor": "middle" }, n));
    for (const [t, text] of s.ticks.length > 6 ? [s.ticks[0], s.ticks[s.ticks.length - 1]] : [s.ticks[0], s.ticks[s.ticks.length - 1]]) box.append(make("text", { x: X + 5, y: up(t) + (t ? 12 : -2), class: "tick" }, text));
    if (ranges.has(n)) {
      const [a, b] = ranges.get(n);
      box.append(make("rect", { x: X - 7, width: 14, y: up(b), height: Math.max(2, up(a) - up(b)), fill: "var(--mark)", opacity: 0.35 }));
    }
    const grip = make("rect", { x: X - 14, width: 28, y: up(1) - 4, height: up(0) - up(1) + 8, fill: "transparent", style: "cursor:ns-resize" });
    grip.onpointerdown = (e) => {
      const where = (ev) => {
        const r = box.getBoundingClientRect();
        return Math.min(1, Math.max(0, (h - low - ((ev.clientY - r.top) * h) / r.height) / (h - top - low)));
      };
      const first = where(e);
      let moved = false;
      const move = (ev) => {
        const t = where(ev);
        moved ||= Math.abs(t - first) > 0.02;
        if (moved) { ranges.set(n, [Math.min(first, t), Math.max(first, t)]); draw(); }
      };
      const end = () => {
        window.removeEventListener("pointermove", move);
        if (!moved) { ranges.delete(n); draw(); }
      };
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", end, { once: true });
    };
    box.append(grip);
  });
}

let order = [goals[0] ?? measured[0], 1];
function table() {
  const t = document.getElementById("points");
  t.replaceChildren();
  const head = t.createTHead().insertRow();
  for (const n of names) {
    const th = document.createElement("th");
    th.textContent = n + (order[0] === n ? (order[1] > 0 ? " ▲" : " ▼") : "");
    th.onclick = () => { order = [n, order[0] === n ? -order[1] : 1]; table(); };
    head.append(th);
  }
  const body = t.createTBody();
  const rows = feasible.filter(kept).sort((a, b) => {
    const u = value(a, order[0]), v = value(b, order[0]);
    return order[1] * (typeof u === "number" && typeof v === "number" ? u - v : String(u).localeCompare(String(v)));
  });
  for (const p of rows.slice(0, 500)) {
    const row = body.insertRow();
    if (p.front) row.className = "front";
    for (const n of names) row.insertCell().textContent = shown(value(p, n)) + (p.standard_errors[n] ? ` ± ${shown(p.standard_errors[n])}` : "");
  }
  if (rows.length > 500) body.insertRow().insertCell().textContent = `and ${rows.length - 500} more (--csv has all)`;
}

function importance() {
  const box = document.getElementById("importance");
  for (const [goal, shares] of Object.entries(report.importance)) {
    const title = document.createElement("p");
    title.textContent = goal;
    box.append(title);
    for (const [n, share] of Object.entries(shares)) {
      const row = document.createElement("div");
      row.className = "bar";
      const bar = document.createElement("i");
      bar.style.width = `${100 * share}%`;
      const name = document.createElement("span"), number = document.createElement("span");
      name.textContent = n;
      number.textContent = `${(100 * share).toFixed(0)} %`;
      row.append(name, bar, number);
      box.append(row);
    }
  }
}

function infeasible() {
  const reasons = new Map();
  for (const p of report.points) if (p.infeasible) reasons.set(p.infeasible, (reasons.get(p.infeasible) ?? 0) + 1);
  if (!reasons.size) return;
  const box = document.getElementById("infeasible"), title = document.createElement("h2"), list = document.createElement("ul");
  title.textContent = "Infeasible";
  for (const [reason, count] of [...reasons].sort((a, b) => b[1] - a[1]).slice(0, 20)) {
    const item = document.createElement("li");
    item.textContent = `${count}: ${reason}`;
    list.append(item);
  }
  box.append(title, list);
}

function draw() { scatter(); parallel(); table(); }
draw();
importance();
infeasible();
