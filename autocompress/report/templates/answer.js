"use strict";
// The slider: the cheapest model for the drop that is allowed. And the button that copies commands.
(() => {
  const slider = byId("allowed");
  if (slider) {
    const rows = [...document.querySelectorAll("#trades tbody tr")];
    const most = Number(rows[rows.length - 1].dataset.drop);
    const asked = slider.dataset.asked === undefined ? most : Number(slider.dataset.asked);
    slider.max = Math.max(Math.ceil(Math.max(most, Math.min(asked, 10)) * 2) / 2, 0.5);
    slider.value = asked;
    function choose() {
      const allowed = Number(slider.value);
      const fits = rows.filter((row) => Number(row.dataset.drop) <= allowed + 1e-9);
      const points = `${allowed.toFixed(2)} points`;
      byId("allowed-points").textContent = points;
      slider.setAttribute("aria-valuetext", points);
      for (const row of rows) row.classList.toggle("chosen", row === fits[fits.length - 1]);
      const row = fits[fits.length - 1], cell = (name) => row.querySelector(`.${name}`).textContent;
      byId("allowed-told").textContent = row
        ? `Trial ${row.dataset.trial}: ${cell("gain")}, ${cell("change")} points, ${cell("size")}`
        : "No model loses so little.";
    }
    slider.addEventListener("input", choose);
    byId("allow-controls").hidden = byId("allowed-told").hidden = false;
    choose();
  }
  const copy = byId("copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(byId("use").textContent);
      copy.textContent = "copied";
    });
  }
})();
