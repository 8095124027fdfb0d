// The page of one trace.
// Owns: what its views share: the trace, the search, the window of time, the tree's state, the keys.
// Must not know: how a view draws.

import { BASE, duration, html, useEffect, useKeys, useMemo, useRef, useState } from "./lib.js";
import { VIEWS, changeAddress, readAddress } from "./trace/address.js";
import { Flame } from "./trace/flame.js";
import { Services, TraceHead, Views, namingNode } from "./trace/head.js";
import { SHORTCUTS } from "./trace/keys.js";
import { useLosses, useTrace } from "./trace/load.js";
import { Minimap } from "./trace/minimap.js";
import { serviceOf } from "./trace/model.js";
import { Notices } from "./trace/notices.js";
import { collapseOneLevel, expandOneLevel, parentsFrom, reveal, visibleRows } from "./trace/rows.js";
import { findMatches, nextMatch, placeOf, withAncestors } from "./trace/search.js";
import { SpanTable } from "./trace/spans.js";
import { useTree } from "./trace/state.js";
import { Statistics } from "./trace/statistics.js";
import { Toolbar } from "./trace/toolbar.js";
import { useWholeWindow } from "./trace/virtual.js";
import { Waterfall } from "./trace/waterfall.js";
import { useWindow } from "./trace/window.js";
import { panned, zoomed } from "./trace/zoom.js";

export const shortcuts = SHORTCUTS;

const CLOSER = 0.7;
const ASIDE = 0.2;
const LONGEST_TITLE = 120;

export function TracePage({ id, query }) {
  useWholeWindow();
  const options = readAddress(query);
  const state = useTrace(id, options.raw);
  if (state.trace?.count) return html`<${Loaded} id=${id} options=${options} state=${state} />`;
  return html`<div class="page"><h1 tabindex="-1">Trace</h1>
    ${state.error ? html`<${NotThere} id=${id} state=${state} />`
      : html`<p class="muted loading" role="status">Loading the trace …</p>`}</div>`;
}

function NotThere({ id, state }) {
  const hope = state.arriving ? " It may not have arrived yet; the page asks again by itself." : "";
  return html`<div class="notice error" role="alert">
      <span>The trace ${id} cannot be shown: ${state.error}.${hope}</span>
      <button type="button" class="button" onClick=${state.reload}>Try again</button></div>
    <p><a href=${`${BASE}/`}>Search for traces</a></p>`;
}

function Loaded({ id, options, state }) {
  const { trace, path } = state;
  const [tree, changeTree] = useTree(trace);
  const [zoom, setZoom] = useWindow(trace, options);
  const [goTo, setGoTo] = useState({ node: -1 });
  const losses = useLosses(trace.orphans > 0);
  const found = useFound(trace, path, options);
  const show = (node, { open = false } = {}) => {
    changeTree((before) => revealed(trace, node, before, open));
    setGoTo({ node });
  };
  const step = (by) => {
    const node = nextMatch(found.matches, tree.active, by);
    if (found.active && node >= 0) show(node);
  };
  const goToSpan = (node) => {
    changeAddress({ span: trace.key[node], view: "" }, { push: options.view !== "waterfall" });
    show(node, { open: true });
  };
  const onTree = treeActions(trace, changeTree);
  usePermalink(trace, options, show);
  useTitle(trace);
  usePageKeys({ trace, tree, zoom, setZoom, onTree, step, show });
  const shared = { trace, path, found, onGo: goToSpan };
  const place = tree.active < 0 ? 0 : placeOf(found.matches, tree.active);
  return html`<div class="page trace-page">
    <${TraceHead} id=${id} trace=${trace} options=${options} />
    <${Notices} trace=${trace} state=${state} options=${options} losses=${losses} />
    <div class="trace-bar">
      <${Views} id=${id} options=${options} /><${Services} trace=${trace} options=${options} /></div>
    <${Toolbar} options=${options} trace=${trace} found=${found} place=${place} onStep=${step} onTree=${onTree}
      isWaterfall=${options.view === "waterfall"} />
    ${options.view === "flame" ? html`<${Flame} ...${shared} />`
      : options.view === "statistics" ? html`<${Statistics} ...${shared} />`
        : options.view === "table" ? html`<${SpanTable} ...${shared} />`
          : html`<${TimeView} ...${shared} ...${{ options, tree, zoom, losses, goTo }} onTree=${changeTree}
              onZoom=${setZoom} />`}
  </div>`;
}

