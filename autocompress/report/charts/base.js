"use strict";
// What all charts share: the data, elements, number formats, scales, the tooltip and highlighting across the page.
const data = JSON.parse(document.getElementById("data").textContent);
document.body.classList.remove("plain");
const byId = (id) => document.getElementById(id);

function element(tag, attributes, parent, text) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function draw(tag, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

const KINDS = ["front", "baseline", "complete", "infeasible", "failed"];

function scaled(value, units) {
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${Number(value.toPrecision(3))} ${units[unit]}`.trim();
}

function format(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "%") return `${value.toFixed(2)} %`;
  if (unit === "×") return `${Number(value.toPrecision(value < 0.1 ? 2 : 3))}×`;
  if (unit === "B") return scaled(value, ["B", "KB", "MB", "GB"]);
  if (unit === "µJ") return scaled(value, ["µJ", "mJ", "J"]);
  if (unit === "") return scaled(value, ["", "K", "M", "G", "T"]);
  return `${Number(value.toPrecision(3))} ${unit}`;
}

function signed(value) {
  const text = value.toFixed(2);
  return Number(text) === 0 ? "0.00" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

const axisOf = (key) => data.axes.find((axis) => axis.key === key);

// Ticks at round numbers: 1, 2, 5 times a power of ten; powers of two for ratios on a logarithmic axis.
function linearTicks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-6; at += 1) ticks.push(Number((at * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high, ratio, wanted) {
  let ticks = [];
  if (ratio) {
    for (let power = Math.ceil(Math.log2(low) - 1e-9); 2 ** power <= high * 1.000001; power += 1) ticks.push(2 ** power);
  } else {
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1)
      for (const factor of [1, 2, 5]) if (factor * 10 ** power >= low && factor * 10 ** power <= high) ticks.push(factor * 10 ** power);
  }
  if (ticks.length < 3) ticks = linearTicks(low, high, Math.min(wanted, 5)).filter((tick) => tick > 0);
  const every = Math.ceil(ticks.length / wanted);
  return ticks.filter((tick, index) => index % every === 0);
}

// domain -> pixels; `wanted` is about how many ticks there is room for.
function makeScale(low, high, from, to, log, ratio, wanted) {
  const bend = log ? Math.log : (value) => value;
  const start = bend(low), span = bend(high) - start || 1;
  const scale = (value) => from + ((bend(value) - start) / span) * (to - from);
  scale.ticks = log ? logTicks(low, high, ratio, wanted) : linearTicks(low, high, wanted);
  return scale;
}

function describe(point) {
  const name = point.trial === null ? "baseline" : `trial ${point.trial}, ${point.kind === "front" ? "on the front" : point.kind}`;
  const rows = data.axes.map((axis) => [axis.label, format(point[axis.key], axis.unit)]).filter((row) => row[1] !== "–");
  const low = point.latency_ratio_low, high = point.latency_ratio_high;
  if (low !== null && high !== null) rows.push(["Latency, 95 %", `${format(low, "×")} to ${format(high, "×")}`]);
  if (point.accuracy_drop !== null && point.trial !== null) rows.push([data.byAgreement ? "Change of agreement" : "Change on validation", `${signed(-point.accuracy_drop)} points`]);
  if (point.test_accuracy !== null) rows.push([`Test ${data.metric}`, format(point.test_accuracy, "%")]);
  return { name, rows };
}

const cut = (text) => (text.length > 400 ? `${text.slice(0, 399)}…` : text); // the table of reasons has it whole
const tip = byId("tip");
function showTip(point, x, y) {
  const { name, rows } = describe(point);
  tip.replaceChildren();
  element("b", {}, tip, name);
  const table = element("table", {}, tip);
  for (const [label, value] of rows) {
    const row = element("tr", {}, table);
    element("td", {}, row, label);
    element("td", { class: "n" }, row, value);
  }
  element("div", {}, tip, point.words);
  if (point.reason) element("div", { class: "miss" }, tip, cut(point.reason));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - box.width - 6))}px`;
  tip.style.top = `${y + 14 + box.height > innerHeight ? Math.max(6, y - box.height - 12) : y + 14}px`;
}
function hideTip() { tip.hidden = true; light(null); }
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
addEventListener("wheel", () => { tip.hidden = true; }, { passive: true }); // the page moves below it

// The same trial everywhere on the page: its point, its line, its rows.
function light(trial) {
  for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
  if (trial !== null && trial !== undefined) for (const found of document.querySelectorAll(`[data-trial="${trial}"]`)) found.classList.add("lit");
}

function redrawOnResize(container, redraw) {
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(container.clientWidth - width) < 2) return;
    width = container.clientWidth;
    redraw();
  }).observe(container);
  width = container.clientWidth;
  redraw();
}

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.style.colorScheme ? root.style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.style.colorScheme = dark ? "light" : "dark";
});

for (const row of document.querySelectorAll("#front tr[data-trial]")) {
  row.addEventListener("pointerenter", () => light(row.dataset.trial));
  row.addEventListener("pointerleave", () => light(null));
}
