// Layers as a table: bound, what binds, copies, and what an inference and a training step cost apart.
const layersPane = (() => {
  const table = $("#layers"), head = table.tHead, body = table.tBodies[0];
  const steps = entries.filter((e) => e.trains);
  const columns = [["no.", (l) => l + 1, (v) => v, "n dim"], ["layer", (l) => short(l), null, "name"]];
  const heads = [["", 2]];
  const bar = (parts, most) => `<span class="bar">${parts.map(([v, c]) => (v ? `<i style="width:${((100 * v) / most).toFixed(2)}%;background:${c}"></i>` : "")).join("")}</span>`;
  entries.forEach((e, k) => {
    const most = Math.max(1, ...D.layers.map((layer) => layer.shares[k]?.[0] ?? 0));
    const part = (l, i) => D.layers[l].shares[k]?.[i] ?? null;
    const of = [["cycles", (l) => part(l, 0), (v) => (v === null ? "–" : si(Math.round(v), "")), "n"],
      ["", (l) => part(l, 0), (v, l) => { const s = D.layers[l].shares[k]; return s ? bar(s[4].map((c, p) => [c, `var(--p-${D.phases[p]})`]), most) : ""; }, "bars"],
      ["of all", (l) => (part(l, 0) ?? 0) / e.cycles, (v) => percent(v), "n dim"],
      ["energy", (l) => part(l, 1), (v) => (v === null ? "–" : si(v, "J")), "n"],
      ["busiest unit", (l) => (part(l, 3) === null ? "" : D.units[part(l, 3)].replace("_", " ")), null, "dim"]];
    if (!e.trains) of.splice(3, 0, ["bound", (l) => D.layers[l].bound, (v) => (v ? si(v, "") : "–"), "n dim"],
      ["× bound", (l) => (D.layers[l].bound && part(l, 0) ? part(l, 0) / D.layers[l].bound : null), (v) => (v ? v.toFixed(2) : "–"), "n"]);
    heads.push([`${entryTitle(e)}${e.images > 1 ? `, ${e.images} images` : ""}`, of.length]);
    columns.push(...of);
  });
  const machine = [["copies", (l) => D.layers[l].copies || null, (v) => v ?? "–", "n"], ["tiles", (l) => D.layers[l].tiles || null, (v) => v ?? "–", "n dim"],
    ["side by side", (l) => (D.layers[l].copies ? D.layers[l].side : null), (v) => v ?? "–", "n dim"], ["sub-arrays", (l) => D.layers[l].subarrays || null, (v) => v ?? "–", "n dim"],
    ["buffer", (l) => Math.max(0, ...D.layers[l].shares.map((s) => s?.[2] ?? 0)), (v) => (v ? si(v, "B") : "–"), "n dim"]];
  heads.push(["On the chip", machine.length]);
  columns.push(...machine);
  if (D.run) {
    const of = [["energy", (l) => D.run.joules[l], (v) => si(v, "J"), "n"], ["of all", (l) => D.run.joules[l] / D.run.total, percent, "n dim"]];
    heads.push([`The run, ${D.run.images} images`, of.length]);
    columns.push(...of);
  }
  head.append(make("tr", { className: "over" }, ...heads.map(([text, span]) => make("th", { colSpan: span, scope: "colgroup" }, text))),
    make("tr", {}, ...columns.map(([text, , , cls], c) => make("th", { scope: "col", className: cls.replace("dim", ""), tabIndex: cls === "bars" ? -1 : 0, onclick: () => sort(c), onkeydown: (e) => { if (e.key === "Enter") sort(c); } }, text))));
  const rows = D.layers.map((layer, l) => {
    const row = make("tr", { onclick: () => select("layer", l, "table") });
    row.innerHTML = columns.map(([, value, text, cls]) => { const v = value(l); return `<td class="${cls}">${text ? text(v, l) : ""}</td>`; }).join("");
    columns.forEach(([, value, text], c) => { if (!text) row.cells[c].textContent = value(l); });
    row.cells[1].replaceChildren(make("button", { className: "link", title: whole(l), onclick: (e) => { e.stopPropagation(); select("layer", l, "table"); } }, short(l)), ...(layer.names.length > 1 ? [make("small", { title: whole(l) }, ` +${layer.names.length - 1}`)] : []));
    return row;
  });
  body.append(...rows);
  const foot = table.createTFoot().insertRow();
  columns.forEach(([text], c) => foot.insertCell().append(c === 1 ? "sum" : ""));
  let c = 2;
  entries.forEach((e) => {
    foot.cells[c].textContent = si(e.cycles, ""); foot.cells[c].className = "n";
    const energy = c + (e.trains ? 3 : 5);
    if (!e.trains) {
      const bound = D.layers.reduce((a, layer) => a + (layer.bound ?? 0), 0);
      foot.cells[c + 3].textContent = bound ? si(bound, "") : "–"; foot.cells[c + 4].textContent = bound ? (e.cycles / bound).toFixed(2) : "–";
      foot.cells[c + 3].className = foot.cells[c + 4].className = "n";
    }
    foot.cells[energy].textContent = si(e.joules, "J"); foot.cells[energy].className = "n";
    c += e.trains ? 5 : 7;
  });
  const sort = (c) => {
    const at = head.rows[1].cells[c], down = at.getAttribute("aria-sort") !== "descending";
    all("th[aria-sort]", head).forEach((h) => h.removeAttribute("aria-sort"));
    at.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = D.layers.map((_, l) => l).sort((a, b) => {
      const [x, y] = [columns[c][1](a), columns[c][1](b)];
      return (down ? -1 : 1) * (typeof x === "string" ? -x.localeCompare(y, "en", { numeric: true }) : (x ?? -1) - (y ?? -1));
    });
    body.append(...order.map((l) => rows[l]));
  };
  const bounded = D.layers.some((layer) => layer.bound);
  $("#table-what").textContent = `press a heading to sort${bounded ? "" : "; bounds need the model: sasc explore MODEL.onnx"}${steps.length && bounded ? "; a layer that overlaps with others counts its share of their time, which may lie below its own bound" : ""}`;
  on("sel", () => rows.forEach((row, l) => row.classList.toggle("lit", !!state.sel && lit.layers.has(l))));
  return {};
})();
