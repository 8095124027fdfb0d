// What all pages share: the view library, addresses, data, text of numbers, colours.
// Owns: navigation without reloading, fetching, formatting. Must not know: any page.

import { useEffect, useRef, useState } from "./vendor/htm-preact.js";

export {
  html, render, Component, createContext,
  useState, useReducer, useEffect, useLayoutEffect, useRef, useMemo, useCallback, useContext, useErrorBoundary,
} from "./vendor/htm-preact.js";

// Where this interface is served: the backend may stand behind a proxy, below a path.
export const BASE = new URL(".", document.baseURI).pathname.replace(/\/$/, "");

/** The address of a page or of data, with its query; parameters that are "" or null are left out. */
export function address(path, query = {}) {
  const wanted = Object.entries(query).flatMap(([key, value]) =>
    (Array.isArray(value) ? value : [value]).filter((one) => one !== "" && one != null).map((one) => [key, String(one)]));
  const text = new URLSearchParams(wanted).toString();
  return BASE + path + (text ? "?" + text : "");
}

/** Go to a page; `replace` where going back should not come by here again (typing in a field). */
export function navigate(path, query = {}, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address(path, query));
  dispatchEvent(new PopStateEvent("popstate"));
}

/** JSON from the backend; throws an Error whose message can be shown. */
export async function fetchJson(path, query = {}, options = {}) {
  const response = await fetch(address(path, query), options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The backend does not answer. Is it still running?");
  });
  const text = await response.text();
  let data = null;
  try { data = text ? JSON.parse(text) : null; } catch { /* an error page of something in between */ }
  if (!response.ok) {
    const told = data?.errors?.map((error) => error.msg).join("; ") || data?.error?.message || data?.error || text.slice(0, 200);
    throw new Error(told || `${response.status} ${response.statusText}`);
  }
  return data;
}

/** 850 µs, 12.3 ms, 1.20 s, 2 m 5 s. */
export function duration(us) {
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${threeDigits(us / 1e3)} ms`;
  if (us < 60e6) return `${threeDigits(us / 1e6)} s`;
  return `${Math.floor(us / 60e6)} m ${Math.round((us % 60e6) / 1e6)} s`;
}

function threeDigits(number) {
  return number < 9.995 ? number.toFixed(2) : number < 99.95 ? number.toFixed(1) : number.toFixed(0);
}

/** 12,345 */
export const count = (number) => number.toLocaleString("en-US");

/** The local date and time of microseconds since the epoch. */
export function dateTime(us) {
  return new Date(us / 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** "3 minutes ago" */
export function ago(us, nowMs = Date.now()) {
  const seconds = Math.max(0, (nowMs - us / 1000) / 1000);
  for (const [limit, divisor, unit] of [[90, 1, "second"], [5400, 60, "minute"], [129600, 3600, "hour"]]) {
    if (seconds < limit) return plural(Math.round(seconds / divisor), unit) + " ago";
  }
  return plural(Math.round(seconds / 86400), "day") + " ago";
}

export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A name that a span brings, as something that can be seen and clicked, also when there is nothing in it. */
export const shownName = (text) => (/[^\s\p{C}]/u.test(text) ? text : "(blank)");

const COLOURS = 12;
const COLOURS_KEY = "autoinstr.colours";
const REMEMBERED_SERVICES = 300;
let chosenColours = null;

/**
 * A service's colour, the same on all pages and in all sessions of a browser: one of the twelve `--service-N` of the style
 * sheet. The name chooses it, unless another service has it already and there is one that is used less: with five services
 * two would have the same colour in six cases of ten.
 */
export function colourOf(service) {
  const colours = (chosenColours ??= rememberedColours());
  const key = service.slice(0, 100);
  if (!colours.has(key)) {
    colours.set(key, freeColour(key, [...colours.values()]));
    rememberColours(colours);
  }
  return `var(--service-${colours.get(key)})`;
}

function freeColour(name, taken) {
  let hash = 7;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  const used = Array.from({ length: COLOURS }, (_, colour) => taken.filter((one) => one === colour).length);
  const fewest = Math.min(...used);
  let colour = hash % COLOURS;
  while (used[colour] > fewest) colour = (colour + 1) % COLOURS;
  return colour;
}

function rememberedColours() {
  try {
    const rows = JSON.parse(localStorage.getItem(COLOURS_KEY) ?? "[]");
    return new Map(rows.filter(([name, colour]) => typeof name === "string" && Number.isInteger(colour) && colour >= 0 && colour < COLOURS));
  } catch {
    return new Map();
  }
}

function rememberColours(colours) {
  try { localStorage.setItem(COLOURS_KEY, JSON.stringify([...colours].slice(-REMEMBERED_SERVICES))); } catch { /* not in this session */ }
}

/** The same as a value that a canvas understands. */
export const canvasColourOf = (service) => canvasColour(colourOf(service).slice(4, -1));

/** The value of a custom property of the style sheet, `--line` for example, in the theme of the moment. */
export function canvasColour(property) {
  return getComputedStyle(document.documentElement).getPropertyValue(property).trim();
}

/** "light" or "dark"; the component is drawn again when it changes. For canvases: elements follow by themselves. */
export function useTheme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme);
  useEffect(() => {
    const changed = () => setTheme(document.documentElement.dataset.theme);
    addEventListener("themechange", changed);
    return () => removeEventListener("themechange", changed);
  }, []);
  return theme;
}

/** Whether a key press belongs to what has the focus: a field, or anything in an open dialog. */
export function isTyping(target) {
  return target instanceof Element && target.closest("input:not([type=checkbox]), select, textarea, dialog, [contenteditable]") !== null;
}

/** Call `keys[event.key](event)` for plain keys that nobody else wants, as long as the component is shown. */
export function useKeys(keys) {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    const pressed = (event) => {
      const taken = event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey || isTyping(event.target);
      const act = taken || !Object.hasOwn(latest.current, event.key) ? null : latest.current[event.key];
      if (!act) return;
      act(event);
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

/** What `fetchJson` gives for an address: `{ data, error, loading, reload }`; what was there stays while it is asked again. */
export function useJson(path, query = {}, everyMs = 0) {
  const [state, setState] = useState({ data: null, error: null, loading: true });
  const [turn, setTurn] = useState(0);
  const key = path === null ? null : address(path, query);
  useEffect(() => {
    if (key === null) return undefined;
    const stop = new AbortController();
    const ask = () => {
      setState((before) => ({ ...before, loading: true }));
      fetchJson(path, query, { signal: stop.signal }).then(
        (data) => setState({ data, error: null, loading: false }),
        (error) => stop.signal.aborted || setState((before) => ({ ...before, error, loading: false })));
    };
    ask();
    const timer = everyMs ? setInterval(() => document.hidden || ask(), everyMs) : 0;
    return () => { stop.abort(); clearInterval(timer); };
  }, [key, turn]);
  return { ...state, reload: () => setTurn((before) => before + 1) };
}

/** The names of a service's operations, sorted; none without a service. Asked with a query, since a name like ".." is no part of a path. */
export function useOperations(service) {
  const { data } = useJson(service ? "/api/operations" : null, { service });
  return service ? [...new Set((data?.data ?? []).map(({ name }) => name))].sort() : [];
}

/** The time of now, in ms, every `everyMs`: ages on the page go on. */
export function useNow(everyMs = 10_000) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}
