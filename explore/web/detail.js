// What is selected, in words, and where its counterparts are.
const detailPane = (() => {
  const pane = $("#detail");
  const rows = (pairs) => make("dl", {}, ...pairs.filter(([, v]) => v !== null && v !== "").flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, v)]));
  const chips = (title, list, most = 12) => (list.length ? [make("h3", {}, `${title} (${list.length})`), make("p", { className: "chips" }, ...list.slice(0, most).map(([text, kind, number]) => make("button", { onclick: () => select(kind, number) }, text)), list.length > most ? make("span", { className: "dim" }, ` and ${list.length - most} more`) : null)] : []);
  const costs = (layers, phases) => entries.map((e) => {
    let cycles = 0, joules = 0;
    layers.forEach((l) => D.phases.forEach((_, p) => { if (phases & (1 << p)) { cycles += e.byPhase[l][p][0]; joules += e.byPhase[l][p][1]; } }));
    return [entryTitle(e).toLowerCase(), cycles || joules ? `${si(Math.round(cycles), "")} cycles (${percent(cycles / e.cycles)}), ${si(joules, "J")}` : "–"];
  });
  const bounds = (layers) => layers.filter((l) => D.layers[l].bound && D.layers[l].shares[0]).map((l) => ["bound of an inference", `${si(D.layers[l].bound, "")} cycles; it takes × ${(D.layers[l].shares[0][0] / D.layers[l].bound).toFixed(2)}, bound by ${D.units[D.layers[l].shares[0][3]].replace("_", " ")}`]);
  const copies = (layers) => layers.filter((l) => D.layers[l].copies).map((l) => ["copies", `${D.layers[l].copies}${D.layers[l].side > 1 ? `, ${D.layers[l].side} output pixels side by side` : ""}, in ${D.layers[l].subarrays} sub-arrays`]);
  const counterparts = (kind) => {
    const stage = D.stages[state.stage], onnx = D.stages[0];
    const items = (s) => [...new Set(s.items.filter((i) => itemLit(i)))].map((i) => [`${D.items[i][1]} ${D.items[i][0]}`, "item", i]);
    const instrs = [];
    lit.instr.forEach((on, i) => { if (on) instrs.push([`${i} ${D.lines[lineOf[i]].trim().split(" ")[0]}`, "instr", i]); });
    return [...chips(onnx.name, items(onnx), 8), ...(stage === onnx ? [] : chips(stage.name, items(stage), 8)), ...chips("instructions", instrs, 8),
      ...(kind === "sub" ? [] : chips("sub-arrays", [...lit.subs].map((s) => [String(s), "sub", s]), 16))];
  };
  const tileColour = (k) => `var(${["--k-row_decoder", "--k-buffer", "--k-shift_adder", "--k-periphery", "--k-column_decoder", "--k-control"][k % 6]})`;
  const before = (item) => { // its statement before the pass of this step
    const stage = D.stages[state.stage], was = stage.was[stage.items.indexOf(item)];
    return was === undefined ? [] : [make("p", { className: "dim" }, `before ${stage.name}`), make("pre", {}, D.items[was][2]), make("p", { className: "dim" }, "after it")];
  };
  const tiles = (s) => {
    const { rows: high, columns: wide } = D.machine, found = tilesOf.get(s) ?? [];
    const svg = `<svg class="tiles" viewBox="0 0 ${2 * wide * 4} ${high * 4}" preserveAspectRatio="none" role="img" aria-label="Matrices in the rows and weight columns of the sub-array">${found.map(([m, row, col, , , r, c], k) =>
      `<rect x="${col * 8}" y="${row * 4}" width="${c * 8}" height="${r * 4}" fill="${tileColour(k)}"/>`).join("")}</svg>`;
    const box = make("div", { className: "tilebox" });
    box.innerHTML = svg;
    return box;
  };
  const most = (words, value, text) => {
    const best = D.layers.map((layer, l) => [l, layer.names.length ? value(layer, l) ?? 0 : 0]).sort((a, b) => b[1] - a[1])[0];
    return best && best[1] > 0 ? [words, make("button", { className: "link", onclick: () => select("layer", best[0]) }, `${short(best[0])}, ${text(best[1])}`)] : null;
  };
  const begin = rows([
    ...entries.map((e, k) => most(`slowest, ${entryTitle(e).toLowerCase()}`, (layer) => layer.shares[k]?.[0], (v) => percent(v / e.cycles))),
    ...entries.map((e, k) => most(`most energy, ${entryTitle(e).toLowerCase()}`, (layer) => layer.shares[k]?.[1], (v) => percent(v / e.joules))),
    most("furthest from its bound", (layer) => (layer.bound && layer.shares[0] ? layer.shares[0][0] / layer.bound : 0), (v) => `× ${v.toFixed(2)}`),
    most("most copies", (layer) => (layer.copies > 1 ? layer.copies : 0), String), most("most of the buffer", (layer) => Math.max(0, ...layer.shares.map((s) => s?.[2] ?? 0)), (v) => si(v, "B")),
  ].filter(Boolean));
  const show = () => {
    $("#clear").hidden = !state.sel;
    if (!state.sel) {
      pane.replaceChildren(make("p", { className: "dim" }, "Choose a node, an instruction, a sub-array, a moment or a layer: what belongs to it lights up everywhere. To begin with:"), begin);
      return;
    }
    const [kind, number] = state.sel, layers = [...lit.layers];
    const inside = [];
    if (kind === "item") {
      const [label, op, text] = D.items[number];
      inside.push(make("h3", { className: "title" }, label), make("p", { className: "dim" }, op), ...before(number), make("pre", {}, text), rows([...costs(layers, lit.phases), ...bounds(layers), ...copies(layers)]));
    } else if (kind === "layer") {
      inside.push(make("h3", { className: "title" }, short(number)), make("p", { className: "dim" }, whole(number)), rows([...costs(layers, ALL_PHASES), ...bounds(layers), ...copies(layers)]));
    } else if (kind === "sub") {
      const at = subArrays.find(([s]) => s === number), found = tilesOf.get(number) ?? [];
      if (at) inside.push(make("h3", { className: "title" }, `Sub-array ${number}`), rows([["bank", `row ${at[1]}, column ${at[2]}`], ["MAT", `row ${at[3]}, column ${at[4]}`], ["activation group", String(Math.floor(number / D.machine.group))],
        ["filled", percent(found.reduce((a, [, , , , , r, c]) => a + r * c, 0) / (D.machine.rows * D.machine.columns))]]), tiles(number));
      inside.push(make("ul", { className: "held" }, ...found.slice(0, 24).map(([m, row, col, , , r, c, copy], k) => make("li", {}, make("i", { style: `background:${tileColour(k)}` }), make("button", { className: "link", onclick: () => matrixInstr[m].length && select("instr", matrixInstr[m][0]) }, D.matrices[m][0]),
        ` rows ${row} to ${row + r - 1}, columns ${col} to ${col + c - 1}${D.matrices[m][5] > 1 ? `, copy ${copy + 1} of ${D.matrices[m][5]}` : ""}`)), found.length > 24 ? make("li", { className: "dim" }, `and ${found.length - 24} more tiles`) : null));
    } else {
      const m = kind === "time" ? moment(number) : null, i = m ? m.instr : number;
      inside.push(make("h3", { className: "title" }, m ? `Moment ${si(m.begin / D.machine.clock, "s")}` : `Instruction ${i}`), make("pre", {}, D.lines[lineOf[i]].trim()),
        rows([...(m ? [["execution", `cycles ${Math.round(m.begin)} to ${Math.round(m.end)} of the ${entryTitle(entries[state.entry]).toLowerCase()}`]] : []), ["phase", D.phases[D.code.phase[i]]],
          ["layer", layersOfInstr(i).map(short).slice(0, 6).join(", ")], ["matrix", D.code.matrix[i] >= 0 ? D.matrices[D.code.matrix[i]][0] : ""],
          ...entries.map((e) => [entryTitle(e).toLowerCase(), e.times[i] ? `${e.times[i]} times, ${si(Math.round(e.cyclesOf[i]), "")} cycles, ${si(e.joulesOf[i], "J")}` : "not executed"])]));
    }
    pane.replaceChildren(...inside, ...counterparts(kind));
    pane.parentElement.scrollTop = 0;
  };
  $("#clear").addEventListener("click", () => select(null));
  on("sel", "stage", "entry", show);
  return {};
})();
