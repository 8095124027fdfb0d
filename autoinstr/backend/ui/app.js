// The shell: which page an address means, header, footer, help, and what every page gets.
// Owns: routes, links without reloading, the theme switch, global keys, where the focus goes when the page changes.
// Must not know: what a page shows.
//
// A page is a module that exports its component under the name in ROUTES, and may export `shortcuts`: [["j", "next trace"], …]
// for the help dialog. The component gets `query` (URLSearchParams) and what the path holds (`id`). It shows one <h1>.
// Plain links (<a href=${address(…)}>) to pages are followed without reloading; a page changes its own query by `navigate`.

import { BASE, html, isTyping, navigate, render, useEffect, useErrorBoundary, useRef, useState } from "./lib.js";
import { Icon } from "./icons.js";
import { Footer, LossBanner } from "./status.js";
import { TooltipHost } from "./tooltip.js";
import { FileDrop } from "./upload.js";

const ROUTES = [
  { path: /^\/$/, title: "Search", module: "./search.js", component: "SearchPage", style: "search.css" },
  { path: /^\/trace\/(?<id>[^/]+)$/, title: "Trace", module: "./trace.js", component: "TracePage", style: "trace.css" },
  { path: /^\/compare$/, title: "Compare", module: "./compare.js", component: "ComparePage", style: "trace.css" },
  { path: /^\/dependencies$/, title: "Dependencies", module: "./dependencies.js", component: "DependenciesPage", style: "dependencies.css" },
  { path: /^\/services$/, title: "Services", module: "./services.js", component: "ServicesPage", style: "services.css" },
  { path: /^\/sampling$/, title: "Sampling", module: "./sampling.js", component: "SamplingPage", style: "services.css" },
];
const NAVIGATION = [["/", "Search"], ["/dependencies", "Dependencies"], ["/services", "Services"], ["/sampling", "Sampling"]];
const GLOBAL_KEYS = [
  ["/", "Go to a trace by its id"],
  ["g then s, d, v, a", "Go to search, dependencies, services, sampling"],
  ["?", "This help"],
  ["Esc", "Close what is open"],
];
const GO_TO = { s: "/", d: "/dependencies", v: "/services", a: "/sampling" };

/** The path below BASE, without a slash at its end. */
function currentPath() {
  const path = location.pathname.slice(BASE.length);
  return path.length > 1 ? path.replace(/\/$/, "") : "/";
}

function match(path) {
  for (const route of ROUTES) {
    const found = route.path.exec(path);
    if (found) return { route, parameters: decoded(found.groups ?? {}) };
  }
  return null;
}

function decoded(groups) {
  return Object.fromEntries(Object.entries(groups).map(([key, text]) => {
    try { return [key, decodeURIComponent(text)]; } catch { return [key, text]; }
  }));
}

const loaded = new Map();

/** A page's module and style sheet, fetched once; a failed fetch is tried again the next time. */
function load(route) {
  if (!loaded.has(route.module)) {
    const fetching = Promise.all([import(route.module), stylesheet(route.style)]).then(([module]) => module);
    fetching.catch(() => loaded.delete(route.module));
    loaded.set(route.module, fetching);
  }
  return loaded.get(route.module);
}

function stylesheet(name) {
  const href = new URL(name, import.meta.url).href;
  if ([...document.styleSheets].some((sheet) => sheet.href === href)) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href });
    link.addEventListener("load", () => resolve());
    link.addEventListener("error", () => { link.remove(); reject(new Error(`The style sheet ${name} cannot be loaded.`)); });
    document.head.append(link);
  });
}

function useAddress() {
  const [address, setAddress] = useState({ path: currentPath(), search: location.search });
  useEffect(() => {
    const changed = () => setAddress({ path: currentPath(), search: location.search });
    addEventListener("popstate", changed);
    return () => removeEventListener("popstate", changed);
  }, []);
  return address;
}

function App() {
  const { path, search } = useAddress();
  const [helpFor, setHelpFor] = useState(null);
  const found = match(path);
  const [module, setModule] = useState(null);
  useLinks();
  useGlobalKeys(() => setHelpFor(module?.page?.shortcuts ?? []));
  usePageFocus(path);
  useEffect(() => {
    if (!found) return undefined;
    let current = true;
    document.title = `${found.route.title} · autoinstr`;
    load(found.route).then(
      (page) => current && setModule({ route: found.route, page }),
      (error) => current && setModule({ route: found.route, error }));
    return () => { current = false; };
  }, [path]);

  return html`
    <a class="skip" href="#main" onClick=${skipToMain}>Skip to the content</a>
    <${Header} path=${path} onHelp=${() => setHelpFor(module?.page?.shortcuts ?? [])} />
    <main id="main" tabindex="-1">
      <${LossBanner} />
      ${found
        ? html`<${Page} key=${path} found=${found} module=${module?.route === found.route ? module : null} query=${new URLSearchParams(search)} />`
        : html`<div class="page"><h1 tabindex="-1">There is no such page</h1>
            <p>The address ${path} means nothing here. <a href=${BASE + "/"}>Go to the search</a>.</p></div>`}
    </main>
    <${Footer} />
    <${FileDrop} />
    <${TooltipHost} />
    ${helpFor && html`<${HelpDialog} shortcuts=${helpFor} title=${found?.route.title} onClose=${() => setHelpFor(null)} />`}`;
}

