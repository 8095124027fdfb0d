// How each service does, and what got lost of it. Owns: the table, what a row shows when it is opened.
// Must not know: how charts are drawn.

import { address, colourOf, count, duration, html, navigate, shownName, useJson } from "./lib.js";
import { lossesInWords, percent, rate, strategyWords } from "./explain.js";
import { Icon } from "./icons.js";
import { SOURCES } from "./sampling/sources.js";
import { Red } from "./services/red.js";
import { explained } from "./tooltip.js";

const EVERY_MS = 15_000;

export function ServicesPage({ query }) {
  const open = query.get("open");
  const { data, error, loading, reload } = useJson("/ui/data/services", {}, EVERY_MS);
  const services = data?.services ?? [];
  return html`<div class="page" aria-busy=${loading && !data}>
    <div class="page-head"><div><h1 tabindex="-1">Services</h1><p class="muted small">The last hour. Durations are those of what was asked of a service, where anything was.</p></div></div>
    ${error && html`<div class="notice error" role="alert"><span>The services cannot be shown: ${error.message}</span>
      <button type="button" class="button" onClick=${reload}>Try again</button></div>`}
    ${loading && !data && html`<p class="muted loading" role="status">Loading …</p>`}
    ${data && !services.length && html`<div class="card empty"><h2>No service has sent a span yet</h2><p><a href=${address("/")}>How to send the first trace</a></p></div>`}
    ${services.length > 0 && html`<section class="card table-scroll" tabindex="0" role="region" aria-label="Services as a table"><table class="service-table">
      <caption class="visually-hidden">Services in the last hour, those with the most spans first</caption>
      <thead><tr><th scope="col">Service</th><th scope="col" class="number">Spans</th><th scope="col" class="number">Rate</th><th scope="col" class="number">Errors</th>
        <th scope="col" class="number">Half take less than</th><th scope="col" class="number">95 % take less than</th><th scope="col" class="number"><${CostHead} /></th>
        <th scope="col">Sampling</th><th scope="col">Lost</th></tr></thead>
      <tbody>${services.map((service) => html`<${Row} key=${service.name} service=${service} isOpen=${service.name === open} />`)}</tbody></table></section>`}</div>`;
}

function CostHead() {
  const why = "What tracing itself costs a request of this service, in CPU time, by its agent's own measurement.";
  return html`<button type="button" class="explained-head" aria-label=${`Tracing costs. ${why}`} ...${explained(why)}>Tracing costs</button>`;
}

function Row({ service, isOpen }) {
  const { name, spans, errors } = service;
  const losses = lossesInWords(service.losses);
  const toggle = () => navigate("/services", { open: isOpen ? "" : name }, { replace: true });
  return html`<tr class=${isOpen ? "opened" : ""}>
      <th scope="row"><button type="button" class="disclose" aria-expanded=${isOpen} onClick=${toggle}><${Icon} name=${isOpen ? "down" : "right"} />
        <span class="dot" style=${{ color: colourOf(name) }}></span><span class="name">${shownName(name)}</span></button></th>
      <td class="number">${count(spans)}</td><td class="number">${rate(service.rate_per_s)}</td>
      <td class=${errors ? "number error-text" : "number"}>${errors ? `${count(errors)} (${percent(errors / Math.max(1, spans))})` : "0"}</td>
      <td class="number">${length(service.p50_us)}</td><td class="number">${length(service.p95_us)}</td><td class="number">${length(service.cost_us)}</td>
      <td><a href=${address("/sampling", { service: name })}>${strategyWords(service.strategy)}</a>${Object.hasOwn(SOURCES, service.source ?? "") && html` <span class="muted small">${SOURCES[service.source].label}</span>`}</td>
      <td><${Lost} losses=${losses} onOpen=${toggle} isOpen=${isOpen} /></td></tr>
    ${isOpen && html`<tr class="detail"><td colspan="9"><${Detail} service=${service} losses=${losses} /></td></tr>`}`;
}

const length = (us) => (us === null || us === undefined ? "–" : duration(us));

function Lost({ losses, onOpen, isOpen }) {
  const lost = losses.filter((loss) => loss.onTheWay);
  if (!lost.length) return html`<span class="muted">nothing</span>`;
  return html`<button type="button" class="chip warning" aria-expanded=${isOpen} onClick=${onOpen}>${lost[0].what}${lost.length > 1 && ` and more`}</button>`;
}

function Detail({ service, losses }) {
  return html`<div class="service-detail">
    <div class="toolbar"><a class="button" href=${address("/", { service: service.name })}>Its traces</a>
      <a class="button" href=${address("/", { service: service.name, tags: "error=true" })}>Its errors</a>
      <a class="button" href=${address("/dependencies", { around: service.name })}>Who calls it, whom it calls</a>
      <a class="button" href=${address("/sampling", { service: service.name })}>Its sampling</a></div>
    ${losses.length > 0 && html`<ul class="losses" aria-label="What was lost">${losses.map(({ cause, what, help, onTheWay }) => html`
      <li key=${cause} class=${`notice ${onTheWay ? "warning" : ""}`}><span><b>${what}</b>: ${help}.</span></li>`)}</ul>`}
    ${service.cost_us !== null && service.cost_us !== undefined && html`<p class="muted small">Tracing costs each request ${duration(service.cost_us)} of CPU time${costShare(service)}, by the agent's own measurement.</p>`}
    <${Red} service=${service.name} onlyEntries=${service.requests === undefined || service.requests > 0} /></div>`;
}

function costShare({ cost_us: cost, p50_us: middle }) {
  return middle > 0 ? `, ${percent(cost / middle)} of a usual one` : "";
}
