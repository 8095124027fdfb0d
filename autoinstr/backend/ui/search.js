// The start page: find traces, watch them come, choose two to compare.
// Owns: which traces are shown, in which order, and that all of this is in the address. Must not know: how they are drawn.

import {
  address, count, dateTime, fetchJson, html, navigate, plural, useEffect, useJson, useKeys, useMemo, useNow, useRef, useState,
} from "./lib.js";
import { Icon } from "./icons.js";
import { Scatter } from "./scatter.js";
import { SearchForm } from "./search/form.js";
import { useLive, useReading } from "./search/live.js";
import { CUSTOM, SORTS, decidesAlone, fromAddress, toAddress, toParameters } from "./search/query.js";
import { ResultList } from "./search/results.js";
import { Empty } from "./search/empty.js";
import { DeleteEverything, DownloadButton, UploadButton } from "./search/actions.js";

export const shortcuts = [
  ["j or k", "Next or previous trace"], ["x", "Select the trace in focus for comparison"], ["c", "Compare the two that are selected"],
  ["l", "Live tail on or off"], ["f", "Go to the form"],
];

/** Between two searches that live events have caused. */
const REPEAT_MS = 1000;

export function SearchPage({ query }) {
  const search = useMemo(() => fromAddress(query), [query.toString()]);
  const ids = query.getAll("traceID");
  const look = { sort: Object.hasOwn(SORTS, query.get("sort") ?? "") ? query.get("sort") : "", scale: query.get("scale") === "linear" ? "linear" : "", live: query.get("live") === "1" ? "1" : "" };
  const found = useSearch(search, ids);
  const services = useJson("/api/services", {}, 20_000);
  const tail = useTail(search, look.live === "1" && ids.length === 0, found);
  const nowMs = useNow();
  const [hovered, setHovered] = useState(null);
  const { selected, select, clearSelection } = useSelection(found.traces);

  const shown = useMemo(() => [...found.traces].sort(SORTS[look.sort || "newest"][1]), [found.traces, look.sort]);
  // The same element as before, unless something in it is another: pointing at the plot must not draw a thousand rows anew.
  const list = useMemo(() => html`<${ResultList} traces=${shown} fresh=${tail.fresh} selected=${selected} onSelect=${select} onHover=${setHovered}
    nowMs=${nowMs} reading=${tail.reading} />`, [shown, tail.fresh, selected.join(), nowMs]);
  const change = (changes) => navigate("/", { ...(ids.length ? { traceID: ids } : toAddress(search)), ...look, ...changes });
  const find = (next) => {
    if (JSON.stringify(toAddress(next)) === JSON.stringify(toAddress(search)) && !ids.length) found.again();
    else navigate("/", { ...toAddress(next), ...look, live: next.lookback === CUSTOM ? "" : look.live });
  };
  const compare = () => selected.length === 2 && navigate("/compare", { a: selected[0], b: selected[1] });
  const toggleLive = () => (look.live ? change({ live: "" })
    : navigate("/", { ...toAddress(search.lookback === CUSTOM ? { ...search, lookback: "" } : search), ...look, live: "1" }));
  useKeys({
    j: () => step(1), k: () => step(-1), l: toggleLive, c: compare,
    f: () => document.getElementById("service")?.focus(),
    x: () => document.activeElement?.closest(".result")?.querySelector("input[type=checkbox]")?.click(),
  });

  return html`<div class="page search-page">
    <h1 class="visually-hidden" tabindex="-1">Search</h1>
    <aside class="card"><${SearchForm} search=${search} services=${services.data?.data ?? []} onSearch=${find} /></aside>
    <section class="found" aria-label="Traces" aria-busy=${found.loading}>
      <div class="toolbar">
        <h2>${headline(found, ids)}</h2><span class="visually-hidden" role="status">${headline(found, ids)}</span>
        ${shown.length > 0 && html`<${Switch} label="Order" value=${look.sort || "newest"} onChange=${(sort) => change({ sort: sort === "newest" ? "" : sort })}
          choices=${Object.entries(SORTS).map(([value, [words]]) => [value, words])} />`}
        <span class="actions">
          <button type="button" class="button" aria-pressed=${Boolean(look.live)} onClick=${toggleLive}><${Icon} name="play" />Live</button>
          <${UploadButton} /><${DownloadButton} traces=${shown} /><${DeleteEverything} onDeleted=${() => { found.again(); services.reload(); }} />
        </span>
      </div>
      ${look.live && html`<${TailBar} tail=${tail} onClear=${found.clear} />`}
      <${Told} found=${found} search=${search} ids=${ids} onSearch=${find} />
      ${shown.length > 0 && html`
        <${Scatter} traces=${shown} scale=${look.scale || "log"} highlighted=${hovered} onHover=${setHovered}
          onScale=${(scale) => change({ scale: scale === "log" ? "" : scale })}
          onOpen=${(id) => navigate("/trace/" + id)}
          onRange=${(start, end) => navigate("/", { ...toAddress({ ...search, lookback: CUSTOM, start, end }), ...look, live: "" })} />
        ${list}`}
      ${shown.length === 0 && !found.loading && !found.error && html`<${Empty} hasServices=${(services.data?.data ?? []).length > 0} isLive=${Boolean(look.live)} search=${search} onSearch=${find} />`}
      ${selected.length > 0 && html`<div class="selection card" role="region" aria-label="Comparison">
        <span>${selected.length === 2 ? "Two traces are selected." : "One trace is selected; choose another one to compare."}</span>
        <a class="button primary" aria-disabled=${selected.length < 2 ? "true" : undefined}
          href=${selected.length === 2 ? address("/compare", { a: selected[0], b: selected[1] }) : undefined}>Compare</a>
        <button type="button" class="button" onClick=${clearSelection}>Clear the selection</button></div>`}
    </section></div>`;
}

