// Which traces are kept, by whose word. Owns: the list of services with their strategies and decisions, resetting one.
// Must not know: the form of a strategy (sampling/form.js), its rules (the backend).

import { address, colourOf, count, fetchJson, html, navigate, plural, shownName, useJson, useState } from "./lib.js";
import { samplerWords, strategyWords } from "./explain.js";
import { Icon } from "./icons.js";
import { Editor } from "./sampling/editor.js";
import { SOURCES } from "./sampling/sources.js";
import { explained } from "./tooltip.js";

const EVERY_MS = 15_000;

export function SamplingPage({ query }) {
  const wanted = query.get("service");
  const { data, error, loading, reload } = useJson("/ui/data/sampling", {}, EVERY_MS);
  const [edited, setEdited] = useState(null);
  const [told, setTold] = useState(null);
  // Where traces begin it is decided which are kept: these services first.
  const services = (data?.services ?? []).filter((service) => !wanted || service.name === wanted)
    .sort((one, other) => other.decisions.length - one.decisions.length || one.name.localeCompare(other.name));
  const reset = async (name) => {
    try {
      await fetchJson(`/ui/data/sampling/${encodeURIComponent(name)}`, {}, { method: "DELETE" });
      setTold({ text: `${name} has again what it had before.` });
    } catch (caught) {
      setTold({ kind: "error", text: `The strategy of ${name} could not be reset: ${caught.message}` });
    }
    reload();
  };
  return html`<div class="page" aria-busy=${loading && !data}>
    <div class="page-head"><div><h1 tabindex="-1">Sampling</h1>
      <p class="muted small">What each service is told to keep, and what its samplers say of the traces that came.</p></div>
      ${wanted && html`<button type="button" class="button" onClick=${() => navigate("/sampling")}>All services</button>`}</div>
    ${data && html`<${Target} perSecond=${data.target_per_s} />`}
    ${error && html`<div class="notice error" role="alert"><span>The strategies cannot be shown: ${error.message}</span>
      <button type="button" class="button" onClick=${reload}>Try again</button></div>`}
    ${told && html`<div class=${`notice ${told.kind ?? "ok"}`} role=${told.kind === "error" ? "alert" : "status"}><span>${told.text}</span>
      <button type="button" class="button quiet icon-only" aria-label="Close" onClick=${() => setTold(null)}><${Icon} name="close" /></button></div>`}
    ${loading && !data && html`<p class="muted loading" role="status">Loading …</p>`}
    ${data && !services.length && html`<div class="card empty"><h2>${wanted ? "This service is not known" : "No service is known yet"}</h2>
      <p class="muted">A service is here once it has sent a span or asked for its strategy.</p></div>`}
    ${services.map((service) => html`<${Service} key=${service.name} service=${service} onEdit=${() => { setTold(null); setEdited(service); }} onReset=${() => reset(service.name)} />`)}
    ${edited && html`<${Editor} service=${edited} onClose=${() => setEdited(null)}
      onDone=${() => { setTold({ text: `The strategy of ${edited.name} is saved.` }); reload(); }} />`}</div>`;
}

function Target({ perSecond }) {
  if (perSecond === null || perSecond === undefined) return null;
  return html`<div class="notice"><span><b>Adaptive sampling is on.</b> The backend steers each operation to ${plural(perSecond, "trace")} a second, unless a strategy is set by hand.</span></div>`;
}

function Service({ service, onEdit, onReset }) {
  const source = SOURCES[service.source] ?? { label: service.source, why: "" };
  return html`<section class="card sampling-service" aria-label=${`Sampling of ${service.name}`}>
    <div class="sampling-head"><h2><span class="dot" style=${{ color: colourOf(service.name) }}></span><span class="name">${shownName(service.name)}</span></h2>
      <span class="strategy">${strategyWords(service.strategy)}</span>
      <button type="button" class="chip" aria-label=${`${source.label}. ${source.why}`} ...${explained(source.why)}>${source.label}</button>
      ${!service.decisions.length && html`<span class="muted small">No trace has begun in this service yet.</span>`}
      <span class="actions">${service.source === "edited" && html`<button type="button" class="button" onClick=${onReset}><${Icon} name="reset" />Reset</button>`}
        <button type="button" class="button" aria-label=${`Edit the strategy of ${service.name}`} onClick=${onEdit}>Edit</button></span></div>
    <${OwnShares} strategy=${service.strategy} />
    <${Decisions} service=${service.name} decisions=${service.decisions} /></section>`;
}

function OwnShares({ strategy }) {
  const rows = strategy?.operationSampling?.perOperationStrategies ?? [];
  if (!rows.length) return null;
  return html`<details><summary>${plural(rows.length, "operation")} with a share of ${rows.length === 1 ? "its" : "their"} own</summary>
    <ul class="shares">${rows.slice(0, 200).map(({ operation, probabilisticSampling }) => html`<li><span class="name">${shownName(operation)}</span>
      <span class="number">${strategyWords({ probabilisticSampling })}</span></li>`)}</ul></details>`;
}

function Decisions({ service, decisions }) {
  if (!decisions.length) return null;
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label=${`Decisions of ${service}`}><table><caption class="visually-hidden">What the samplers of ${service} decided</caption>
    <thead><tr><th scope="col">Operation</th><th scope="col">Kept by</th><th scope="col" class="number">Traces that came</th><th scope="col" class="number">About so many happened</th></tr></thead>
    <tbody>${decisions.map((decision) => html`<tr key=${`${decision.operation}\n${decision.type}\n${decision.param}`}>
      <td><a class="name block" href=${address("/", { service, operation: decision.operation })}>${shownName(decision.operation)}</a></td>
      <td><${KeptBy} decision=${decision} /></td><td class="number">${count(decision.traces)}</td><td class="number">${happened(decision)}</td></tr>`)}</tbody></table></div>`;
}

function KeptBy({ decision }) {
  const { label, why } = samplerWords(decision);
  return html`<button type="button" class="chip why" aria-label=${`${label}. ${why}`} ...${explained(why)}>${label}</button>`;
}

/** A trace that was kept with a chance of one in ten stands for ten. */
function happened({ type, param, traces }) {
  const rate = Number(param);
  if (type === "const") return count(traces);
  return type === "probabilistic" && rate > 0 && rate <= 1 ? count(Math.round(traces / rate)) : "not known";
}
