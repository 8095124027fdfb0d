// Figures of the trace as a table, by service, by operation, or by both.
// Owns: that table. Must not know: how figures are computed.

import { colourOf, count, duration, html, plural, useMemo, useState } from "../lib.js";
import { changeAddress } from "./address.js";
import { figuresBy, sortedBy } from "./figures.js";
import { SortButton, sortState, useSorting } from "./sorting.js";

const GROUPS = [["both", "Service and operation"], ["service", "Service"], ["operation", "Operation"]];
const COLUMNS = [
  ["count", "Spans", count], ["errors", "Errors", count], ["total", "Total", duration], ["avg", "Average", duration],
  ["p95", "p95", duration], ["min", "Shortest", duration], ["max", "Longest", duration],
  ["self", "Self time", duration],
];
const MOST = 1000;
const LONGEST_NAME = 200;

/** Of the spans that `found` (search.js) holds, or of all. */
export function Statistics({ trace, found }) {
  const [by, setBy] = useState("both");
  const [sorting, sortBy] = useSorting("self", true, ["service", "operation"]);
  const figures = useMemo(() => figuresBy(trace, by, found.active ? found.matches : null), [trace, by, found]);
  const groups = useMemo(() => sortedBy(figures, sorting.key, sorting.down), [figures, sorting]);
  const names = by === "both" ? ["service", "operation"] : [by];
  const told = found.active ? `${count(found.count)} of ${count(trace.count)} spans` : plural(groups.length, "row");
  return html`<section class="card statistics">
    <div class="flame-head">
      <div class="switch" role="group" aria-label="Group by">${GROUPS.map(([name, title]) => html`
        <button type="button" class="button" aria-pressed=${by === name}
          onClick=${() => setBy(name)}>${title}</button>`)}</div>
      <span class="muted small">${told}</span>
    </div>
    <div class="table-scroll" tabindex="0" role="region" aria-label="Statistics"><table>
      <${Head} names=${names} sorting=${sorting} sortBy=${sortBy} />
      <tbody>${groups.slice(0, MOST).map((group) => html`
        <${Line} key=${`${group.service}\u0000${group.operation}`} group=${group} names=${names} />`)}</tbody>
    </table></div>
    ${groups.length > MOST && html`
      <p class="muted nothing">The first ${count(MOST)} of ${count(groups.length)} rows.</p>`}
  </section>`;
}

function Head({ names, sorting, sortBy }) {
  const heading = (key, title, kind) => html`<th scope="col" class=${kind} aria-sort=${sortState(sorting, key)}>
    <${SortButton} column=${key} title=${title} sorting=${sorting} sortBy=${sortBy} /></th>`;
  return html`<thead><tr>
    ${names.map((name) => heading(name, name === "service" ? "Service" : "Operation", ""))}
    ${COLUMNS.map(([key, title]) => heading(key, title, "number"))}
    ${heading("share", "Share of self time", "share")}
  </tr></thead>`;
}

function Line({ group, names }) {
  const find = names.map((name) => term(name, group[name])).join(" ");
  const show = () => changeAddress({ find, view: "" }, { push: true });
  const last = names.length - 1;
  return html`<tr>
    ${names.map((name, at) => html`<${at ? "td" : "th"} scope=${at ? undefined : "row"} class="named">
      ${name === "service" && html`<span class="dot" style=${{ color: colourOf(group.service) }}></span>${" "}`}
      ${at < last ? group[name].slice(0, LONGEST_NAME) : html`
        <button type="button" class="text-button" title="Find these spans in the waterfall" onClick=${show}>
          ${group[name].slice(0, LONGEST_NAME)}</button>`}<//>`)}
    ${COLUMNS.map(([key, , text]) => html`
      <td class=${`number ${key === "errors" && group.errors ? "error-text" : ""}`}>${text(group[key])}</td>`)}
    <td class="share">
      <span class="share-bar"><span style=${{ width: `${group.share * 100}%` }}></span></span>
      <span class="number">${(group.share * 100).toFixed(1)} %</span>
    </td>
  </tr>`;
}

/** What finds a group's spans in the search of the trace. */
const term = (key, value) => `${key}=${/[\s"]/.test(value) ? `"${value.replaceAll('"', "")}"` : value}`;
