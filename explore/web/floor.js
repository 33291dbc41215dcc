// The chip from above: banks with their MATs, numbered at the edges; the number in a lit sub-array is the copy it holds.
const floorPane = (() => {
  const [bankRows, bankCols] = D.machine.banks, [matRows, matCols] = D.machine.mats;
  const CELL = 10, GAP = 4, EDGE = 16;
  const wide = matCols * CELL + GAP, high = matRows * CELL + GAP;
  if (bankRows * bankCols * matRows * matCols > 16384) {
    $("#floor").append(make("p", { className: "dim" }, "This chip has too many sub-arrays to draw; choose one by its number in the search."));
    return { move() {} };
  }
  const parts = [];
  const every = (n) => (n > 24 ? 8 : n > 12 ? 4 : 2);
  for (let r = 0; r < bankRows; r++) if (r % every(bankRows) === 0) parts.push(`<text x="${EDGE - 4}" y="${EDGE + r * high + (high - GAP) / 2}" text-anchor="end" dominant-baseline="central">${r}</text>`);
  for (let c = 0; c < bankCols; c++) if (c % every(bankCols) === 0) parts.push(`<text x="${EDGE + c * wide + (wide - GAP) / 2}" y="${EDGE - 6}" text-anchor="middle">${c}</text>`);
  for (let r = 0; r < bankRows; r++) for (let c = 0; c < bankCols; c++) parts.push(`<rect class="bank" x="${EDGE + c * wide}" y="${EDGE + r * high}" width="${matCols * CELL}" height="${matRows * CELL}"/>`);
  const array = new Map(); // sub-array -> kind
  D.matrices.forEach(([, , kind, , , , , tiles]) => { for (let t = 0; t < tiles.length; t += 8) array.set(tiles[t], kind); });
  const at = new Map();
  for (const [s, br, bc, mr, mc] of subArrays) {
    const x = EDGE + bc * wide + mc * CELL, y = EDGE + br * high + mr * CELL;
    at.set(s, [x, y]);
    parts.push(`<rect class="s" data-s="${s}" x="${x + 0.4}" y="${y + 0.4}" width="9.2" height="9.2" rx="${array.get(s) === "transposable" ? 4.6 : 0.8}"/>`);
  }
  const w = EDGE + bankCols * wide - GAP + 2, h = EDGE + bankRows * high - GAP + 2;
  $("#floor").innerHTML = `<svg class="chip" viewBox="0 0 ${w} ${h}" tabindex="0" role="img" aria-label="Banks and sub-arrays; arrow keys move the selection">${parts.join("")}<g class="copies"></g><rect class="pointer" width="10" height="10" visibility="hidden"/></svg>`;
  const svg = $("#floor svg"), shapes = new Map(all(".s", svg).map((e) => [+e.dataset.s, e])), pointer = $(".pointer", svg), copies = $(".copies", svg);
  $("#floor-legend").append(make("li", {}, make("i", { style: "background:var(--dim)" }), "compute"),
    ...(new Set(array.values()).has("transposable") ? [make("li", {}, make("i", { style: "background:var(--dim);border-radius:50%" }), "transposable")] : []),
    make("li", {}, make("i", { style: "background:var(--free)" }), "free"), make("li", {}, "edges: bank row and column"));

  const value = (s) => {
    const e = entries[state.entry];
    const mats = new Set((tilesOf.get(s) ?? []).map(([m]) => m));
    if (state.heat === "cycles" || state.heat === "energy") {
      let sum = 0;
      mats.forEach((m) => matrixInstr[m].forEach((i) => { sum += (state.heat === "cycles" ? e.cyclesOf : e.joulesOf)[i]; }));
      return sum;
    }
    const layers = new Set();
    mats.forEach((m) => { if (D.matrices[m][1] !== "scratch") matrixInstr[m].forEach((i) => layers.add(D.code.layer[i])); });
    return heatOf([...layers]);
  };
  const heat = () => {
    const values = new Map([...shapes.keys()].map((s) => [s, value(s)]));
    const most = Math.max(1e-30, ...[...values.values()].map((v) => v ?? 0));
    shapes.forEach((shape, s) => {
      const v = values.get(s);
      const level = v === null ? null : state.heat === "bound" ? heatLevel(v) : Math.sqrt(v / most);
      shape.style.fill = level === null ? "" : heatColour(level);
    });
  };
  const show = () => {
    svg.classList.toggle("picked", !!state.sel);
    shapes.forEach((shape, s) => shape.classList.toggle("lit", lit.subs.has(s)));
    const one = state.sel && state.sel[0] === "sub" ? at.get(state.sel[1]) : null;
    pointer.setAttribute("visibility", one ? "visible" : "hidden");
    if (one) { pointer.setAttribute("x", one[0]); pointer.setAttribute("y", one[1]); }
    const marks = [];
    if (state.sel && state.sel[0] !== "sub") {
      const mats = new Set();
      lit.instr.forEach((on, i) => { if (on && D.code.matrix[i] >= 0 && D.matrices[D.code.matrix[i]][5] > 1) mats.add(D.code.matrix[i]); });
      const of = new Map();
      mats.forEach((m) => { const t = D.matrices[m][7]; for (let k = 0; k < t.length; k += 8) { if (!of.has(t[k])) of.set(t[k], new Set()); of.get(t[k]).add(t[k + 7] + 1); } });
      of.forEach((set, s) => { const [x, y] = at.get(s); marks.push(`<text x="${x + 5}" y="${y + 5.3}" text-anchor="middle" dominant-baseline="central">${set.size > 1 ? "+" : [...set][0]}</text>`); });
    }
    copies.innerHTML = marks.join("");
    $("#floor-count").textContent = state.sel ? `${lit.subs.size} of ${shapes.size} in use lit` : `${shapes.size} of ${D.machine.subarrays} in use`;
  };
  svg.addEventListener("click", (e) => { const s = e.target.dataset && e.target.dataset.s; if (s !== undefined) select("sub", +s, "floor"); });
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", (e) => {
    const move = moves[e.key];
    if (!move) return;
    e.preventDefault();
    const now = state.sel && state.sel[0] === "sub" ? at.get(state.sel[1]) : null;
    if (!now) { select("sub", subArrays[0][0], "floor"); return; }
    let best = null, least = Infinity;
    at.forEach(([x, y], s) => {
      const along = (x - now[0]) * move[0] + (y - now[1]) * move[1], aside = Math.abs((x - now[0]) * move[1]) + Math.abs((y - now[1]) * move[0]);
      if (along > 1 && along + 3 * aside < least) { least = along + 3 * aside; best = s; }
    });
    if (best !== null) select("sub", best, "floor");
  });
  on("sel", show);
  on("entry", "heat", heat);
})();
