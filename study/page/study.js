"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const study = report.study, parameters = Object.keys(study.vary), $ = (id) => document.getElementById(id);
const feasible = report.points.filter((p) => !p.infeasible);
const metrics = study.metrics.filter((m) => feasible.some((p) => (p.metrics[m] ?? null) !== null));
const names = [...parameters, ...metrics];
const goals = new Map([...study.minimise.map((g) => [g, 1]), ...study.maximise.map((g) => [g, -1])]); // metric -> 1: least, -1: most
const value = (p, name) => (name in p.point ? p.point[name] : p.metrics[name]) ?? null;
const svg = "http://www.w3.org/2000/svg";
const make = (tag, attributes, text) => {
  const e = document.createElementNS(svg, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
};
const html = (tag, text, attributes = {}) => Object.assign(document.createElement(tag), { textContent: text }, attributes);
const shown = (v) => (typeof v === "number" ? (Number.isInteger(v) && Math.abs(v) < 1e9 ? String(v) : v && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e6) ? v.toExponential(3) : v.toPrecision(4)) : v === null ? "–" : String(v));
const brief = (n) => n.replace(/^machine\./, "");
const ranges = new Map(); // brushed axes: name -> [low, high] in 0..1
let picked = null;

// A scale: value -> 0..1. A parameter's values stand at equal distances, in their order, a metric's numbers as they are.
function scaleOf(name) {
  const values = feasible.map((p) => value(p, name)).filter((v) => v !== null);
  if (parameters.includes(name)) {
    const found = [...new Set(values)].sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : 0));
    const at = (i) => (found.length > 1 ? i / (found.length - 1) : 0.5);
    return { at: (v) => at(found.indexOf(v)), ticks: found.map((v, i) => [at(i), shown(v)]), step: found.length > 1 ? 1 / (found.length - 1) : 1 };
  }
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  return { at: (v) => (high > low ? (v - low) / span : 0.5), ticks: high > low ? [0, 0.25, 0.5, 0.75, 1].map((t) => [t, shown(low + t * span)]) : [[0.5, shown(low)]], step: 0.05 };
}
const scales = new Map(names.map((n) => [n, scaleOf(n)]));
const kept = (p) => [...ranges].every(([n, [a, b]]) => {
  const v = value(p, n), t = v === null ? -1 : scales.get(n).at(v);
  return t >= a - 1e-9 && t <= b + 1e-9;
});
const tinted = (p) => {
  const v = value(p, tint.value);
  return v === null ? "var(--dim)" : `color-mix(in oklab, var(--high) ${(100 * scales.get(tint.value).at(v)).toFixed(0)}%, var(--low))`;
};

// The points that no other beats in every goal.
function findFront() {
  const wanted = [...goals], rows = feasible.filter((p) => wanted.every(([g]) => value(p, g) !== null));
  const v = rows.map((p) => wanted.map(([g, sign]) => sign * value(p, g)));
  const beaten = (b) => v.some((a) => a.every((x, k) => x <= b[k]) && a.some((x, k) => x < b[k]));
  for (const p of feasible) p.front = false;
  if (wanted.length) rows.forEach((p, i) => { p.front = !beaten(v[i]); });
  $("goals").textContent = wanted.map(([g, s]) => `${s > 0 ? "least" : "most"} ${g}`).join(", ") || "none";
  $("summary").textContent = `${feasible.length} feasible points of ${report.points.length}, ${feasible.filter((p) => p.front).length} on the front; model ${study.model}, seeds ${study.seeds.join(", ")}`;
}

