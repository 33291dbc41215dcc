"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  const prefixes = [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]];
  const count = (n) => {
    if (n < 1e4) return String(n);
    const [letter, factor] = prefixes.find(([, f]) => n >= f * 0.9995);
    return `${(n / factor).toPrecision(3)} ${letter}`;
  };

  // tables: press a heading to sort, numbers largest first
  for (const table of all("table.sortable")) {
    table.classList.add("ready");
    const body = table.tBodies[0];
    all("thead th:not(.bars)", table).forEach((head) => {
      const column = head.cellIndex;
      const sort = () => {
        const down = head.getAttribute("aria-sort") !== "descending" && head.classList.contains("n");
        const up = head.getAttribute("aria-sort") === "descending" || (!head.classList.contains("n") && head.getAttribute("aria-sort") !== "ascending");
        all("th[aria-sort]", table).forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down || !up ? "descending" : "ascending");
        const sign = down || !up ? -1 : 1;
        const value = (row) => {
          const cell = row.cells[column];
          const number = cell.dataset.v ?? (cell.classList.contains("n") ? parseFloat(cell.textContent) : null);
          return number === null ? cell.textContent : Number.isNaN(+number) ? -Infinity : +number;
        };
        const rows = [...body.rows].map((row) => [value(row), row]);
        rows.sort(([a], [b]) => sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b));
        body.append(...rows.map(([, row]) => row));
        if (table.classList.contains("layers")) [...body.rows].forEach((row, i) => row.classList.toggle("more", i >= 15));
      };
      head.tabIndex = 0;
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (e) => {
        if (e.key === "Enter" || e.key === " ") { e.preventDefault(); sort(); }
      });
    });
  }
  for (const button of all("button[data-more]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      document.getElementById(button.dataset.more).classList.add("whole");
      button.remove();
    });
  }
  addEventListener("beforeprint", () => all("details:not([open])").forEach((d) => { d.open = true; d.dataset.opened = ""; }));
  addEventListener("afterprint", () => all("details[data-opened]").forEach((d) => { d.open = false; delete d.dataset.opened; }));

  // links to a row of the table of layers that is shown
  document.addEventListener("click", (e) => {
    const link = e.target.closest("[data-layer-link]");
    const row = link && all("tr[data-layer]").find((r) => r.dataset.layer === link.dataset.layerLink && r.closest(".view")?.offsetParent !== null);
    if (!row) return;
    e.preventDefault();
    row.closest("table").classList.add("whole");
    all("tr.found").forEach((r) => r.classList.remove("found"));
    row.classList.add("found");
    row.scrollIntoView({ block: "center" });
  });

  // curves: the value under the pointer
  for (const plot of all(".plot[data-chart]")) {
    const script = all("script[data-for-chart]").find((e) => e.dataset.forChart === plot.dataset.chart);
    const cursor = plot.querySelector(".cursor");
    if (!script || !cursor) continue;
    const points = JSON.parse(script.textContent);
    const label = cursor.appendChild(document.createElement("b"));
    const show = (e) => {
      const box = plot.getBoundingClientRect();
      const x = Math.min(1, Math.max(0, (e.clientX - box.left) / box.width));
      let i = points.findIndex(([at]) => at > x);
      i = (i < 0 ? points.length : i) - 1;
      label.textContent = points[Math.max(0, i)][1];
      cursor.style.left = `${100 * x}%`;
      cursor.classList.toggle("left", x > 0.5);
      cursor.hidden = false;
    };
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointerleave", () => { cursor.hidden = true; });
  }

  // floor plan
  const plan = document.querySelector(".fp");
  if (plan) {
    const { layers, subarrays } = JSON.parse(document.getElementById("fp-data").textContent);
    const chip = plan.querySelector(".chip");
    const pointer = plan.querySelector(".pointer");
    const panel = plan.querySelector(".panel");
    const shapes = all(".s", chip);
    let current = -1;
    const select = (i) => {
      if (i < 0 || i === current) return;
      current = i;
      const [index, br, bc, mr, mc, kind, filled, driven, written, parts] = subarrays[i];
      pointer.removeAttribute("hidden");
      pointer.setAttribute("x", shapes[i].getAttribute("x") - 0.4);
      pointer.setAttribute("y", shapes[i].getAttribute("y") - 0.4);
      const rows = [["bank", `${br}, ${bc}`], ["MAT", `${mr}, ${mc}`], ["kind", kind], ["filled", `${filled} %`], ["lines driven", count(driven)], ["row writes", count(written)]];
      panel.textContent = "";
      const add = (parent, tag, text) => { const e = parent.appendChild(document.createElement(tag)); if (text !== undefined) e.textContent = text; return e; };
      add(panel, "h3", `Sub-array ${index}`);
      const list = add(panel, "dl");
      rows.forEach(([k, v]) => { add(list, "dt", k); add(list, "dd", v); });
      const held = add(panel, "ul");
      parts.slice(0, 8).forEach(([layer, weights]) => {
        const item = add(held, "li"), link = add(item, "a", layers[layer]);
        link.href = "#layers";
        link.dataset.layerLink = layers[layer];
        item.append(`: ${count(weights)} weights`);
      });
      if (parts.length > 8) add(held, "li", `and ${parts.length - 8} more`);
    };
    const under = (e) => (e.target.dataset && e.target.dataset.i !== undefined ? +e.target.dataset.i : -1);
    chip.addEventListener("pointermove", (e) => select(under(e)));
    chip.addEventListener("pointerdown", (e) => select(under(e)));
    const place = shapes.map((s) => [+s.getAttribute("x"), +s.getAttribute("y")]);
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    chip.addEventListener("keydown", (e) => {
      const move = moves[e.key];
      if (!move) return;
      e.preventDefault();
      if (current < 0) { select(0); return; }
      const [x, y] = place[current];
      let best = -1, least = Infinity;
      place.forEach(([px, py], i) => {
        const along = (px - x) * move[0] + (py - y) * move[1];
        const aside = Math.abs((px - x) * move[1]) + Math.abs((py - y) * move[0]);
        if (along > 1 && along + 3 * aside < least) { least = along + 3 * aside; best = i; }
      });
      select(best);
    });
    all("input[name=fp-view]", plan).forEach((input) => {
      if (input.checked) plan.dataset.view = input.value;
      input.addEventListener("change", () => { plan.dataset.view = input.value; });
    });
    document.getElementById("fp-layer").addEventListener("change", (e) => {
      const wanted = e.target.value;
      chip.classList.toggle("picked", wanted !== "");
      shapes.forEach((s, i) => s.classList.toggle("on", wanted !== "" && subarrays[i][9].some(([layer]) => layer === +wanted)));
    });
  }
})();
