// Head, costs, search, keys, links, tabs; then everything is drawn once.
D.facts.forEach(([k, v]) => $("#facts").append(make("div", {}, make("dt", {}, k), make("dd", {}, v))));
entries.forEach((e, i) => {
  $("#entry").append(make("label", {}, make("input", { type: "radio", name: "entry", value: i, onchange: () => change({ entry: i, ...(state.sel && state.sel[0] === "time" ? { sel: null } : {}) }) }), make("span", {}, entryTitle(e))));
  const parts = (title, pairs, text) => make("div", { className: "stack" }, make("p", {}, title), make("span", { className: "bar" }, ...pairs.filter(([, v]) => v > 0).map(([name, v, colour]) => make("i", { style: `width:${((100 * v) / pairs.reduce((a, [, n]) => a + n, 0)).toFixed(3)}%;background:${colour}`, title: `${name}: ${text(v)}` }))),
    make("ul", { className: "legend" }, ...[...pairs].sort((a, b) => b[1] - a[1]).filter(([, v], k) => v > 0 && k < 4).map(([name, v, colour]) => make("li", {}, make("i", { style: `background:${colour}` }), `${name} ${text(v)}`))));
  const phases = D.phases.map((p, k) => [p, e.byPhase.reduce((a, layer) => a + layer[k][0], 0), `var(--p-${p})`]);
  const components = D.components.map(([key, name]) => [name, e.components[key] ?? 0, `var(--k-${key})`]);
  const onChip = e.joules - (e.components.host ?? 0);
  $("#costs").append(make("article", {}, make("h2", {}, `One ${entryTitle(e).toLowerCase()}`, make("small", {}, e.images > 1 ? ` ${e.images} images` : "")),
    make("div", { className: "figures" }, ...[[si(e.cycles, ""), "cycles"], [si(e.seconds, "s"), `at ${si(D.machine.clock, "Hz")}`], [si(e.joules, "J"), `${si(onChip, "J")} on the chip`]].map(([v, k]) => make("p", {}, make("strong", {}, v), make("span", { className: "dim" }, k)))),
    parts("energy by component", components, (v) => percent(v / e.joules)), e.trains ? parts("cycles by phase", phases, (v) => percent(v / e.cycles)) : bounded(e), furthest(e)));
});
function bounded(e) {
  const bound = D.layers.reduce((a, layer) => a + (layer.bound ?? 0), 0);
  if (!bound) return null;
  return make("div", { className: "stack" }, make("p", {}, `× ${(e.cycles / bound).toFixed(2)} of the bound, ${si(bound, "")} cycles`), make("span", { className: "bar" }, make("i", { style: `width:${((100 * bound) / e.cycles).toFixed(2)}%;background:var(--p-forward)` })),
    make("p", { className: "legend" }, "the rest: idle sub-arrays, partly filled rows, work that is no convolution"));
}
function furthest(e) {
  const worst = D.layers.map((layer, l) => [l, layer.bound && layer.shares[e.number] ? layer.shares[e.number][0] - layer.bound : 0]).sort((a, b) => b[1] - a[1]).slice(0, 5).filter(([, lost]) => lost > 0);
  return worst.length && !e.trains ? make("p", { className: "chips wide" }, make("span", { className: "dim" }, "most cycles above the bound"), ...worst.map(([l, lost]) => make("button", { onclick: () => select("layer", l) }, `${short(l)} +${si(lost, "")}`))) : null;
}
HEATS.forEach(([key, label]) => $("#heat").append(make("option", { value: key }, label)));
$("#heat").addEventListener("change", (e) => change({ heat: e.target.value }));