document.title = study.name;
$("name").textContent = study.name;
$("legend").textContent = "Rings mark the front" + (feasible.some((p) => p.paper) ? ", ★ the paper's machine" : "") + ". Click a point, or choose with the arrow keys; Escape lets go.";
const choice = (id, first) => {
  const select = $(id);
  for (const n of names) select.add(new Option(n, n));
  select.value = first ?? names[0];
  select.onchange = draw;
  return select;
};
const leads = goals.size === 1 ? Object.keys(Object.values(report.importance)[0] ?? {}).slice(0, 1) : []; // of one goal: the parameter that matters most
const first = [...new Set([...leads, ...goals.keys(), ...metrics])];
const x = choice("x", first[0]), y = choice("y", first[1] ?? first[0]), tint = choice("colour", first[2] ?? parameters[0]);
for (const m of metrics) {
  const label = html("label", `${m} `), select = document.createElement("select");
  for (const [text, sign] of [["–", 0], ["least", 1], ["most", -1]]) select.add(new Option(text, sign));
  select.value = goals.get(m) ?? 0;
  select.onchange = () => { if (+select.value) goals.set(m, +select.value); else goals.delete(m); findFront(); draw(); };
  label.append(select);
  $("goal-choices").append(label);
}

function pick(p) { picked = p; draw(); details(); }

function details() {
  const box = $("chosen");
  box.replaceChildren();
  if (!picked) return;
  const head = html("p", picked.paper ? "★ the paper's machine" : picked.front ? "on the front" : "a point");
  if (picked.page) head.append(" · ", html("a", "look inside", { href: picked.page }));
  const t = document.createElement("table");
  for (const n of names) {
    const row = t.insertRow(), e = picked.standard_errors[n];
    row.insertCell().textContent = brief(n);
    row.insertCell().textContent = shown(value(picked, n)) + (e ? ` ± ${shown(e)}` : "");
  }
  box.append(head, t);
  if (!picked.page) box.append(html("p", "Its own page: sasc study show FOLDER --html PAGE --explore all", { className: "note" }));
}

function star(X, Y, r) {
  return make("polygon", { class: "star", points: Array.from({ length: 10 }, (_, i) => {
    const a = (Math.PI * i) / 5 - Math.PI / 2, q = i % 2 ? r * 0.45 : r;
    return `${(X + q * Math.cos(a)).toFixed(1)},${(Y + q * Math.sin(a)).toFixed(1)}`;
  }).join(" ") });
}

const placed = () => feasible.filter((p) => kept(p) && value(p, x.value) !== null && value(p, y.value) !== null);
function scatter() {
  const box = $("scatter"), w = 900, h = 440, l = 90, b = 50;
  box.setAttribute("viewBox", `0 0 ${w} ${h}`);
  const sx = scales.get(x.value), sy = scales.get(y.value), parts = [], marks = [];
  const px = (t) => l + 10 + t * (w - l - 40), py = (t) => h - b - 10 - t * (h - b - 40);
  for (const [t, text] of sx.ticks) parts.push(make("line", { x1: px(t), x2: px(t), y1: 20, y2: h - b, class: "axis" }), make("text", { x: px(t), y: h - b + 18, "text-anchor": "middle", class: "tick" }, text));
  for (const [t, text] of sy.ticks) parts.push(make("line", { x1: l, x2: w - 20, y1: py(t), y2: py(t), class: "axis" }), make("text", { x: l - 8, y: py(t) + 4, "text-anchor": "end", class: "tick" }, text));
  parts.push(make("text", { x: w - 20, y: h - 8, "text-anchor": "end" }, brief(x.value)), make("text", { x: 8, y: 14 }, brief(y.value)));
  for (const p of [...feasible].sort((p, q) => p.front - q.front)) {
    const a = value(p, x.value), c = value(p, y.value);
    if (a === null || c === null) continue;
    const X = px(sx.at(a)), Y = py(sy.at(c));
    const dot = make("circle", { cx: X.toFixed(1), cy: Y.toFixed(1), r: p.front ? 6 : 4, class: "dot", style: `fill:${tinted(p)};opacity:${kept(p) ? 0.9 : 0.08}` });
    if (p.front) dot.setAttribute("stroke", "var(--ink)");
    dot.append(make("title", {}, names.map((n) => `${n}: ${shown(value(p, n))}`).join("\n")));
    dot.onclick = () => pick(p);
    parts.push(dot);
    if (p.paper) marks.push(star(X, Y, 11));
    if (p === picked) marks.push(make("circle", { cx: X, cy: Y, r: 10, class: "picked" }));
  }
  box.replaceChildren(...parts, ...marks);
}
$("scatter").onkeydown = (e) => {
  const along = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
  if (e.key === "Escape") pick(null);
  if (!along) return;
  e.preventDefault();
  const rows = placed().sort((p, q) => scales.get(x.value).at(value(p, x.value)) - scales.get(x.value).at(value(q, x.value)));
  if (rows.length) pick(rows[(rows.includes(picked) ? rows.indexOf(picked) + along + rows.length : along > 0 ? 0 : rows.length - 1) % rows.length]);
};

