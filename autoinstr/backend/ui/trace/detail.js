// Everything about one span.
// Owns: the panel below its row. Must not know: the list around it.

import { address, count, dateTime, duration, html, plural } from "../lib.js";
import { Icon } from "../icons.js";
import { criticalTime } from "./critical.js";
import { listOf, plainId, serviceOf, tagOf, textOf } from "./model.js";
import { changeAddress } from "./address.js";
import { CopyButton, Values } from "./values.js";
import { clockWarning, whatWasLost, whySampled } from "./words.js";

const MOST_EVENTS = 200;
const MOST_SERVICES = 5;
const LONGEST_NAME = 300;

/** `onGo(node)` shows another span of this trace. */
export function Detail({ trace, node, path, losses, onGo }) {
  if (trace.missing[node]) return html`<${MissingDetail} trace=${trace} node=${node} losses=${losses} />`;
  const span = trace.spans[node];
  const service = serviceOf(trace, node);
  const tags = listOf(span.tags);
  return html`<div class="detail">
    <header class="detail-head">
      <h3><span class="service">${service}</span> ${trace.operation[node]}</h3>
      <div class="detail-actions">
        <a class="button quiet" href=${address("/", { service, operation: trace.operation[node] })}>
          <${Icon} name="search" />Traces like this</a>
        <${CopyButton} text=${permalink(trace.key[node])} label="Copy link to this span">Copy link<//>
      </div>
    </header>
    <${Facts} trace=${trace} node=${node} path=${path} />
    <${Sampled} trace=${trace} node=${node} tags=${tags} />
    <${Warnings} span=${span} />
    <div class="detail-columns">
      <section><h4>Tags <span class="muted">${count(tags.length)}</span></h4>
        ${tags.length ? html`<${Values} tags=${tags} service=${service} label="Tags" />`
          : html`<p class="muted">None.</p>`}</section>
      <${Process} trace=${trace} span=${span} service=${service} />
    </div>
    <${Events} trace=${trace} node=${node} span=${span} />
    <${References} trace=${trace} node=${node} span=${span} onGo=${onGo} />
  </div>`;
}

function permalink(key) {
  const url = new URL(location.href);
  url.searchParams.set("span", key);
  return url.href;
}

function Facts({ trace, node, path }) {
  const critical = criticalTime(path.get(node));
  const onPath = `${duration(critical)}${part(critical, trace.durationUs, " of the trace")}`;
  const facts = [
    ["Duration", duration(trace.duration[node])],
    ["Self time", `${duration(trace.self[node])}${part(trace.self[node], trace.duration[node])}`],
    ["Starts after", duration(trace.start[node])],
    ["Starts at", dateTime(trace.startUs + trace.start[node])],
    ["On the critical path", critical ? onPath : "no"],
    ["Kind", trace.kind[node]],
    ["Spans below", below(trace, node)],
  ].filter(([, told]) => told);
  const id = textOf(trace.spans[node].spanID);
  return html`<dl class="facts">
    ${facts.map(([name, told]) => html`<div><dt>${name}</dt><dd>${told}</dd></div>`)}
    <div><dt>Span id</dt><dd class="mono">${id}<${CopyButton} text=${id} label="Copy the span id" /></dd></div>
  </dl>`;
}

function below(trace, node) {
  const errors = trace.errorsInside[node];
  if (trace.size[node] < 2) return "";
  return count(trace.size[node] - 1) + (errors ? `, ${plural(errors, "error")}` : "");
}

const part = (some, all, of = "") => (all > 0 ? ` (${Math.round((100 * some) / all)} %${of})` : "");

function Sampled({ trace, node, tags }) {
  const why = trace.parent[node] < 0 || tagOf(tags, "sampler.type") !== undefined ? whySampled(tags) : null;
  return why && html`<p class="why"><strong>Why this trace was kept.</strong> ${why}</p>`;
}

function Warnings({ span }) {
  const warnings = listOf(span.warnings).map(textOf);
  if (!warnings.length) return null;
  const clock = clockWarning(span);
  const showRaw = () => changeAddress({ raw: true }, { push: true });
  return html`<ul class="warnings">${warnings.map((warning) => html`<li>${warning}${" "}
    ${warning === clock && html`
      <button type="button" class="text-button" onClick=${showRaw}>Show the times as they were sent</button>`}
  </li>`)}</ul>`;
}

function Process({ trace, span, service }) {
  const process = trace.processes[span.processID] ?? span.process ?? {};
  const tags = listOf(process.tags);
  return html`<section><h4>Process <span class="muted">${service}</span></h4>
    ${tags.length ? html`<${Values} tags=${tags} service=${service} label="Process" />`
      : html`<p class="muted">It says nothing about itself.</p>`}</section>`;
}