// search
const found = $("#found"), search = $("#search");
let hits = [], hit = -1;
const look = () => {
  const q = search.value.trim().toLowerCase();
  hits = [];
  if (q) {
    const number = q.match(/^(?:sub-?array|sub|instruction|instr)?\s*(\d+)$/);
    if (number && tilesOf.has(+number[1])) hits.push([`sub-array ${number[1]}`, "sub", +number[1]]);
    if (number && +number[1] < COUNT) hits.push([`instruction ${number[1]}: ${D.lines[lineOf[+number[1]]].trim()}`, "instr", +number[1]]);
    D.layers.forEach((_, l) => { if (hits.length < 40 && whole(l).toLowerCase().includes(q)) hits.push([`layer ${short(l)}`, "layer", l]); });
    D.stages[state.stage].items.forEach((i) => { if (hits.length < 40 && `${D.items[i][1]} ${D.items[i][0]}`.toLowerCase().includes(q)) hits.push([`${D.items[i][1]} ${D.items[i][0]}`, "item", i]); });
    D.stages[0].items.forEach((i) => { if (state.stage && hits.length < 40 && `${D.items[i][1]} ${D.items[i][0]}`.toLowerCase().includes(q)) hits.push([`ONNX ${D.items[i][1]} ${D.items[i][0]}`, "item", i]); });
    for (let i = 0; i < COUNT && hits.length < 60; i++) if (D.lines[lineOf[i]].toLowerCase().includes(q)) hits.push([`${i} ${D.lines[lineOf[i]].trim()}`, "instr", i]);
  }
  hit = -1;
  found.hidden = !q;
  search.setAttribute("aria-expanded", String(!!q));
  found.replaceChildren(...(hits.length ? hits.map(([text, kind, n]) => make("li", { role: "option", onmousedown: (e) => { e.preventDefault(); take(kind, n); } }, text)) : [make("li", { className: "dim" }, "nothing found")]));
};
const take = (kind, n) => { found.hidden = true; search.setAttribute("aria-expanded", "false"); search.blur(); select(kind, n); };
search.addEventListener("input", look);
search.addEventListener("focus", look);
search.addEventListener("blur", () => { found.hidden = true; });
search.addEventListener("keydown", (e) => {
  if (e.key === "ArrowDown" || e.key === "ArrowUp") {
    e.preventDefault();
    hit = Math.min(hits.length - 1, Math.max(0, hit + (e.key === "ArrowDown" ? 1 : -1)));
    all("li", found).forEach((li, i) => { li.setAttribute("aria-selected", String(i === hit)); if (i === hit) li.scrollIntoView({ block: "nearest" }); });
  } else if (e.key === "Enter" && hits.length) take(...hits[Math.max(0, hit)].slice(1));
  else if (e.key === "Escape") { search.value = ""; search.blur(); e.stopPropagation(); }
});

// keys
addEventListener("keydown", (e) => {
  if (e.target.matches("input[type=search], select") || e.ctrlKey || e.metaKey || e.altKey) return;
  const keys = { "/": () => search.focus(), "[": () => graphPane.go(-1), "]": () => graphPane.go(1), Escape: () => select(null), n: () => codePane.walk(1), p: () => codePane.walk(-1),
    r: () => change({ entry: (state.entry + 1) % entries.length, ...(state.sel && state.sel[0] === "time" ? { sel: null } : {}) }), "?": () => $("#help").showModal() };
  const heat = HEATS[+e.key - 1];
  if (heat) change({ heat: heat[0] });
  else if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
});
$("#keys").addEventListener("click", () => $("#help").showModal());

// tabs of a narrow page
all("[data-tab]", $(".tabs")).forEach((b) => b.addEventListener("click", () => { document.body.dataset.tab = b.dataset.tab; tabs(); scrollTo(0, 0); }));
const tabs = () => all("[data-tab]", $(".tabs")).forEach((b) => b.setAttribute("aria-current", String(b.dataset.tab === document.body.dataset.tab)));

// the address says what is shown
const write = () => {
  const parts = { run: entries[state.entry].name, step: state.stage, heat: state.heat, ...(state.sel ? { sel: state.sel.join(".") } : {}) };
  const hash = `#${new URLSearchParams(parts)}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
};
const read = () => {
  const said = new URLSearchParams(location.hash.slice(1));
  const entry = Math.max(0, entries.findIndex((e) => e.name === said.get("run")));
  const own = D.stages.findIndex((s) => s.entry === entries[entry].name);
  const step = said.has("step") ? +said.get("step") : own >= 0 ? own : D.stages.length - 1;
  const heat = HEATS.some(([k]) => k === said.get("heat")) ? said.get("heat") : "cycles";
  const [kind, number] = (said.get("sel") ?? "").split(".");
  const sizes = { item: D.items.length, layer: D.layers.length, instr: COUNT, sub: D.machine.subarrays, time: entries[entry].timeline.kind.length };
  const sel = kind in sizes && +number >= 0 && +number < sizes[kind] ? [kind, +number] : null;
  change({ entry, heat, stage: Math.min(D.stages.length - 1, Math.max(0, step | 0)), sel });
};
on("entry", "stage", "heat", "sel", () => {
  all("#entry input").forEach((input) => { input.checked = +input.value === state.entry; });
  $("#heat").value = state.heat;
  $("#heat-low").textContent = state.heat === "bound" ? "× 1" : "0";
  $("#heat-high").textContent = heatText(heatTop);
  $(".tabs [data-tab=detail]").classList.toggle("has", !!state.sel);
  write();
});
addEventListener("hashchange", read);
addEventListener("beforeprint", () => timePane.draw());
read();
tabs();
