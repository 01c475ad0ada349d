"use strict";
// How the front's hypervolume grew with the trials.
(() => {
  const container = byId("progress");
  if (data.progress.length < 2) { container.hidden = true; return; }
  redrawOnResize(container, () => {
    container.replaceChildren();
    const width = Math.max(container.clientWidth, 260), height = 180, left = 46, right = width - 60, top = 26, bottom = height - 40;
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Hypervolume after each trial" }, container);
    const count = data.progress.length, last = data.progress[count - 1];
    const x = makeScale(0, count, left, right, false, false, 8);
    const y = makeScale(0, Math.max(last * 1.05, 0.1), bottom, top, false, false, 4);
    for (const tick of y.ticks) {
      draw("path", { class: "grid", d: `M${left} ${y(tick)}H${right}` }, svg);
      draw("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, svg, String(tick));
    }
    for (const tick of x.ticks) draw("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, svg, String(tick));
    draw("path", { class: "axis", d: `M${left} ${bottom}H${right}` }, svg);
    const steps = data.progress.map((value, index) => `H${x(index + 1)}V${y(value)}`).join("");
    draw("path", { class: "area", d: `M${x(0)} ${y(0)}${steps}V${bottom}H${x(0)}Z` }, svg);
    draw("path", { class: "stairs", d: `M${x(0)} ${y(0)}${steps}` }, svg);
    draw("text", { class: "title", x: right + 8, y: y(last) + 4 }, svg, last.toFixed(3));
    draw("text", { class: "title", x: left, y: 14 }, svg, width < 480 ? "Hypervolume" : "Hypervolume as the search measured it: 0 to 10 points lost, 1× to 32× speed-up");
    draw("text", { class: "title", x: right, y: height - 5, "text-anchor": "end" }, svg, "trials finished");
  });
})();