function parallel() {
  const box = $("parallel"), focused = document.activeElement?.dataset?.axis, w = Math.max(900, 118 * names.length), h = 340, top = 50, low = 24;
  box.setAttribute("viewBox", `0 0 ${w} ${h}`);
  box.style.minWidth = `${Math.min(w, 90 * names.length)}px`;
  const at = (i) => 62 + (i * (w - 124)) / Math.max(1, names.length - 1), up = (t) => h - low - t * (h - top - low);
  const line = (p) => names.map((n, i) => [at(i), value(p, n), n]).filter(([, v]) => v !== null).map(([X, v, n]) => `${X.toFixed(1)},${up(scales.get(n).at(v)).toFixed(1)}`).join(" ");
  const order = (p) => kept(p) + 2 * p.front;
  const parts = [...feasible].sort((p, q) => order(p) - order(q)).map((p) => {
    const e = make("polyline", { points: line(p), fill: "none", class: "dot", "stroke-width": p.front ? 2 : 1, style: `stroke:${tinted(p)};opacity:${kept(p) ? (p.front ? 0.9 : 0.35) : 0.03}` });
    e.onclick = () => pick(p);
    return e;
  });
  for (const p of feasible) if (p.paper) parts.push(make("polyline", { points: line(p), fill: "none", "stroke-width": 3, "stroke-dasharray": "8 4", style: "stroke:var(--star);pointer-events:none" }));
  if (picked) parts.push(make("polyline", { points: line(picked), class: "picked" }));
  names.forEach((n, i) => {
    const X = at(i), s = scales.get(n), [a, b] = ranges.get(n) ?? [0, 1];
    parts.push(make("line", { x1: X, x2: X, y1: up(1), y2: up(0), stroke: "var(--ink)" }), make("text", { x: i ? (i < names.length - 1 ? X : w - 4) : 4, y: i % 2 ? 34 : 16, "text-anchor": i ? (i < names.length - 1 ? "middle" : "end") : "start" }, brief(n)));
    for (const [t, text] of s.ticks.length > 8 || !parameters.includes(n) ? [s.ticks[0], s.ticks[s.ticks.length - 1]] : s.ticks) parts.push(make("text", { x: X + 5, y: up(t) + (t === 1 ? 12 : t ? 4 : -3), class: "tick" }, text));
    if (ranges.has(n)) parts.push(make("rect", { x: X - 7, width: 14, y: up(b), height: Math.max(2, up(a) - up(b)), fill: "var(--mark)", opacity: 0.35 }));
    const grip = make("rect", { x: X - 14, width: 28, y: up(1) - 4, height: up(0) - up(1) + 8, fill: "transparent", style: "cursor:ns-resize", tabindex: 0, role: "slider", "data-axis": n,
      "aria-label": `${n}, kept from ${Math.round(100 * a)} to ${Math.round(100 * b)} per cent of its range`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * b) });
    grip.onpointerdown = (e) => drag(n, e, (ev) => {
      const r = box.getBoundingClientRect();
      return Math.min(1, Math.max(0, (h - low - ((ev.clientY - r.top) * h) / r.height) / (h - top - low)));
    });
    grip.onkeydown = (e) => {
      const by = { ArrowUp: s.step, ArrowDown: -s.step }[e.key];
      if (e.key === "Delete" || e.key === "Escape") ranges.delete(n);
      else if (by && e.shiftKey) ranges.set(n, [Math.min(b, Math.max(0, a + by)), b]);
      else if (by) ranges.set(n, [a, Math.max(a, Math.min(1, b + by))]);
      else return;
      e.preventDefault();
      draw();
    };
    parts.push(grip);
  });
  box.replaceChildren(...parts);
  if (focused) [...box.querySelectorAll("rect[data-axis]")].find((e) => e.dataset.axis === focused)?.focus();
  $("kept").textContent = ranges.size ? `${feasible.filter(kept).length} of ${feasible.length} points are within` : "";
}
function drag(name, begin, where) {
  const first = where(begin);
  let moved = false;
  const move = (ev) => {
    const t = where(ev);
    moved ||= Math.abs(t - first) > 0.02;
    if (moved) { ranges.set(name, [Math.min(first, t), Math.max(first, t)]); draw(); }
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", () => {
    window.removeEventListener("pointermove", move);
    if (!moved) { ranges.delete(name); draw(); }
  }, { once: true });
}
$("free").onclick = () => { ranges.clear(); draw(); };

