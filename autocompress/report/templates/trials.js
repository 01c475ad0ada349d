"use strict";
// Every trial, sortable and filtered by text, status and the brushes of the chart above.
(() => {
  const FIRST = 100;
  const head = byId("trials").querySelector("thead"), body = byId("trials").querySelector("tbody");
  const trials = data.points.filter((point) => point.trial !== null);
  const some = (key) => trials.some((point) => point[key] !== null);
  const columns = [
    { key: "trial", title: "Trial", text: (point) => String(point.trial), number: true },
    { key: "kind", title: "Status", text: (point) => (point.kind === "front" ? "front" : point.status) },
    { key: "accuracy", title: data.byAgreement ? "Agreement" : "Validation", unit: "%" },
    { key: "accuracy_drop", title: "Change", text: (point) => (point.accuracy_drop === null ? "–" : signed(-point.accuracy_drop)), number: true },
    { key: "latency_ratio", title: "Latency", unit: "×" },
    { key: "latency_ms", title: "ms", text: (point) => (point.latency_ms === null ? "–" : String(Number(point.latency_ms.toPrecision(3)))), number: true },
    { key: "size_bytes", title: "Size", unit: "B" },
    { key: "energy_uj", title: "Energy", unit: "µJ" },
    { key: "macs", title: "MACs", unit: "" },
    { key: "seconds", title: "Seconds", text: (point) => (point.seconds === null ? "–" : point.seconds.toFixed(1)), number: true },
    { key: "rung", title: "Rung", text: (point) => (point.rung === null ? "–" : String(point.rung)), number: true },
    { key: "words", title: "Recipe" },
    { key: "reason", title: "Reason", text: (point) => cut(point.reason) },
  ].filter((column) => some(column.key) && !(column.key === "reason" && !trials.some((point) => point.reason)));
  const sorting = { key: "trial", up: true };
  let brushed = null, all = false;

  const text = (column, point) => (column.text ? column.text(point) : column.unit !== undefined ? format(point[column.key], column.unit) : point[column.key]);
  const numeric = (column) => column.number || column.unit !== undefined;

  function matches(point) {
    const wanted = byId("find").value.trim().toLowerCase(), status = byId("status").value;
    if (brushed && !brushed.has(point.trial)) return false;
    if (status && point.status !== status && point.kind !== status) return false;
    if (!wanted) return true;
    if (/^#\d+$/.test(wanted)) return point.trial === Number(wanted.slice(1));
    return `${point.words} ${point.reason} ${Object.entries(point.recipe).map((pair) => pair.join("=")).join(" ")}`.toLowerCase().includes(wanted);
  }

  function compare(a, b) {
    const left = a[sorting.key], right = b[sorting.key];
    if (left === null || right === null) return (left === null) - (right === null); // missing figures last, either way
    const order = typeof left === "number" ? left - right : String(left).localeCompare(String(right));
    return (sorting.up ? order : -order) || a.trial - b.trial;
  }

  function render() {
    const found = trials.filter(matches).sort(compare);
    const shown = all ? found : found.slice(0, FIRST);
    body.replaceChildren();
    for (const point of shown) {
      const row = element("tr", { "data-trial": point.trial }, body);
      for (const column of columns) {
        const kind = numeric(column) ? "n" : column.key === "words" ? "recipe" : column.key === "reason" ? "reason" : "";
        const head = column.key === "trial" ? { scope: "row" } : {};
        element(head.scope ? "th" : "td", { ...head, class: kind, "data-label": column.title.toLowerCase() }, row, text(column, point));
      }
      row.addEventListener("pointerenter", () => light(point.trial));
      row.addEventListener("pointerleave", () => light(null));
    }
    byId("shown").textContent = `${found.length} of ${trials.length}`;
    byId("more").hidden = shown.length === found.length;
    byId("more").textContent = `show all ${found.length}`;
  }

  const row = element("tr", {}, head);
  for (const column of columns) {
    const cell = element("th", { scope: "col", class: numeric(column) ? "n" : "", "aria-sort": column.key === "trial" ? "ascending" : "none" }, row);
    element("button", { type: "button" }, cell, column.title).addEventListener("click", () => {
      sorting.up = sorting.key === column.key ? !sorting.up : true;
      sorting.key = column.key;
      for (const other of row.children) other.setAttribute("aria-sort", "none");
      cell.setAttribute("aria-sort", sorting.up ? "ascending" : "descending");
      render();
    });
  }
  element("option", { value: "" }, byId("status"), "all");
  for (const kind of KINDS.filter((one) => trials.some((point) => point.kind === one || point.status === one)))
    element("option", { value: kind }, byId("status"), kind === "front" ? "on the front" : kind);
  byId("find").addEventListener("input", render);
  byId("status").addEventListener("change", render);
  byId("more").addEventListener("click", () => { all = true; render(); });
  document.addEventListener("brushed", (event) => { brushed = event.detail; render(); });
  render();
})();
