// The waterfall: a row for each span, a bar for its time.
// Owns: which rows are in the document, where their details stand, the axis. Must not know: the address, keys.

import { duration, html, useLayoutEffect, useMemo, useRef, useState } from "../lib.js";
import { hideTooltip, showTooltip } from "../tooltip.js";
import { actionsOn, useWheel } from "./actions.js";
import { Detail } from "./detail.js";
import { Divider, NAME_SHARE } from "./divider.js";
import { Row } from "./row.js";
import { rowOf } from "./rows.js";
import { useHeight, useVirtualRows } from "./virtual.js";
import { aboutSpan } from "./words.js";
import { ticks } from "./zoom.js";

const ROW_PX = 28;
const HEAD_PX = 32;
const TICK_PX = 110;

/**
 * `rows`: of rows.js; `found`: of search.js; `dim`: whether what does not match is dimmed; `tree` and `onTree`: of
 * state.js; `goTo`: `{node, turn}`: the row to scroll to whenever it changes; `onSelect(node)`: a span's detail was
 * opened.
 */
export function Waterfall({ trace, path, rows, found, dim, tree, onTree, zoom, onZoom, losses, goTo, onSelect, onGo }) {
  const box = useRef(null);
  const [heights, setHeights] = useState(NO_HEIGHTS);
  const open = useMemo(() => rowsWithDetail(rows, tree.open), [rows, tree.open]);
  const extras = useMemo(() => new Map(open.map(([row, node]) => [row, heights.get(trace.key[node]) ?? 0])),
    [open, heights]);
  const list = useVirtualRows({ box, count: rows.length, height: ROW_PX, extras, above: HEAD_PX });
  const page = Math.max(1, Math.floor((list.height - HEAD_PX) / ROW_PX) - 1);
  const actions = actionsOn({ trace, rows, tree, onTree, list, onSelect, page });
  useWheel(box, { zoom, whole: trace.durationUs, onZoom });
  useLayoutEffect(() => { if (goTo.node >= 0) list.show(rowOf(rows, goTo.node), "middle"); }, [goTo]);
  // By span and not by node: a detail that stays open keeps its height when the trace is read again.
  const measured = (key, px) =>
    setHeights((before) => (before.get(key) === px ? before : new Map(before).set(key, px)));
  const activeRow = tree.active < 0 ? -1 : rowOf(rows, tree.active);
  const drawn = range(list.first, list.last, activeRow);
  const marks = useMemo(() => marksOf(zoom, list.width), [zoom, list.width]);

  return html`<div class="waterfall">
    <div class="waterfall-box" ref=${box} role="treegrid" tabindex="0" aria-label="Spans"
      aria-rowcount=${rows.length + 1} aria-colcount="2"
      aria-activedescendant=${activeRow >= 0 ? `row-${rows[activeRow].node}` : undefined}
      onKeyDown=${actions.onKeyDown} onClick=${actions.onClick}
      onMouseOver=${(event) => tell(event, { trace, rows, path })} onMouseLeave=${hideTooltip}>
      <${Head} marks=${marks} />
      <div role="presentation" class="lines"><${Lines} marks=${marks} /></div>
      <div role="rowgroup" class="rows" style=${{ height: `${list.total}px` }}>
        ${drawn.map((number) => html`
          <${Row} key=${rows[number].node} ...${rowProps({ trace, path, rows, found, dim, tree, zoom }, number)}
            top=${list.topOf(number)} active=${number === activeRow} />`)}
        ${open.filter(([row]) => row >= list.first && row < list.last).map(([row, node]) => html`
          <${DetailRow} key=${`detail-${trace.key[node]}`} top=${list.topOf(row) + ROW_PX} level=${rows[row].level}
            onHeight=${(px) => measured(trace.key[node], px)}>
            <${Detail} trace=${trace} node=${node} path=${path} losses=${losses} onGo=${onGo} /><//>`)}
      </div>
    </div>
    <${Divider} box=${box} />
  </div>`;
}

const NO_HEIGHTS = new Map();

function rowsWithDetail(rows, open) {
  const isItself = ([row, node]) => row >= 0 && rows[row].node === node && rows[row].last === node;
  return [...open].map((node) => [rowOf(rows, node), node]).filter(isItself);
}

/** What is seen, and the active row wherever it is: assistive technology is pointed at it. */
function range(first, last, active) {
  const found = Array.from({ length: Math.max(0, last - first) }, (_, at) => first + at);
  return active >= 0 && (active < first || active >= last) ? [...found, active] : found;
}

function rowProps({ trace, path, rows, found, dim, tree, zoom }, number) {
  const { node, last, level, place, of } = rows[number];
  const run = last === node && tree.unfolded.size && tree.unfolded.has(node) ? trace.run[node] : 0;
  return {
    trace, node, last, level, place, of, number, zoom, sections: path.get(node), open: tree.open.has(node), folds: run,
    closed: tree.collapsed.has(node), match: found.active && hasMatch(found.matches, node, last),
    dim: dim && !hasMatch(found.matches, node, last),
  };
}

function hasMatch(matches, node, last) {
  for (let at = node; at <= last; at++) if (matches[at]) return true;
  return false;
}

function Head({ marks }) {
  return html`<div role="rowgroup" class="waterfall-head"><div role="row" class="head-row" aria-rowindex="1">
    <div role="columnheader" class="cell-name">Service and operation</div>
    <div role="columnheader" class="cell-time"><span class="visually-hidden">Time</span>
      <span aria-hidden="true">${marks.map(([at, place]) => html`
        <span class="tick" style=${{ left: `${place}%` }}>${duration(at)}</span>`)}</span></div>
  </div></div>`;
}

function Lines({ marks }) {
  return html`<div class="lines-inner">${marks.map(([, place]) => html`
    <span style=${{ left: `${place}%` }}></span>`)}</div>`;
}

/** `[µs, place in percent]` of the axis, as many as there is room for. */
function marksOf(zoom, width) {
  const most = Math.max(2, Math.min(8, Math.floor((width * (1 - NAME_SHARE)) / TICK_PX)));
  const placeOf = (at) => ((at - zoom[0]) / (zoom[1] - zoom[0])) * 100;
  return ticks(zoom, most).map((at) => [at, placeOf(at)]).filter(([, place]) => place < 97);
}

function DetailRow({ top, level, onHeight, children }) {
  const element = useHeight(onHeight);
  return html`<div role="row" class="detail-row" aria-level=${level} style=${{ top: `${top}px` }} ref=${element}>
    <div role="gridcell" aria-colspan="2">${children}</div></div>`;
}

/** On hover over a bar: what it stands for. */
function tell(event, { trace, rows, path }) {
  const bar = event.target.closest("[data-act=bar]");
  const row = rows[Number(bar?.closest(".row").dataset.row)];
  if (!row || trace.missing[row.node] || row.last > row.node) return hideTooltip();
  const place = { left: event.clientX + 12, top: event.clientY - 4, bottom: event.clientY + 12 };
  return showTooltip(aboutSpan(trace, row.node, path), place);
}
