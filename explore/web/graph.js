// The graph of a step: nodes are buttons, edges one drawing below them.
const NODE = { w: 168, h: 26, dx: 184, dy: 44 };
const MARKS = ["", "new", "changed"];
const graphPane = (() => {
  const canvas = $("#graph"), sheet = $(".sheet", canvas), slider = $("#stage"), gone = $("#gone");
  let buttons = [], zoom = 1;
  slider.max = D.stages.length - 1;
  const last = D.stages.length - 1; // forward, backward, together: the last three of a model that trains
  const parts = D.stages[last].backward ? [["Forward", last - 2], ["Backward", last - 1], ["Together", last]] : D.stages.flatMap((s, i) => (s.entry ? [[s.entry, i]] : []));
  $("#part").hidden = parts.length < 2;
  const choose = (stage) => { // errors and updates are part of a run that trains
    const trains = entries.findIndex((e) => (D.stages[stage].entry ? e.name === D.stages[stage].entry : e.trains));
    const away = D.stages[stage].entry || (stage === last - 1 && D.stages[last].backward);
    change({ stage, ...(away && trains >= 0 && trains !== state.entry ? { entry: trains } : {}) });
  };
  parts.forEach(([label, stage]) => $("#part").append(make("label", {}, make("input", { type: "radio", name: "part", value: stage, onchange: () => choose(stage) }), make("span", {}, label))));

  const place = (stage) => {
    const xs = stage.x.map((x) => (x / 100) * NODE.dx), ys = stage.y.map((y) => y * NODE.dy);
    return { xs, ys, wide: Math.max(0, ...xs) + NODE.w, high: Math.max(0, ...ys) + NODE.h };
  };
  const edge = (x1, y1, x2, y2, bends) => {
    let path = `M${x1.toFixed(0)} ${y1.toFixed(0)}`, x = x1, y = y1;
    for (const [bx, by] of [...bends, [x2, y2]]) {
      const half = (by - y) / 2;
      path += Math.abs(bx - x) < 1 ? `V${by.toFixed(0)}` : `C${x.toFixed(0)} ${(y + half).toFixed(0)} ${bx.toFixed(0)} ${(y + half).toFixed(0)} ${bx.toFixed(0)} ${by.toFixed(0)}`;
      [x, y] = [bx, by];
    }
    return path;
  };
  const draw = () => {
    const stage = D.stages[state.stage], { xs, ys, wide, high } = place(stage);
    const forward = stage.items.length - stage.backward;
    const lines = [], dashed = [], errors = [];
    for (let k = 0; k < stage.edges.length; k += 2) {
      const a = stage.edges[k], b = stage.edges[k + 1], bends = [];
      const flat = stage.bends[k / 2] ?? [];
      for (let j = 0; j < flat.length; j += 2) bends.push([(flat[j] / 100) * NODE.dx + NODE.w / 2, flat[j + 1] * NODE.dy + NODE.h / 2]);
      const up = ys[b] < ys[a], level = ys[a] === ys[b];
      if (level) {
        const y = ys[a] + NODE.h / 2, toRight = xs[b] > xs[a];
        (a >= forward ? errors : lines).push(`M${(xs[a] + (toRight ? NODE.w : 0)).toFixed(0)} ${y}H${(xs[b] + (toRight ? 0 : NODE.w)).toFixed(0)}`);
      } else (a >= forward && stage.backward ? errors : lines).push(edge(xs[a] + NODE.w / 2, ys[a] + (up ? 0 : NODE.h), xs[b] + NODE.w / 2, ys[b] + (up ? NODE.h : 0), bends));
    }
    for (let k = 0; k < stage.saved.length; k += 2) {
      const a = stage.saved[k], b = stage.saved[k + 1];
      const x1 = xs[a] + NODE.w, y1 = ys[a] + NODE.h / 2, x2 = xs[b], y2 = ys[b] + NODE.h / 2;
      dashed.push(`M${x1.toFixed(0)} ${y1}C${(x1 + 60).toFixed(0)} ${y1} ${(x2 - 60).toFixed(0)} ${y2} ${x2.toFixed(0)} ${y2}`);
    }
    sheet.innerHTML = `<svg width="${wide}" height="${high}" aria-hidden="true"><path class="saved" d="${dashed.join("")}"/><path class="errors" d="${errors.join("")}"/><path d="${lines.join("")}"/></svg>`;
    sheet.style.width = `${wide}px`; sheet.style.height = `${high}px`;
    buttons = stage.items.map((item, i) => {
      const [label, kind, text] = D.items[item], mark = MARKS[stage.marks[i] ?? 0];
      const b = make("button", { className: `node ${mark}`, tabIndex: -1, title: text, style: `left:${xs[i].toFixed(0)}px;top:${ys[i]}px`, onclick: () => select("item", item, "graph") },
        make("b", {}, kind), make("span", {}, label));
      if (mark) b.append(make("em", { title: mark }, mark === "new" ? "+" : "~"));
      sheet.append(b);
      return b;
    });
    const counts = [stage.marks.filter((m) => m === 1).length, stage.marks.filter((m) => m === 2).length, stage.gone.length];
    $("#stage-name").replaceChildren(make("b", {}, stage.name), ` ${stage.items.length} nodes`,
      ...(counts.some(Boolean) ? [make("span", { className: "new" }, `+ ${counts[0]} new`), make("span", { className: "changed" }, `~ ${counts[1]} changed`), make("span", { className: "lost" }, `− ${counts[2]} removed`)] : []));
    gone.hidden = !stage.gone.length;
    if (stage.gone.length) {
      $("summary", gone).textContent = `Removed by ${stage.name}: ${stage.gone.length}`;
      $("ul", gone).replaceChildren(...stage.gone.map((item) => make("li", {}, make("button", { className: "link", title: D.items[item][2], onclick: () => select("item", item) }, `${D.items[item][1]} ${D.items[item][0]}`))));
    }
    slider.value = state.stage;
    slider.setAttribute("aria-valuetext", stage.name);
    all("#part input").forEach((input) => { input.checked = +input.value === state.stage; });
    scale();
  };
  const scale = () => { sheet.style.zoom = zoom; };
  const heat = () => buttons.forEach((b, i) => {
    const item = D.stages[state.stage].items[i];
    const layers = [...new Set(D.items[item][3].flatMap((n) => nameLayers[n]))];
    const value = layers.length ? heatOf(layers, D.items[item][4]) : null, level = heatLevel(value);
    b.style.background = level === null ? "" : heatColour(level);
    b.classList.toggle("hot", level !== null && level > 0.62);
    b.classList.toggle("cold", level === null);
  });
  const show = (from) => {
    const items = D.stages[state.stage].items;
    let first = null;
    buttons.forEach((b, i) => {
      const on = itemLit(items[i]);
      b.classList.toggle("lit", !!on);
      b.classList.toggle("chosen", !!state.sel && state.sel[0] === "item" && state.sel[1] === items[i]);
      if (on && !first) first = b;
    });
    canvas.classList.toggle("picked", !!state.sel);
    if (first && from !== "graph") into(first);
  };
  const into = (b) => {
    const box = canvas.getBoundingClientRect(), at = b.getBoundingClientRect();
    if (at.top < box.top || at.bottom > box.bottom) canvas.scrollTop += at.top - box.top - box.height / 3;
    if (at.left < box.left || at.right > box.right) canvas.scrollLeft += at.left - box.left - 24;
  };
  const centre = () => { // begin where the graph begins
    const stage = D.stages[state.stage], { xs } = place(stage);
    const top = stage.y.indexOf(Math.min(...stage.y));
    canvas.scrollLeft = Math.max(0, zoom * (xs[top] + NODE.w / 2) - canvas.clientWidth / 2);
  };
  on("stage", (from) => { draw(); heat(); show(from); if (!state.sel) centre(); });
  on("entry", "heat", heat);
  on("entry", () => { // a program without its model has a drawing for every entry point
    const own = D.stages.findIndex((s) => s.entry === entries[state.entry].name);
    if (own >= 0 && own !== state.stage) change({ stage: own });
  });
  on("sel", show);
  slider.addEventListener("input", () => change({ stage: +slider.value }));
  const go = (by) => change({ stage: Math.min(D.stages.length - 1, Math.max(0, state.stage + by)) });
  $("#stage-back").addEventListener("click", () => go(-1));
  $("#stage-on").addEventListener("click", () => go(1));
  const zoomBy = (by) => { zoom = Math.min(2, Math.max(0.2, zoom * by)); scale(); sheet.classList.toggle("far", zoom < 0.5); };
  all("[data-zoom]").forEach((b) => b.addEventListener("click", () => zoomBy(b.dataset.zoom === "+" ? 1.25 : 0.8)));
  canvas.addEventListener("keydown", (e) => {
    if (e.key === "+" || e.key === "-") { zoomBy(e.key === "+" ? 1.25 : 0.8); return; }
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (!step) return;
    e.preventDefault();
    const items = D.stages[state.stage].items;
    const now = state.sel && state.sel[0] === "item" ? items.indexOf(state.sel[1]) : buttons.findIndex((b) => b.classList.contains("lit"));
    const next = Math.min(items.length - 1, Math.max(0, now + step));
    select("item", items[next], "graph");
    into(buttons[next]);
  });
  return { go, draw };
})();
