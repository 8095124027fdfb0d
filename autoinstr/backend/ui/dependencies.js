// Which service calls which. Owns: the time looked at, the part of the graph shown, the table that says the same.
// Must not know: how the graph is laid out.

import { address, colourOf, count, html, navigate, plural, shownName, useJson, useMemo, useNow } from "./lib.js";
import { percent } from "./explain.js";
import { DEFAULT_LOOKBACK, LookbackSelect, secondsOf } from "./lookback.js";
import { Graph } from "./dependencies/graph.js";

/** More boxes than this are not read any more, but looked for. */
const READABLE_SERVICES = 60;

export function DependenciesPage({ query }) {
  const lookback = secondsOf(query.get("lookback")) ? query.get("lookback") : DEFAULT_LOOKBACK;
  const around = query.get("around") ?? "";
  // The minute, not the moment: the address that is asked must not change with every drawing.
  const endTs = Math.ceil(useNow(60_000) / 60_000) * 60_000;
  const { data, error, loading, reload } = useJson("/ui/data/dependencies", { endTs, lookback: secondsOf(lookback) * 1000 });
  const all = data?.edges ?? [];
  const edges = useMemo(() => (around ? all.filter(({ parent, child }) => parent === around || child === around) : all), [data, around]);
  const names = useMemo(() => [...new Set(all.flatMap(({ parent, child }) => [parent, child]))].sort(), [data]);
  const change = (changes) => navigate("/dependencies", { lookback: lookback === DEFAULT_LOOKBACK ? "" : lookback, around, ...changes });
  const isTooLarge = !around && names.length > READABLE_SERVICES;
  const searchQuery = { lookback: lookback === DEFAULT_LOOKBACK ? "" : lookback };

  return html`<div class="page" aria-busy=${loading}>
    <div class="page-head"><div><h1 tabindex="-1">Dependencies</h1><p class="muted small">Calls from one service to another. A line is the wider the more calls. Choose a service to search its traces.</p></div>
      <div class="field"><label for="around">Around</label><select id="around" value=${around} onChange=${(event) => change({ around: event.currentTarget.value })}>
        <option value="">All services</option>${(around && !names.includes(around) ? [around, ...names] : names).map((name) => html`<option value=${name}>${shownName(name)}</option>`)}</select></div>
      <div class="field"><label for="lookback">From the last</label><${LookbackSelect} id="lookback" value=${lookback}
        onChange=${(value) => change({ lookback: value === DEFAULT_LOOKBACK ? "" : value })} /></div></div>
    ${error && html`<div class="notice error" role="alert"><span>The dependencies cannot be shown: ${error.message}</span>
      <button type="button" class="button" onClick=${reload}>Try again</button></div>`}
    ${loading && !data && html`<p class="muted loading" role="status">Loading …</p>`}
    ${data && !edges.length && html`<${NoCalls} />`}
    ${isTooLarge && html`<div class="notice"><span>${plural(names.length, "service")} are too many to read at once: choose one above to see what is around it.</span></div>`}
    ${edges.length > 0 && html`${!isTooLarge && html`<section class="card"><${Graph} edges=${edges} searchQuery=${searchQuery} /></section>`}
      <${Table} edges=${edges} searchQuery=${searchQuery} />`}</div>`;
}

function NoCalls() {
  return html`<div class="card empty"><h2>No calls between services in this time</h2>
    <p class="muted">A call is here once both sides of it have sent their spans: that of the caller, and that of the called with the caller's as its parent.
      When both are traced and a call is missing, the trace's headers do not get from one to the other.</p></div>`;
}

function Table({ edges, searchQuery }) {
  const rows = [...edges].sort((one, other) => other.calls - one.calls);
  const link = (name) => html`<a class="name service-link" href=${address("/", { ...searchQuery, service: name })}><span class="dot" style=${{ color: colourOf(name) }}></span>${shownName(name)}</a>`;
  return html`<section class="card table-scroll" tabindex="0" role="region" aria-label="Calls as a table"><table>
    <caption class="visually-hidden">Calls between services, the most frequent first</caption>
    <thead><tr><th scope="col">Caller</th><th scope="col">Called</th><th scope="col" class="number">Calls</th><th scope="col" class="number">Failed</th><th scope="col" class="number">Share</th></tr></thead>
    <tbody>${rows.map(({ parent, child, calls, errors }) => html`<tr key=${`${parent}\n${child}`}>
      <td>${link(parent)}</td><td>${link(child)}</td><td class="number">${count(calls)}</td>
      <td class=${errors ? "number error-text" : "number"}>${count(errors)}</td><td class=${errors ? "number error-text" : "number"}>${percent(errors / calls)}</td></tr>`)}</tbody></table></section>`;
}