let order = [[...goals.keys(), ...metrics][0], 1];
function table() {
  const t = $("points");
  t.replaceChildren();
  const head = t.createTHead().insertRow();
  for (const n of names) {
    const th = html("th", ""), up = order[0] === n ? (order[1] > 0 ? " ▲" : " ▼") : "";
    th.setAttribute("aria-sort", up ? (order[1] > 0 ? "ascending" : "descending") : "none");
    th.append(html("button", brief(n) + up, { type: "button", onclick: () => { order = [n, order[0] === n ? -order[1] : 1]; table(); } }));
    head.append(th);
  }
  const body = t.createTBody();
  const rows = feasible.filter(kept).sort((a, b) => {
    const u = value(a, order[0]), v = value(b, order[0]);
    return order[1] * (typeof u === "number" && typeof v === "number" ? u - v : String(u).localeCompare(String(v)));
  });
  for (const p of rows) {
    const row = body.insertRow();
    row.className = [p.front && "front", p.paper && "paper", p === picked && "picked"].filter(Boolean).join(" ");
    row.tabIndex = 0;
    row.onclick = () => pick(p);
    row.onkeydown = (e) => { if (e.key === "Enter") pick(p); };
    for (const n of names) row.insertCell().textContent = shown(value(p, n)) + (p.standard_errors[n] ? ` ± ${shown(p.standard_errors[n])}` : "");
    if (p.page) row.cells[0].replaceChildren(html("a", row.cells[0].textContent, { href: p.page }));
  }
}

function importance() {
  const box = $("importance");
  for (const [goal, shares] of Object.entries(report.importance)) {
    box.append(html("p", goal));
    for (const [n, share] of Object.entries(shares)) {
      const row = html("div", "", { className: "bar" }), bar = document.createElement("i");
      bar.style.width = `${100 * share}%`;
      row.append(html("span", brief(n)), bar, html("span", `${(100 * share).toFixed(0)} %`));
      box.append(row);
    }
  }
}

function infeasible() {
  const reasons = new Map();
  for (const p of report.points) if (p.infeasible) reasons.set(p.infeasible, (reasons.get(p.infeasible) ?? 0) + 1);
  if (!reasons.size) return;
  const list = document.createElement("ul");
  for (const [reason, count] of [...reasons].sort((a, b) => b[1] - a[1]).slice(0, 20)) list.append(html("li", `${count}: ${reason}`));
  $("infeasible").append(html("h2", "Infeasible"), list);
}

function draw() { scatter(); parallel(); table(); }
findFront();
draw();
importance();
infeasible();
if (feasible.some((p) => p.paper)) pick(feasible.find((p) => p.paper));
