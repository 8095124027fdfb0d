// What a trace is in a glance: its name, when, how long, who took part.
// Owns: the page's head, the choice of a view. Must not know: the views.

import { address, colourOf, count, dateTime, duration, html, plural } from "../lib.js";
import { Icon } from "../icons.js";
import { VIEWS, changeAddress } from "./address.js";
import { rootsOf, serviceOf } from "./model.js";
import { CopyButton } from "./values.js";
import { whySampled } from "./words.js";

const MOST_SERVICES = 14;

/** The node that names the trace: the first root that came, or the first span. */
export function namingNode(trace) {
  for (const root of rootsOf(trace)) if (!trace.missing[root]) return root;
  return trace.missing[0] ? 1 : 0;
}

export function TraceHead({ id, trace, options }) {
  const node = namingNode(trace);
  const service = serviceOf(trace, node);
  const why = whySampled(trace.spans[node].tags);
  return html`<header class="trace-head">
    <div class="trace-title">
      <h1 tabindex="-1"><span class="stripe" style=${{ background: colourOf(service) }}></span>
        <span class="service">${service}</span> <span class="name">${trace.operation[node]}</span></h1>
      <${Facts} trace=${trace} />
      ${why && html`<p class="why">${why}</p>`}
    </div>
    <${Actions} id=${id} raw=${options.raw} />
  </header>`;
}

function Facts({ trace }) {
  const facts = [
    ["Duration", duration(trace.durationUs)], ["Started", dateTime(trace.startUs)], ["Spans", count(trace.count)],
    ["Services", count(trace.services.length)], ["Depth", count(trace.depthMost + 1)],
  ];
  return html`<dl class="facts">
    ${facts.map(([name, told]) => html`<div><dt>${name}</dt><dd>${told}</dd></div>`)}
    <div class=${trace.errors ? "error-text" : ""}><dt>Errors</dt>
      <dd>${trace.errors > 0 && html`<${Icon} name="error" />${" "}`}${count(trace.errors)}</dd></div>
    <div><dt>Trace id</dt>
      <dd class="mono">${trace.id}<${CopyButton} text=${trace.id} label="Copy the trace id" /></dd></div>
  </dl>`;
}

function Actions({ id, raw }) {
  const file = address(`/api/traces/${encodeURIComponent(id)}`, { prettyPrint: "true", raw: raw ? "true" : "" });
  return html`<div class="trace-actions">
    <a class="button" href=${address("/compare", { a: id })}>Compare with …</a>
    <a class="button" href=${file} download=${`trace-${id}.json`}><${Icon} name="download" />JSON</a>
  </div>`;
}

export function Views({ id, options }) {
  const query = Object.fromEntries(new URLSearchParams(location.search));
  const path = `/trace/${encodeURIComponent(id)}`;
  const to = (name) => address(path, { ...query, view: name === VIEWS[0][0] ? "" : name });
  return html`<nav class="switch views" aria-label="Views">${VIEWS.map(([name, title]) => html`
    <a class="button" aria-current=${options.view === name ? "page" : undefined}
      href=${to(name)}>${title}</a>`)}</nav>`;
}

/** The legend of colours, each a search for its service's spans. */
export function Services({ trace, options }) {
  const shown = [...trace.services].sort((a, b) => b.spans - a.spans).slice(0, MOST_SERVICES);
  const rest = trace.services.length - shown.length;
  return html`<ul class="services" aria-label="Services">
    ${shown.map((service) => html`<${ServiceChip} service=${service} find=${options.find} />`)}
    ${rest > 0 && html`<li class="muted">and ${count(rest)} more, see Statistics</li>`}
  </ul>`;
}

function ServiceChip({ service: { name, spans, errors }, find }) {
  const term = `service=${/\s/.test(name) ? `"${name}"` : name}`;
  const isOn = find === term;
  return html`<li><button type="button" class="service-chip" aria-pressed=${isOn} title="Find its spans"
    onClick=${() => changeAddress({ find: isOn ? "" : term })}>
    <span class="dot" style=${{ color: colourOf(name) }}></span><span class="name">${name}</span>
    <span class="muted">${count(spans)}</span>
    ${errors > 0 && html`<span class="error-text">${plural(errors, "error")}</span>`}
  </button></li>`;
}
