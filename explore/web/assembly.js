// The program: only the lines in sight exist.
const codePane = (() => {
  const list = $("#code"), rows = $(".rows", list), HIGH = 20;
  rows.style.height = `${D.lines.length * HIGH}px`;
  let top = -1;
  const most = () => { const e = entries[state.entry]; const of = state.heat === "energy" || state.heat === "measured" ? e.joulesOf : e.cyclesOf; return [of, of.reduce((a, b) => Math.max(a, b), 1e-30)]; };
  const draw = (force) => {
    const first = Math.max(0, Math.floor(list.scrollTop / HIGH) - 8);
    if (!force && first === top) return;
    top = first;
    const last = Math.min(D.lines.length, first + Math.ceil(list.clientHeight / HIGH) + 16);
    const [of, peak] = most();
    const out = [];
    for (let line = first; line < last; line++) {
      const i = D.at[line];
      const row = make("div", { className: `line${i < 0 ? " directive" : ""}${i >= 0 && lit.instr[i] ? " lit" : ""}${chosen() === i && i >= 0 ? " chosen" : ""}`, style: `top:${line * HIGH}px` });
      if (i >= 0) {
        row.dataset.i = i;
        row.append(make("i", { className: "phase", style: `background:var(--p-${D.phases[D.code.phase[i]]})`, title: D.phases[D.code.phase[i]] }), make("span", { className: "no" }, String(i)),
          make("span", { className: "gauge" }, make("i", { style: `width:${(100 * Math.sqrt(of[i] / peak)).toFixed(1)}%` })));
      } else row.append(make("i", { className: "phase" }), make("span", { className: "no" }), make("span", { className: "gauge" }));
      row.append(make("code", {}, D.lines[line]));
      out.push(row);
    }
    rows.replaceChildren(...out);
  };
  const chosen = () => (!state.sel ? -1 : state.sel[0] === "instr" ? state.sel[1] : state.sel[0] === "time" ? moment(state.sel[1]).instr : -1);
  const to = (i) => {
    const at = lineOf[i] * HIGH;
    if (at < list.scrollTop || at > list.scrollTop + list.clientHeight - HIGH) list.scrollTop = Math.max(0, at - list.clientHeight / 3);
  };
  const show = (from) => {
    const count = lit.instr.reduce((a, b) => a + b, 0);
    $("#code-count").textContent = state.sel ? `${count} of ${COUNT} lit` : `${COUNT} instructions`;
    if (from !== "code" && state.sel) {
      const e = entries[state.entry];
      let i = chosen();
      if (i < 0) i = lit.instr.findIndex((on, k) => on && e.executed[k]); // one that this run executes, if there is one
      if (i < 0) i = lit.first;
      if (i >= 0) to(i);
    }
    draw(true);
  };
  let mark = -1;
  const flash = (i) => { draw(true); const row = rows.querySelector(`[data-i="${i}"]`); if (row) row.classList.add("here"); };
  const walk = (by) => { // through the lit lines, without losing what is selected
    let i = mark < 0 || !lit.instr[mark] ? (by > 0 ? -1 : COUNT) : mark;
    for (i += by; i >= 0 && i < COUNT; i += by) if (lit.instr[i]) { mark = i; to(i); flash(i); return; }
  };
  list.addEventListener("scroll", () => draw(false));
  list.addEventListener("click", (e) => { const row = e.target.closest(".line"); if (row && row.dataset.i) select("instr", +row.dataset.i, "code"); });
  list.addEventListener("keydown", (e) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (!step) return;
    e.preventDefault();
    const i = Math.min(COUNT - 1, Math.max(0, (chosen() < 0 ? lit.first : chosen()) + step));
    select("instr", i, "code"); to(i); draw(true);
  });
  $("#code-back").addEventListener("click", () => walk(-1));
  $("#code-on").addEventListener("click", () => walk(1));
  on("sel", show);
  on("entry", "heat", () => draw(true));
  new ResizeObserver(() => draw(true)).observe(list);
  return { walk };
})();