/** What the backend has found: `{ traces, loading, error, again, clear, merge }`. */
function useSearch(search, ids) {
  const [state, setState] = useState({ traces: [], loading: true, error: null });
  const [turn, setTurn] = useState(0);
  const key = JSON.stringify([search, ids]);
  useEffect(() => {
    const stop = new AbortController();
    setState((before) => ({ ...before, loading: true }));
    ask(search, ids, stop.signal).then(
      (traces) => setState({ traces, loading: false, error: null }),
      (error) => stop.signal.aborted || setState({ traces: [], loading: false, error }));
    return () => stop.abort();
  }, [key, turn]);
  const most = Math.max(Number(search.limit), 1);
  return {
    ...state,
    again: () => setTurn((before) => before + 1),
    clear: () => setState((before) => ({ ...before, traces: [] })),
    merge: (newer) => setState((before) => ({ ...before, traces: merged(before.traces, newer, most) })),
  };
}

async function ask(search, ids, signal) {
  const answer = await fetchJson("/ui/data/search", ids.length ? { traceID: ids } : toParameters(search, Date.now()), { signal });
  return answer.traces;
}

/** A trace that was there already takes its newer figures: it may still have been growing. */
function merged(before, newer, most) {
  const byId = new Map([...before, ...newer].map((trace) => [trace.traceID, trace]));
  return [...byId.values()].sort(SORTS.newest[1]).slice(0, most);
}

/** The live tail: what has come goes into the list at once, unless it is paused or somebody reads. */
function useTail(search, on, found) {
  const [paused, setPaused] = useState(false);
  const [held, setHeld] = useState([]);
  const [fresh, setFresh] = useState(new Set());
  const reading = useReading();
  const known = useRef(new Set());
  for (const trace of found.traces) known.current.add(trace.traceID);
  const show = (traces) => {
    setHeld([]);
    setFresh(new Set(traces.map((trace) => trace.traceID)));
    found.merge(traces);
  };
  const take = (traces) => {
    const all = merged(held, traces, Number(search.limit));
    if (all.length && !paused && !reading.isReading()) show(all);
    else setHeld(all);
  };
  const searchAgain = useLater(() => ask(search, [], undefined).then(
    (all) => take(all.filter((trace) => !known.current.has(trace.traceID))), () => {}));
  const state = useLive(on, (traces, isAll) => {
    if (isAll && decidesAlone(search)) take(traces.filter((trace) => !search.service || trace.services.some(({ name }) => name === search.service)));
    else searchAgain();
  });
  useEffect(() => {
    if (!on || !held.length || paused) return undefined;
    const timer = setInterval(() => reading.isReading() || show(held), 500);
    return () => clearInterval(timer);
  }, [on, held, paused]);
  useEffect(() => { setHeld([]); setPaused(false); known.current = new Set(); }, [on, JSON.stringify(search)]);
  return { state, paused, setPaused, held, show: () => show(held), fresh, reading };
}

