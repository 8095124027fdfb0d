// The paths of both traces as one tree, with what each has beside it.
// Owns: which rows there are, their keys and clicks, what stands in a row. Must not know: how traces are matched.

import {
  address, colourOf, count, duration, html, useEffect, useMemo, useRef, useState,
} from "../lib.js";
import { indentOf } from "../trace/row.js";
import { toggled } from "../trace/state.js";
import { useVirtualRows, useWholeWindow } from "../trace/virtual.js";
import { SIGNS, signed, tone } from "./signs.js";

const ROW_PX = 30;
const HEAD_PX = 32;
const LONGEST_NAME = 300;
const COLUMNS = [
  ["Path", ""], ["Spans in A", "number"], ["in B", "number"], ["Time in A", "number"], ["in B", "number"],
  ["Difference", "number"], ["More or less", ""],
];

/** `found`: of difference.js; `only`: leave out what has not changed. */
export function Tree({ a, b, found, only }) {
  const box = useRef(null);
  const [collapsed, setCollapsed] = useState(new Set());
  const [active, setActive] = useState(-1);
  useEffect(() => { setCollapsed(new Set()); setActive(-1); }, [found]);
  useWholeWindow();
  const rows = useMemo(() => rowsOf(found, collapsed, only), [found, collapsed, only]);
  const list = useVirtualRows({ box, count: rows.length, height: ROW_PX, above: HEAD_PX });
  const largest = useMemo(() => found.reduce((most, one) => Math.max(most, Math.abs(one.deltaUs)), 1), [found]);
  const toggle = (at) => {
    setActive(at);
    if (found[at].end > at + 1) setCollapsed((before) => toggled(before, at));
  };
  const move = (place) => {
    const to = Math.min(rows.length - 1, Math.max(0, place));
    setActive(rows[to] ?? -1);
    list.show(to);
  };
  const pressed = (event) => {
    const action = keyAction(event.key, { rows, found, collapsed, active, toggle, move });
    if (!action || event.target !== event.currentTarget) return;
    event.preventDefault();
    action();
  };
  const clicked = (event) => {
    const row = event.target.closest("[data-at]");
    if (row && !event.target.closest("a")) toggle(Number(row.dataset.at));
  };
  const drawn = rows.slice(list.first, list.last);
  return html`<div class="card compare-box" ref=${box} role="treegrid" tabindex="0" aria-label="Paths of both traces"
    aria-rowcount=${rows.length + 1} aria-activedescendant=${drawn.includes(active) ? `path-${active}` : undefined}
    onKeyDown=${pressed} onClick=${clicked}>
    <${Head} />
    ${rows.length === 0 && html`<${Nothing} />`}
    <div role="rowgroup" class="rows" style=${{ height: `${list.total}px` }}>${drawn.map((at, place) => html`
      <${PathRow} key=${at} at=${at} one=${found[at]} a=${a} b=${b} largest=${largest} number=${list.first + place}
        top=${list.topOf(list.first + place)} closed=${collapsed.has(at)} active=${at === active} />`)}</div>
  </div>`;
}

function rowsOf(found, collapsed, only) {
  const kept = only ? withPathsTo(found) : null;
  const rows = [];
  for (let at = 0; at < found.length; at = collapsed.has(at) ? found[at].end : at + 1) {
    if (!kept || kept[at]) rows.push(at);
  }
  return rows;
}

/** What changed, and what is above it. */
function withPathsTo(found) {
  const kept = Uint8Array.from(found, ({ sign }) => (sign === "same" ? 0 : 1));
  for (let at = kept.length - 1; at >= 0; at--) if (kept[at] && found[at].parent >= 0) kept[found[at].parent] = 1;
  return kept;
}

