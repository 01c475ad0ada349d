"use strict";
// Parameters: how much each explains (bars), and every trial as a line through its parameters and objectives.
(() => {
  const container = byId("parallel");
  const SHOWN = 7;
  const brushes = new Map();

  function bars() {
    const parent = byId("importance");
    const objectives = data.objectives.filter((key) => data.parameters.some((parameter) => key in parameter.explained)).slice(0, 3);
    const told = data.parameters.filter((parameter) => Math.max(0, ...Object.values(parameter.explained)) >= 0.02).slice(0, 10);
    if (!objectives.length || !told.length) {
      element("p", { class: "hint" }, parent, data.parameters.length ? "No single parameter explains the differences between the trials, or there are too few trials." : "No parameter varied.");
      return;
    }
    element("p", { class: "hint" }, parent, "Share of the variance between trials that a parameter explains alone, where it is significant (F-test, 5 %), and its 95 % interval. Parameters that were changed together share what they explain, so shares can add up to more than 100 %. Parameters that only have an effect together have small shares.");
    const grid = element("div", { class: "bars" }, parent);
    grid.style.gridTemplateColumns = `minmax(70px, max-content) repeat(${objectives.length}, 1fr)`;
    element("span", { class: "head" }, grid, "parameter");
    for (const key of objectives) element("span", { class: "head" }, grid, axisOf(key).label);
    for (const parameter of told) {
      element("span", { class: "name" }, grid, parameter.name);
      for (const key of objectives) {
        const share = parameter.explained[key] ?? 0;
        const bar = element("span", { class: "bar" }, grid);
        element("i", {}, bar).style.width = `${share * 60}%`;
        const [low, high] = (parameter.between[key] ?? [0, 0]).map((end) => Math.round(end * 100));
        bar.append(`${Math.round(share * 100)} %`);
        if (share > 0) element("small", {}, bar, ` ${low} to ${high}`);
      }
    }
  }

  function dimensions() {
    const parameters = byId("all-parameters").checked ? data.parameters : data.parameters.slice(0, SHOWN);
    const shown = parameters.map((parameter) => ({
      name: parameter.name, choices: parameter.choices, range: parameter.range, optional: true,
      get: (point) => { const value = point.recipe[parameter.name]; return value === undefined ? null : value; },
    }));
    for (const key of data.objectives.filter(axisOf)) {
      const axis = axisOf(key), values = data.points.map((point) => point[key]).filter((value) => value !== null);
      shown.push({ name: axis.label, objective: axis, range: [Math.min(...values), Math.max(...values)], get: (point) => point[key] });
    }
    return shown;
  }

  function scaleOf(dimension, top, bottom) {
    const floor = dimension.optional ? bottom - 26 : bottom;
    if (dimension.choices) {
      const step = dimension.choices.length > 1 ? (floor - top) / (dimension.choices.length - 1) : 0;
      const place = (value) => floor - dimension.choices.findIndex((choice) => String(choice) === String(value)) * step;
      place.ticks = dimension.choices;
      place.text = String;
      return place;
    }
    const [low, high] = dimension.range, axis = dimension.objective;
    const log = Boolean(axis && axis.log && low > 0);
    const place = makeScale(low, high === low ? low + 1 : high, floor, top, log, axis && axis.unit === "×", 6);
    place.text = (value) => (axis ? format(value, axis.unit) : String(Number(value.toPrecision(3))));
    return place;
  }

  function render() {
    container.replaceChildren();
    const trials = data.points.filter((point) => point.trial !== null);
    if (!trials.length || !data.parameters.length) return;
    const shown = dimensions();
    const width = Math.max(container.clientWidth, shown.length * 128), height = 350;
    const top = 46, bottom = height - 22, margin = 64;
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Every trial as a line through its parameters and its objectives; the same figures are in the table of trials" }, container);
    shown.forEach((dimension, index) => {
      dimension.x = margin + (shown.length > 1 ? (index * (width - 2 * margin)) / (shown.length - 1) : 0);
      dimension.place = scaleOf(dimension, top, bottom);
    });
    const lines = [];
    const order = [...KINDS].reverse();
    for (const point of [...trials].sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))) {
      const spots = [];
      for (const dimension of shown) {
        const value = dimension.get(point);
        // An objective that was never measured ends the line; a parameter that was not asked runs along the floor.
        if (value === null && !dimension.optional) continue;
        spots.push([dimension.x, value === null ? bottom : dimension.place(value)]);
      }
      const thread = draw("path", { class: `thread ${point.kind}`, "data-trial": point.trial, d: `M${spots.map((spot) => spot.join(" ")).join("L")}` }, svg);
      thread.addEventListener("pointermove", (event) => { light(point.trial); showTip(point, event.clientX, event.clientY); });
      thread.addEventListener("pointerleave", hideTip);
      lines.push({ point, thread });
    }
    for (const dimension of shown) drawAxis(svg, dimension, top, bottom, () => filter(shown, lines));
    filter(shown, lines);
  }

  function drawAxis(svg, dimension, top, bottom, changed) {
    draw("path", { class: "axis", d: `M${dimension.x} ${top}V${bottom}` }, svg);
    const title = draw("text", { class: "title", x: dimension.x, y: 12, "text-anchor": "middle" }, svg);
    const parts = dimension.objective ? dimension.name.split(/ (?=against|an )/) : dimension.name.split(/\.(?=[^.]*$)/);
    parts.forEach((part, index) => draw("tspan", { x: dimension.x, dy: index ? 15 : 0 }, title, part.length > 20 ? `${part.slice(0, 19)}…` : part));
    for (const tick of dimension.place.ticks)
      draw("text", { class: "tick", x: dimension.x + 6, y: dimension.place(tick) + 4 }, svg, dimension.place.text(tick));
    if (dimension.optional) draw("text", { class: "tick", x: dimension.x + 6, y: bottom + 4 }, svg, data.points.some((point) => point.trial !== null && dimension.get(point) === null) ? "not used" : "");
    const band = draw("rect", { class: "brush", x: dimension.x - 8, width: 16, y: 0, height: 0 }, svg);
    const handle = draw("rect", { class: "handle", x: dimension.x - 14, width: 28, y: top - 8, height: bottom - top + 16 }, svg);
    const show = () => {
      const range = brushes.get(dimension.name);
      band.setAttribute("y", range ? range[0] : 0);
      band.setAttribute("height", range ? range[1] - range[0] : 0);
    };
    let start = null;
    const at = (event) => event.clientY - svg.getBoundingClientRect().top;
    handle.addEventListener("pointerdown", (event) => { start = at(event); handle.setPointerCapture(event.pointerId); });
    handle.addEventListener("pointermove", (event) => {
      if (start === null) return;
      brushes.set(dimension.name, [Math.min(start, at(event)), Math.max(start, at(event))]);
      show();
      changed();
    });
    handle.addEventListener("pointerup", (event) => {
      if (start !== null && Math.abs(start - at(event)) < 4) { brushes.delete(dimension.name); show(); changed(); }
      start = null;
    });
    show();
  }

  function filter(shown, lines) {
    const active = shown.filter((dimension) => brushes.has(dimension.name));
    const kept = new Set();
    for (const { point, thread } of lines) {
      const inside = active.every((dimension) => {
        const [low, high] = brushes.get(dimension.name), value = dimension.get(point);
        if (value === null) return Boolean(dimension.optional) && high >= 328;
        return dimension.place(value) >= low - 1 && dimension.place(value) <= high + 1;
      });
      thread.classList.toggle("out", !inside);
      if (inside) kept.add(point.trial);
    }
    byId("clear").hidden = !active.length;
    document.dispatchEvent(new CustomEvent("brushed", { detail: active.length ? kept : null }));
  }

  bars();
  byId("all-parameters").addEventListener("change", render);
  byId("clear").addEventListener("click", () => { brushes.clear(); render(); });
  if (data.parameters.length <= SHOWN) byId("all-parameters").parentElement.hidden = true;
  // The first drawing waits until the table of trials, further down, listens.
  addEventListener("load", () => redrawOnResize(container, render));
})();