/** The minimap and the waterfall below it. */
function TimeView({ trace, path, found, onGo, options, tree, zoom, losses, goTo, onTree, onZoom }) {
  const shown = useMemo(() => shownNodes(trace, found, options), [trace, found, options.hide]);
  const { collapsed, unfolded } = tree;
  const rows = useMemo(() => visibleRows(trace, { collapsed, unfolded, fold: options.fold, shown }),
    [trace, collapsed, unfolded, options.fold, shown]);
  const select = (node) => changeAddress({ span: node < 0 ? "" : trace.key[node] });
  const showAll = () => onZoom([0, trace.durationUs]);
  const isPart = zoom[1] - zoom[0] < trace.durationUs * 0.9999;
  return html`
    <${Minimap} trace=${trace} zoom=${zoom} onZoom=${onZoom} />
    ${isPart && html`<p class="zoom-told small"><span>Showing ${duration(zoom[0])} to ${duration(zoom[1])}</span>
      <button type="button" class="text-button" onClick=${showAll}>Show the whole trace</button></p>`}
    ${rows.length > 0
      ? html`<${Waterfall} ...${{ trace, path, rows, found, tree, onTree, zoom, onZoom, losses, goTo, onGo }}
          dim=${found.active && found.count > 0} onSelect=${select} />`
      : html`<p class="card nothing">No span is like that. Change the search or the filters.</p>`}`;
}

function revealed(trace, node, before, open) {
  const [collapsed, unfolded] = reveal(trace, node, before.collapsed, before.unfolded);
  return { collapsed, unfolded, active: node, open: open ? new Set([...before.open, node]) : before.open };
}

function useFound(trace, path, { find, errors, critical, longerUs }) {
  return useMemo(() => findMatches(trace, { find, errors, critical: critical ? path : null, longerUs }),
    [trace, path, find, errors, critical, longerUs]);
}

/** Filters hide what they do not want; the search only does when it is told to. */
function shownNodes(trace, found, { hide, errors, critical, longerUs }) {
  const hides = errors || critical || longerUs > 0 || (hide && found.active);
  return hides ? withAncestors(trace, found.matches) : null;
}

/** The span that the address names is shown, once for each address, as soon as it is there. */
function usePermalink(trace, { span, view }, show) {
  const shown = useRef("");
  useEffect(() => {
    if (!span || view !== "waterfall" || shown.current === span) return;
    const node = trace.indexOf.get(span) ?? trace.indexOf.get(span.toLowerCase().padStart(16, "0"));
    if (node === undefined) return;
    shown.current = span;
    show(node, { open: true });
  }, [trace, span, view]);
}

function useTitle(trace) {
  useEffect(() => {
    const node = namingNode(trace);
    document.title = `${`${serviceOf(trace, node)}: ${trace.operation[node]}`.slice(0, LONGEST_TITLE)} · autoinstr`;
  }, [trace]);
}

function treeActions(trace, changeTree) {
  return {
    expandAll: () => changeTree(() => ({ collapsed: new Set() })),
    collapseAll: () => changeTree(() => ({ collapsed: parentsFrom(trace, 0) })),
    expandLevel: () => changeTree(({ collapsed }) => ({ collapsed: expandOneLevel(trace, collapsed) })),
    collapseLevel: () => changeTree(({ collapsed }) => ({ collapsed: collapseOneLevel(trace, collapsed) })),
  };
}

function usePageKeys({ trace, tree, zoom, setZoom, onTree, step, show }) {
  const whole = trace.durationUs;
  const scale = (factor) => () => setZoom(zoomed(zoom, factor, (zoom[0] + zoom[1]) / 2, whole));
  const move = (part) => () => setZoom(panned(zoom, part, whole));
  const view = (name) => () => changeAddress({ view: name === VIEWS[0][0] ? "" : name }, { push: true });
  const toError = () => {
    const node = nextMatch(trace.error, tree.active, 1);
    if (node >= 0) show(node);
  };
  useKeys({
    "[": onTree.expandAll, "]": onTree.collapseAll, o: onTree.expandLevel, p: onTree.collapseLevel,
    w: scale(CLOSER), s: scale(1 / CLOSER), a: move(-ASIDE), d: move(ASIDE), 0: () => setZoom([0, whole]),
    f: () => document.getElementById("trace-find")?.focus(), n: () => step(1), b: () => step(-1), e: toError,
    ...Object.fromEntries(VIEWS.map(([name], at) => [at + 1, view(name)])),
  });
}