function Page({ found, module, query }) {
  const [error] = useErrorBoundary((caught) => console.error(caught));
  const problem = error ?? module?.error;
  if (problem) {
    return html`<div class="page"><h1 tabindex="-1">${found.route.title}</h1>
      <div class="notice error" role="alert"><span>This page cannot be shown: ${problem.message}</span>
        <button type="button" class="button" onClick=${() => location.reload()}>Reload</button></div></div>`;
  }
  if (!module) return html`<p class="page muted loading" role="status">Loading …</p>`;
  return html`<${module.page[found.route.component]} ...${found.parameters} query=${query} />`;
}

function Header({ path, onHelp }) {
  return html`<header class="top">
    <a class="brand" href=${BASE + "/"}><img src=${new URL("icon.svg", import.meta.url).href} alt="" />autoinstr</a>
    <nav aria-label="Pages">${NAVIGATION.map(([to, title]) => html`
      <a href=${BASE + to} aria-current=${path === to ? "page" : undefined}>${title}</a>`)}</nav>
    <${TraceIdBox} />
    <${ThemeSwitch} />
    <button type="button" class="button quiet icon-only" aria-label="Help and keys" title="Help and keys ( ? )" onClick=${onHelp}>?</button>
  </header>`;
}

function TraceIdBox() {
  const jump = (event) => {
    event.preventDefault();
    const box = event.currentTarget.elements.namedItem("trace-id");
    const id = box.value.trim();
    const problem = /^[0-9a-f]{1,32}$/i.test(id) ? "" : "A trace id is 1 to 32 of the digits 0 to 9 and a to f.";
    box.setCustomValidity(problem);
    if (problem) { box.reportValidity(); return; }
    box.value = "";
    navigate("/trace/" + id.toLowerCase());
  };
  return html`<form class="jump" role="search" aria-label="Trace by id" onSubmit=${jump} novalidate>
    <input name="trace-id" id="trace-id" aria-label="Trace id" placeholder="Trace id  ( / )" autocomplete="off" spellcheck=${false}
      maxlength="64" onInput=${(event) => event.currentTarget.setCustomValidity("")} /></form>`;
}

const THEMES = [["system", "As the system has it"], ["light", "Light"], ["dark", "Dark"]];
const THEME_ICONS = { system: "system", light: "sun", dark: "moon" };

function ThemeSwitch() {
  const [chosen, setChosen] = useState(() => stored("autoinstr.theme") ?? "system");
  const next = THEMES[(THEMES.findIndex(([name]) => name === chosen) + 1) % THEMES.length];
  const [, now] = THEMES.find(([name]) => name === chosen) ?? THEMES[0];
  const change = () => {
    try { localStorage.setItem("autoinstr.theme", next[0]); } catch { /* it lasts as long as the page */ }
    dispatchEvent(new CustomEvent("themechosen", { detail: next[0] }));
    setChosen(next[0]);
  };
  const label = `Colours: ${now.toLowerCase()}. Change to: ${next[1].toLowerCase()}`;
  return html`<button type="button" class="button quiet icon-only" aria-label=${label} title=${label} onClick=${change}>
    <${Icon} name=${THEME_ICONS[chosen] ?? "system"} /></button>`;
}

function stored(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

function HelpDialog({ shortcuts, title, onClose }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  const list = (keys) => html`<dl class="shortcuts">${keys.map(([key, what]) => html`<dt><${Keys} text=${key} /></dt><dd>${what}</dd>`)}</dl>`;
  return html`<dialog ref=${dialog} aria-labelledby="help-title" onClose=${onClose}>
    <div class="stack">
      <h2 id="help-title">Keys</h2>
      <section><h3>Everywhere</h3>${list(GLOBAL_KEYS)}</section>
      ${shortcuts.length > 0 && html`<section><h3>${title}</h3>${list(shortcuts)}</section>`}
      <p class="muted small">Everything you see is in the address: copy it to show someone the same. A file of traces (Jaeger, OTLP or
        Zipkin JSON) can be dropped on any page.</p>
      <div class="dialog-foot"><button type="button" class="button" onClick=${() => dialog.current.close()}>Close</button></div>
    </div></dialog>`;
}

function Keys({ text }) {
  return text.split(/(\s+|, )/).map((part) => (/^\s*$|^,/.test(part) || ["or", "then"].includes(part) ? part : html`<kbd>${part}</kbd>`));
}

/** Follow links between pages without reloading. */
function useLinks() {
  useEffect(() => {
    const follow = (event) => {
      const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
      if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      // In SVG, href is an object.
      const url = new URL(link.getAttribute("href"), document.baseURI);
      const ours = url.origin === location.origin && url.pathname.startsWith(BASE) && match(url.pathname.slice(BASE.length) || "/");
      if (!ours || link.hasAttribute("download") || link.hasAttribute("target")) return;
      event.preventDefault();
      history.pushState(null, "", url);
      dispatchEvent(new PopStateEvent("popstate"));
    };
    addEventListener("click", follow);
    return () => removeEventListener("click", follow);
  }, []);
}

function useGlobalKeys(showHelp) {
  const latest = useRef(showHelp);
  latest.current = showHelp;
  useEffect(() => {
    let goTo = false;
    const pressed = (event) => {
      if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey || isTyping(event.target)) return;
      const target = goTo ? GO_TO[event.key] : undefined;
      goTo = event.key === "g";
      if (target) navigate(target);
      else if (event.key === "?") latest.current();
      else if (event.key === "/") document.getElementById("trace-id")?.focus();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

/** After going to another page the focus is on its content, not on a link that is gone. */
function usePageFocus(path) {
  const before = useRef(path);
  useEffect(() => {
    if (before.current === path) return;
    before.current = path;
    scrollTo(0, 0);
    document.getElementById("main")?.focus({ preventScroll: true });
  }, [path]);
}

function skipToMain(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

render(html`<${App} />`, document.getElementById("app"));