/** The latest `act`, REPEAT_MS after it was first wanted: events come twice a second, searches need not. */
function useLater(act) {
  const latest = useRef(act);
  latest.current = act;
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  return () => {
    if (timer.current) return;
    timer.current = setTimeout(() => { timer.current = 0; latest.current(); }, REPEAT_MS);
  };
}

const TAIL_WORDS = { off: "", connecting: "Connecting …", open: "New traces appear here as they come.", broken: "The connection is broken; it is tried again." };

function TailBar({ tail, onClear }) {
  return html`<div class="tail toolbar">
    <span class=${`beat ${tail.state === "open" && !tail.paused ? "on" : ""}`} aria-hidden="true"></span>
    <span class="small muted" role="status">${tail.paused ? "Paused." : TAIL_WORDS[tail.state]}</span>
    ${tail.held.length > 0 && html`<button type="button" class="button primary" onClick=${tail.show}>Show ${plural(tail.held.length, "new trace")}</button>`}
    <span class="actions"><button type="button" class="button" aria-pressed=${tail.paused} onClick=${() => tail.setPaused(!tail.paused)}>
        <${Icon} name="pause" />Pause</button>
      <button type="button" class="button" onClick=${onClear}>Clear the list</button></span></div>`;
}

function useSelection(traces) {
  const [selected, setSelected] = useState([]);
  const here = selected.filter((id) => traces.some((trace) => trace.traceID === id));
  const select = (id) => setSelected((before) => (before.includes(id) ? before.filter((one) => one !== id) : [...before, id].slice(-2)));
  return { selected: here, select, clearSelection: () => setSelected([]) };
}

function headline(found, ids) {
  if (found.loading && !found.traces.length) return "Searching …";
  if (ids.length) return plural(found.traces.length, "chosen trace");
  return found.traces.length ? plural(found.traces.length, "trace") : "Traces";
}

/** What stands between the toolbar and the list: an error, the range that was marked, more than was asked for. */
function Told({ found, search, ids, onSearch }) {
  const all = { ...search, lookback: "", start: "", end: "" };
  return html`<div class="told">
    ${found.error && html`<div class="notice error" role="alert"><span><b>The search failed.</b> ${found.error.message}</span>
      <button type="button" class="button" onClick=${found.again}>Try again</button></div>`}
    ${ids.length > 0 && html`<div class="notice"><span>Only the traces whose ids are in the address are shown.</span>
      <button type="button" class="button" onClick=${() => navigate("/")}>Search instead</button></div>`}
    ${!ids.length && search.lookback === CUSTOM && html`<div class="notice"><span>${rangeWords(search)}</span>
      <button type="button" class="button" onClick=${() => onSearch(all)}>All times</button></div>`}
    ${!ids.length && found.traces.length >= Number(search.limit) && html`<p class="muted small">
      These are the newest ${count(found.traces.length)}; there may be more. Narrow the search, or raise the limit.</p>`}
  </div>`;
}

function rangeWords({ start, end }) {
  const parts = [start && `after ${dateTime(Number(start))}`, end && `before ${dateTime(Number(end))}`].filter(Boolean);
  return parts.length ? `Only traces with spans that started ${parts.join(" and ")}.` : "Choose times in the form.";
}

export function Switch({ label, value, choices, onChange }) {
  return html`<div class="switch" role="group" aria-label=${label}>${choices.map(([choice, words]) => html`
    <button type="button" class="button" aria-pressed=${choice === value} onClick=${() => onChange(choice)}>${words}</button>`)}</div>`;
}

/** Move the focus through the list, without a wrap at its ends. */
function step(by) {
  const titles = [...document.querySelectorAll(".result .title")];
  const at = titles.indexOf(document.activeElement?.closest(".result")?.querySelector(".title"));
  titles[Math.min(titles.length - 1, Math.max(0, at + by))]?.focus();
}
