"use strict";
// The front: one objective over another, every trial a mark, the allowed region tinted.
(() => {
  const container = byId("scatter");
  const hidden = new Set();
  const chosen = { x: data.x, y: data.y };
  let placed = [];

  for (const side of ["x", "y"]) {
    const select = byId(`axis-${side}`);
    for (const axis of data.axes) element("option", { value: axis.key }, select, axis.label);
    select.value = chosen[side];
    select.addEventListener("change", () => { chosen[side] = select.value; render(); });
  }
  byId("everything").addEventListener("change", render);

  function shape(kind, x, y, parent, trial) {
    const attributes = { class: `mark ${kind}` };
    if (trial !== null && trial !== undefined) attributes["data-trial"] = trial;
    if (kind === "front") return draw("circle", { ...attributes, cx: x, cy: y, r: 6 }, parent);
    if (kind === "complete") return draw("circle", { ...attributes, cx: x, cy: y, r: 3.6 }, parent);
    const paths = {
      baseline: `M${x} ${y - 8}l7 8l-7 8l-7 -8z`,
      infeasible: `M${x - 3.5} ${y - 3.5}l7 7m0 -7l-7 7`,
      failed: `M${x - 4.5} ${y}h9m-4.5 -4.5v9`,
    };
    return draw("path", { ...attributes, d: paths[kind] }, parent);
  }

  function domain(axis, values, everything, side) {
    let low = Math.min(...values), high = Math.max(...values);
    if (axis.log) {
      const room = Math.max(Math.log(high / low) * 0.06, 0.06);
      return [low / Math.exp(room), high * Math.exp(room)];
    }
    const room = Math.max((high - low) * 0.08, Math.abs(high) * 0.001, 1e-9);
    return [low - room, high + room];
  }

  // The line runs through what is not dominated for these two axes; with three objectives that is not the whole front.
  function staircase(models, better) {
    const sorted = [...models].sort((a, b) => (a[chosen.x] - b[chosen.x]) * better.x || (b[chosen.y] - a[chosen.y]) * -better.y);
    const edge = [];
    for (const model of sorted) {
      const last = edge[edge.length - 1];
      if (!last || (model[chosen.y] - last[chosen.y]) * better.y < 0) edge.push(model);
    }
    return edge;
  }

  function render() {
    container.replaceChildren();
    placed = [];
    const xAxis = axisOf(chosen.x), yAxis = axisOf(chosen.y);
    container.previousElementSibling.hidden = !xAxis || !yAxis; // its controls choose an axis
    if (!xAxis || !yAxis) { element("p", {}, container, "Nothing was measured."); return; }
    const width = Math.max(container.clientWidth, 280), small = width < 560;
    const height = small ? 380 : 480;
    const left = small ? 58 : 70, right = width - (small ? 12 : 24), top = 26, bottom = height - 74;
    const usable = (value, axis) => value !== null && (!axis.log || value > 0);
    const visible = data.points.filter((point) => !hidden.has(point.kind));
    const full = visible.filter((point) => usable(point[chosen.x], xAxis) && usable(point[chosen.y], yAxis));
    const rail = visible.filter((point) => usable(point[chosen.x], xAxis) && !usable(point[chosen.y], yAxis));
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${yAxis.label} over ${xAxis.label}; the same figures are in the table below` }, container);
    if (!full.length) { draw("text", { x: left, y: top + 30 }, svg, "No trial has both figures yet."); return; }

    const everything = byId("everything").checked;
    const important = full.filter((point) => point.kind === "front" || point.kind === "baseline");
    const framed = everything || important.length < 2 ? full : important;
    const limit = { x: data.limits[chosen.x], y: data.limits[chosen.y] };
    const spread = (key, bound, points) => [...points.map((point) => point[key]), ...(bound === undefined ? [] : [bound])];
    const [xLow, xHigh] = domain(xAxis, spread(chosen.x, limit.x, everything ? [...full, ...rail] : framed));
    const [yLow, yHigh] = domain(yAxis, spread(chosen.y, limit.y, framed));
    const x = makeScale(xLow, xHigh, left, right, xAxis.log, xAxis.unit === "×", small ? 4 : 8);
    const y = makeScale(yLow, yHigh, bottom, top, yAxis.log, yAxis.unit === "×", 7);
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

    drawFrame(svg, { x, y, left, right, top, bottom, xAxis, yAxis, limit, height, small });

    const better = { x: chosen.x === "accuracy" ? -1 : 1, y: chosen.y === "accuracy" ? -1 : 1 };
    const models = full.filter((point) => point.kind === "front");
    const edge = staircase(models, better);
    if (edge.length) {
      const path = edge.map((point, index) => (index ? `H${x(point[chosen.x])}V${y(point[chosen.y])}` : `M${x(point[chosen.x])} ${y(point[chosen.y])}`));
      draw("path", { class: "stairs", d: path.join("") }, svg);
    }
    let outside = 0;
    const order = [...KINDS].reverse();
    for (const point of [...full].sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))) {
      const wantedX = x(point[chosen.x]), wantedY = y(point[chosen.y]);
      const atX = clamp(wantedX, left, right), atY = clamp(wantedY, top, bottom);
      if (Math.abs(atX - wantedX) > 0.5 || Math.abs(atY - wantedY) > 0.5) { outside += 1; continue; }
      if (point.kind === "front" && chosen.x === "latency_ratio" && point.latency_ratio_low !== null)
        draw("path", { class: "whisker", d: `M${clamp(x(point.latency_ratio_low), left, right)} ${atY}H${clamp(x(point.latency_ratio_high), left, right)}` }, svg);
      place(svg, point, atX, atY);
    }
    for (const point of rail) {
      const at = x(point[chosen.x]);
      if (at >= left && at <= right) place(svg, point, at, bottom + 12);
    }
    label(svg, edge, models, x, y, left, right);
    const notes = [];
    if (outside) notes.push(small ? `${outside} worse outside` : `${outside} worse trial${outside > 1 ? "s" : ""} outside`);
    if (rail.length) notes.push(small ? "below the axis: never trained" : "below the axis: measured, never trained");
    if (notes.length) draw("text", { x: right, y: height - 6, "text-anchor": "end" }, svg, notes.join(" · "));
    svg.addEventListener("pointermove", (event) => nearest(svg, event));
    svg.addEventListener("pointerdown", (event) => nearest(svg, event));
    svg.addEventListener("pointerleave", hideTip);
  }

  function drawFrame(svg, { x, y, left, right, top, bottom, xAxis, yAxis, limit, height, small }) {
    const inX = limit.x !== undefined, inY = limit.y !== undefined;
    if (inX || inY) {
      const clampX = inX ? Math.min(Math.max(x(limit.x), left), right) : null;
      const edgeX = inX ? (xAxis.key === "accuracy" ? [clampX, right] : [left, clampX]) : [left, right];
      const clampY = inY ? Math.min(Math.max(y(limit.y), top), bottom) : null;
      const edgeY = inY ? (yAxis.key === "accuracy" ? [top, clampY] : [clampY, bottom]) : [top, bottom];
      draw("rect", { class: "allowed", x: edgeX[0], y: edgeY[0], width: Math.max(edgeX[1] - edgeX[0], 0), height: Math.max(edgeY[1] - edgeY[0], 0) }, svg);
    }
    for (const tick of x.ticks) {
      draw("path", { class: "grid", d: `M${x(tick)} ${top}V${bottom}` }, svg);
      draw("text", { x: x(tick), y: bottom + 36, "text-anchor": "middle" }, svg, xAxis.unit === "%" ? `${tick}` : format(tick, xAxis.unit));
    }
    for (const tick of y.ticks) {
      draw("path", { class: "grid", d: `M${left} ${y(tick)}H${right}` }, svg);
      draw("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, svg, yAxis.unit === "%" ? `${tick}` : format(tick, yAxis.unit));
    }
    draw("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }, svg);
    if (inX) {
      draw("path", { class: "limit", d: `M${x(limit.x)} ${top}V${bottom}` }, svg);
      const before = x(limit.x) > (left + right) / 2;
      draw("text", { class: "limit-label", x: x(limit.x) + (before ? -6 : 6), y: bottom - 7, "text-anchor": before ? "end" : "start" }, svg, `limit ${format(limit.x, xAxis.unit)}`);
    }
    if (inY) {
      draw("path", { class: "limit", d: `M${left} ${y(limit.y)}H${right}` }, svg);
      draw("text", { class: "limit-label", x: right - 4, y: y(limit.y) - 6, "text-anchor": "end" }, svg, `limit ${format(limit.y, yAxis.unit)}`);
    }
    const log = xAxis.log && !small ? ", log scale" : "";
    const toX = xAxis.key === "accuracy" ? `${xAxis.better} →` : `← ${xAxis.better}`;
    const toY = yAxis.key === "accuracy" ? `↑ ${yAxis.better}` : `↓ ${yAxis.better}`;
    const yTitle = draw("text", { class: "title", x: left, y: 14 }, svg, `${yAxis.label}${yAxis.unit === "%" ? ", %" : ""}`);
    const xTitle = draw("text", { class: "title", x: left, y: height - (small ? 22 : 6) }, svg, xAxis.label + log);
    draw("tspan", { class: "way", dx: 14 }, yTitle, toY);
    draw("tspan", { class: "way", dx: 14 }, xTitle, toX);
  }

  function place(svg, point, at, down) {
    const mark = shape(point.kind, at, down, svg, point.trial);
    placed.push({ point, x: at, y: down });
    if (point.kind !== "front") return;
    mark.setAttribute("tabindex", "0");
    mark.setAttribute("role", "button");
    mark.setAttribute("aria-label", `${describe(point).name}: ${format(point[chosen.x], axisOf(chosen.x).unit)}, ${format(point[chosen.y], axisOf(chosen.y).unit)}`);
    mark.addEventListener("focus", () => { const box = mark.getBoundingClientRect(); showTip(point, box.right, box.bottom); light(point.trial); });
    mark.addEventListener("blur", hideTip);
    const jump = () => {
      tip.hidden = true; // it would cover the row
      const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
      document.querySelector(`#front tr[data-trial="${point.trial}"]`)?.scrollIntoView({ behavior, block: "center" });
    };
    mark.addEventListener("click", jump);
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); jump(); }
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); neighbour(mark, step).focus(); }
    });
  }

  // The next mark of the front to the right (1) or to the left (-1); at the end the mark itself.
  function neighbour(mark, step) {
    const across = (one) => one.getBoundingClientRect().left;
    const marks = [...container.querySelectorAll(".mark.front")].sort((a, b) => across(a) - across(b));
    return marks[marks.indexOf(mark) + step] ?? mark;
  }

  // Trial numbers beside the points, left out where two would overlap.
  function label(svg, edge, models, x, y, left, right) {
    const taken = [];
    const baseline = placed.find((one) => one.point.kind === "baseline");
    if (baseline) {
      const flip = baseline.x > (left + right) / 2;
      draw("text", { class: "point-label baseline", x: baseline.x + (flip ? -12 : 12), y: baseline.y + 4, "text-anchor": flip ? "end" : "start" }, svg, "baseline");
      taken.push([baseline.x + (flip ? -40 : 40), baseline.y]);
    }
    const ends = [edge[0], edge[edge.length - 1]];
    for (const point of new Set([...ends, ...edge, ...models])) {
      const spot = placed.find((one) => one.point === point);
      if (!spot || taken.some(([a, b]) => Math.abs(a - spot.x - 10) < 34 && Math.abs(b - spot.y - 16) < 15)) continue;
      taken.push([spot.x + 10, spot.y + 16]);
      draw("text", { class: "point-label", x: spot.x + 7, y: spot.y + 19 }, svg, `#${point.trial}`);
    }
  }

  function nearest(svg, event) {
    const box = svg.getBoundingClientRect();
    const at = event.clientX - box.left, down = event.clientY - box.top;
    let best = null, closest = 22;
    for (const spot of placed) {
      const distance = Math.hypot(spot.x - at, spot.y - down) - (spot.point.kind === "front" ? 5 : 0);
      if (distance < closest) { closest = distance; best = spot; }
    }
    if (!best) { hideTip(); return; }
    light(best.point.trial);
    showTip(best.point, event.clientX, event.clientY);
  }

  const legend = byId("legend");
  for (const kind of KINDS) {
    const count = data.points.filter((point) => point.kind === kind).length;
    if (!count) continue;
    const button = element("button", { type: "button", "aria-pressed": "true" }, legend);
    const icon = draw("svg", { width: 18, height: 18, "aria-hidden": "true" }, button);
    shape(kind, 9, 9, icon);
    button.append(kind === "front" ? `on the front (${count})` : kind === "baseline" ? "baseline" : `${kind} (${count})`);
    button.addEventListener("click", () => {
      if (!hidden.delete(kind)) hidden.add(kind);
      button.setAttribute("aria-pressed", String(!hidden.has(kind)));
      render();
    });
  }
  redrawOnResize(container, render);
})();