function Events({ trace, node, span }) {
  const logs = listOf(span.logs).slice().sort((a, b) => a.timestamp - b.timestamp);
  if (!logs.length) return null;
  const start = trace.startUs + trace.start[node];
  const rest = logs.length - MOST_EVENTS;
  return html`<section class="events">
    <h4>Events <span class="muted">${count(logs.length)}, times after the span's start</span></h4>
    <ol>${logs.slice(0, MOST_EVENTS).map((log) => html`
      <${Event} log=${log} offset=${Number(log.timestamp) - start} long=${trace.duration[node]} />`)}</ol>
    ${rest > 0 && html`<p class="muted">${count(rest)} more are in the JSON.</p>`}
  </section>`;
}

function Event({ log, offset, long }) {
  const fields = listOf(log.fields);
  const name = tagOf(fields, "event") ?? tagOf(fields, "message") ?? "event";
  const when = `${offset < 0 ? "−" : ""}${duration(Math.abs(offset))}`;
  const outside = offset < 0 || offset > long;
  return html`<li><details>
    <summary><span class="when">${when}</span> <span class="name">${textOf(name).slice(0, LONGEST_NAME)}</span>
      ${outside && html`<span class="chip warning">outside of the span</span>`}</summary>
    <${Values} tags=${fields} label="Fields of the event" />
  </details></li>`;
}

function References({ trace, node, span, onGo }) {
  const references = listOf(span.references).filter((one) => one.spanID || one.traceID);
  const back = linkedFrom(trace, node);
  if (!references.length && !back.length) return null;
  return html`<section><h4>References</h4><ul class="references">
    ${references.map((one) => html`<${Reference} trace=${trace} span=${span} one=${one} onGo=${onGo} />`)}
    ${back.map((from) => html`<li>Linked from <${Inside} trace=${trace} node=${from} onGo=${onGo} /></li>`)}
  </ul></section>`;
}

/** Spans of this trace that name this one, but are not its children. */
function linkedFrom(trace, node) {
  const id = plainId(trace.spans[node].spanID);
  const names = (one) => plainId(one.spanID) === id && plainId(one.traceID) === plainId(trace.id);
  // Most spans have no reference but the one to their parent, and there may be 50,000.
  const mayName = (other) => listOf(trace.spans[other]?.references).length > 1 && trace.parent[other] !== node
    && other !== node;
  return [...trace.spans.keys()].filter((other) => mayName(other) && trace.spans[other].references.some(names));
}

function Reference({ trace, span, one, onGo }) {
  const what = one.refType === "FOLLOWS_FROM" ? "Follows from" : "Child of";
  if (plainId(one.traceID) !== plainId(span.traceID)) {
    const href = address(`/trace/${encodeURIComponent(one.traceID)}`, { span: one.spanID });
    return html`<li>${what} a span of another trace:
      ${" "}<a class="mono" href=${href}>${one.traceID} ${one.spanID}</a></li>`;
  }
  const node = trace.spans.findIndex((other) => other && plainId(other.spanID) === plainId(one.spanID));
  if (node < 0) return html`<li>${what} <span class="mono">${one.spanID}</span>, which never came</li>`;
  return html`<li>${what} <${Inside} trace=${trace} node=${node} onGo=${onGo} /></li>`;
}

function Inside({ trace, node, onGo }) {
  return html`<button type="button" class="text-button" onClick=${() => onGo(node)}>
    ${serviceOf(trace, node)}: ${trace.operation[node].slice(0, 100)}</button>`;
}

function MissingDetail({ trace, node, losses }) {
  const services = new Set();
  for (let child = node + 1; child < node + trace.size[node]; child++) services.add(serviceOf(trace, child));
  const lost = whatWasLost(losses, services);
  return html`<div class="detail">
    <header class="detail-head"><h3>A parent that never came</h3></header>
    <p>${plural(trace.size[node] - 1, "span")} below, which took ${duration(trace.duration[node])} in all, name the span
      ${" "}<span class="mono">${trace.operation[node]}</span> as their ancestor, and it is not in this trace.</p>
    ${lost.length ? html`<${Lost} lost=${lost} />` : html`<${NothingLost} services=${[...services]} />`}
  </div>`;
}

function Lost({ lost }) {
  return html`<div class="notice warning"><div><strong>Spans were lost on the way:</strong>
    <ul>${lost.map((one) => html`<li>${one}</li>`)}</ul></div></div>`;
}

function NothingLost({ services }) {
  return html`<p class="muted">No loss is known of ${services.slice(0, MOST_SERVICES).join(", ")}. The span may still be
    running, its service may not be traced, or it was sent somewhere else.</p>`;
}
