// Light or dark, from before the first paint on. Owns: the attribute `data-theme` of <html> and its key in localStorage.
// The attribute is always there: "light" or "dark", as chosen, or else as the system has it at the moment.
(() => {
  "use strict";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try { return localStorage.getItem("autoinstr.theme"); } catch { return null; }
  };
  let chosen = stored();
  const apply = () => {
    const theme = chosen === "light" || chosen === "dark" ? chosen : system.matches ? "dark" : "light";
    if (document.documentElement.dataset.theme === theme) return;
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new Event("themechange"));
  };
  system.addEventListener("change", apply);
  addEventListener("storage", () => { chosen = stored(); apply(); });
  addEventListener("themechosen", (event) => { chosen = event.detail; apply(); });
  apply();
})();
