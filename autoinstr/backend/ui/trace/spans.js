// All spans as a table that can be sorted.
// Owns: that table, of which only what is seen is in the document. Must not know: the waterfall.

import { colourOf, count, duration, html, plural, useMemo, useRef } from "../lib.js";
import { Icon } from "../icons.js";
import { sortedBy } from "./figures.js";
import { serviceOf } from "./model.js";
import { SortButton, sortState, useSorting } from "./sorting.js";
import { useVirtualRows } from "./virtual.js";

const ROW_PX = 30;
const HEAD_PX = 34;
const COLUMNS = [
  ["service", "Service"], ["operation", "Operation"], ["kind", "Kind"], ["start", "Starts after"],
  ["duration", "Duration"], ["self", "Self time"], ["below", "Below"], ["error", "Error"],
];
const TEXTS = ["service", "operation", "kind", "start"];
const LONGEST_NAME = 300;

export function SpanTable({ trace, found, onGo }) {
  const box = useRef(null);
  const [sorting, sortBy] = useSorting("start", false, TEXTS);
  const all = useMemo(() => listSpans(trace, found), [trace, found]);
  const sorted = useMemo(() => sortedBy(all, sorting.key, sorting.down), [all, sorting]);
  const list = useVirtualRows({ box, count: sorted.length, height: ROW_PX, above: HEAD_PX });
  const told = found.active ? `${count(sorted.length)} of ${plural(trace.count, "span")} match` : plural(trace.count, "span");
  return html`<section class="card spans">
    <p class="spans-told muted small" role="status">${told}</p>
    <div class="spans-box" ref=${box} role="table" tabindex="0" aria-label="Spans" aria-rowcount=${sorted.length + 1}>
      <div role="rowgroup" class="spans-head"><div role="row" class="spans-row" aria-rowindex="1">
        ${COLUMNS.map(([key, title]) => html`<div role="columnheader" class=${`span-${key}`}
          aria-sort=${sortState(sorting, key)}>
          <${SortButton} column=${key} title=${title} sorting=${sorting} sortBy=${sortBy} /></div>`)}</div></div>
      <div role="rowgroup" class="rows" style=${{ height: `${list.total}px` }}>
        ${sorted.slice(list.first, list.last).map((one, at) => html`<${Line} key=${one.node} one=${one} onGo=${onGo}
          number=${list.first + at} top=${list.topOf(list.first + at)} />`)}</div>
    </div></section>`;
}

function listSpans(trace, found) {
  const spans = [];
  for (let node = 0; node < trace.size.length; node++) {
    if (trace.missing[node] || (found.active && !found.matches[node])) continue;
    spans.push({
      node, service: serviceOf(trace, node), operation: trace.operation[node], kind: trace.kind[node],
      start: trace.start[node], duration: trace.duration[node], self: trace.self[node],
      below: trace.size[node] - 1, error: trace.error[node],
    });
  }
  return spans;
}

function Line({ one, number, top, onGo }) {
  return html`<div role="row" class="spans-row" aria-rowindex=${number + 2} style=${{ top: `${top}px` }}>
    <div role="cell" class="span-service"><span class="dot" style=${{ color: colourOf(one.service) }}></span>
      <span class="name">${one.service.slice(0, LONGEST_NAME)}</span></div>
    <div role="cell" class="span-operation"><button type="button" class="text-button name"
      onClick=${() => onGo(one.node)}>${one.operation.slice(0, LONGEST_NAME) || "(no name)"}</button></div>
    <div role="cell" class="span-kind muted">${one.kind}</div>
    <div role="cell" class="span-start">${duration(one.start)}</div>
    <div role="cell" class="span-duration">${duration(one.duration)}</div>
    <div role="cell" class="span-self">${duration(one.self)}</div>
    <div role="cell" class="span-below">${count(one.below)}</div>
    <div role="cell" class="span-error">${one.error ? html`<span class="error-text"><${Icon} name="error" />
      <span class="visually-hidden">Error</span></span>` : ""}</div>
  </div>`;
}