/** What a key does; null for other keys. */
function keyAction(key, { rows, found, collapsed, active, toggle, move }) {
  const place = rows.indexOf(active);
  const steps = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: rows.length - 1 };
  if (key in steps) return () => move(steps[key]);
  if (place < 0) return null;
  const isParent = found[active].end > active + 1;
  const isOpen = isParent && !collapsed.has(active);
  if (key === "Enter") return () => toggle(active);
  if (key === "ArrowRight") return isOpen ? () => move(place + 1) : () => isParent && toggle(active);
  if (key !== "ArrowLeft") return null;
  return isOpen ? () => toggle(active) : () => found[active].parent >= 0 && move(rows.indexOf(found[active].parent));
}

function Head() {
  return html`<div role="rowgroup" class="compare-head"><div role="row" class="compare-row" aria-rowindex="1">
    ${COLUMNS.map(([title, kind]) => html`<div role="columnheader" class=${kind}>${title}</div>`)}</div></div>`;
}

function Nothing() {
  return html`<div role="rowgroup"><div role="row">
    <div role="gridcell" class="nothing">Nothing changed.</div></div></div>`;
}

function PathRow({ at, one, a, b, largest, number, top, closed, active }) {
  const expanded = one.end > at + 1 ? !closed : undefined;
  const classes = `compare-row path ${one.sign} ${active ? "active" : ""}`;
  const change = one.sign === "same" ? "muted" : tone(one.deltaUs);
  return html`<div role="row" id=${`path-${at}`} data-at=${at} class=${classes} style=${{ top: `${top}px` }}
    aria-level=${one.depth + 1} aria-rowindex=${number + 2} aria-expanded=${expanded} aria-selected=${active}>
    <div role="gridcell" class="path-name"><${PathName} one=${one} expanded=${expanded} /></div>
    <div role="gridcell" class="number">${one.a ? count(one.a.count) : "–"}</div>
    <div role="gridcell" class=${one.deltaCount ? "number changed" : "number"}>${one.b ? count(one.b.count) : "–"}</div>
    <div role="gridcell" class="number"><${Time} trace=${a} path=${one.a} /></div>
    <div role="gridcell" class="number"><${Time} trace=${b} path=${one.b} /></div>
    <div role="gridcell" class=${`number ${change}`}>${signed(one.deltaUs, duration)}</div>
    <div role="gridcell" class="delta"><${DeltaBar} us=${one.deltaUs} largest=${largest} />
      <span class="visually-hidden">${SIGNS[one.sign][1]}</span></div>
  </div>`;
}

function PathName({ one, expanded }) {
  const [mark, words] = SIGNS[one.sign];
  const state = expanded === undefined ? "" : expanded ? "opened" : "closed";
  return html`
    <span class=${`sign ${one.sign}`}><b aria-hidden="true">${mark}</b>
      <span class="visually-hidden">${words}: </span></span>
    ${one.depth > 0 && html`<span class="guides" style=${{ width: `${indentOf(one.depth)}px` }}></span>`}
    <span class=${`toggle ${state}`}></span>
    <span class="stripe" style=${{ background: one.service ? colourOf(one.service) : "" }}></span>
    <span class="name"><b>${one.service.slice(0, LONGEST_NAME)}</b> ${one.operation.slice(0, LONGEST_NAME)}</span>`;
}

/** To the right of the middle what takes longer in B, to the left what takes longer in A. */
function DeltaBar({ us, largest }) {
  const width = `${(Math.abs(us) / largest) * 50}%`;
  const style = us < 0 ? { right: "50%", width } : { left: "50%", width };
  return html`<span class=${`delta-bar ${tone(us)}`} style=${style}></span>`;
}

function Time({ trace, path }) {
  if (!path) return "–";
  const span = trace.missing[path.first] ? "" : trace.key[path.first];
  const href = address(`/trace/${encodeURIComponent(trace.id)}`, { span });
  // By keys one gets there from the trace's own page: a stop for each number would make the list too long to walk.
  return html`<a href=${href} tabindex="-1" title="Show it in its trace">${duration(path.totalUs)}</a>`;
}
