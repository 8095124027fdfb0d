// The list of traces found. Owns: how one looks, which are selected for comparison. Must not know: how they were found.

import { address, ago, colourOf, count, dateTime, duration, html, plural, shownName, useEffect, useRef, useState } from "../lib.js";
import { samplerWords } from "../explain.js";
import { Icon } from "../icons.js";
import { explained } from "../tooltip.js";

const SERVICES_SHOWN = 5;
/** Rows that are drawn at first, and each time that the end of the list comes near. */
const ROWS_AT_ONCE = 120;

/**
 * @param traces summaries (docs/backend.md)
 * @param fresh ids of those that have just come by the live tail
 * @param selected ids, at most two
 */
export function ResultList({ traces, fresh, selected, onSelect, onHover, nowMs, reading }) {
  const longest = traces.reduce((most, trace) => Math.max(most, trace.duration_us), 1);
  const [rows, setRows] = useState(ROWS_AT_ONCE);
  return html`<ol class="results card" aria-label="Traces found" ref=${reading.ref} onPointerMove=${reading.onPointerMove}>
    ${traces.slice(0, rows).map((trace) => html`<${Result} key=${trace.traceID} trace=${trace} longest=${longest} nowMs=${nowMs} isFresh=${fresh.has(trace.traceID)}
      isSelected=${selected.includes(trace.traceID)} onSelect=${onSelect} onHover=${onHover} />`)}
    ${traces.length > rows && html`<${More} key="more" left=${traces.length - rows} onMore=${() => setRows((before) => before + ROWS_AT_ONCE)} />`}</ol>`;
}

/** Draws the next rows before the reader gets there; the button is for when that does not happen. */
function More({ left, onMore }) {
  const end = useRef(null);
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => entry.isIntersecting && onMore(), { rootMargin: "1200px" });
    observer.observe(end.current);
    return () => observer.disconnect();
  }, [left]);
  return html`<li class="more" ref=${end}><button type="button" class="button quiet" onClick=${onMore}>Show more, ${count(left)} are left</button></li>`;
}

function Result({ trace, longest, nowMs, isFresh, isSelected, onSelect, onHover }) {
  const id = trace.traceID;
  const title = `${trace.service} ${trace.operation}`;
  return html`<li class=${`result${trace.errors ? " failed" : ""}${isFresh ? " fresh" : ""}`} onMouseEnter=${() => onHover(id)} onMouseLeave=${() => onHover(null)}>
    <label class="pick"><input type="checkbox" checked=${isSelected} onChange=${() => onSelect(id)} />
      <span class="visually-hidden">Select for comparison: ${title.slice(0, 200)}, ${duration(trace.duration_us)}</span></label>
    <a class="title" href=${address("/trace/" + id)}>
      <span class="dot" style=${{ color: colourOf(trace.service) }}></span>
      <b class="name">${shownName(trace.service)}</b> <span class="name">${shownName(trace.operation)}</span></a>
    <span class="length"><span class="number">${duration(trace.duration_us)}</span>
      <span class="track" aria-hidden="true"><i style=${{ width: `${Math.max(0.8, (100 * trace.duration_us) / longest)}%`, background: colourOf(trace.service) }}></i></span></span>
    <time class="age" dateTime=${isoOf(trace.start_us)} title=${dateTime(trace.start_us)}>${ago(trace.start_us, nowMs)}</time>
    <div class="facts">
      <span class="spans">${plural(trace.spans, "span")}</span>
      ${trace.errors > 0 && html`<span class="chip error"><${Icon} name="error" />${plural(trace.errors, "error")}</span>`}
      ${trace.orphans > 0 && html`<${Orphans} number=${trace.orphans} />`}
      <${Services} services=${trace.services} />
    </div>
    <${WhySampled} sampler=${trace.sampler} /></li>`;
}

function isoOf(us) {
  const date = new Date(us / 1000);
  return Number.isNaN(date.getTime()) ? undefined : date.toISOString();
}

function Services({ services }) {
  const rest = services.slice(SERVICES_SHOWN);
  return html`<ul class="services" aria-label="Services">${services.slice(0, SERVICES_SHOWN).map(({ name, spans, errors }) => html`
      <li class="chip"><span class="dot" style=${{ color: colourOf(name) }}></span><span class="name">${shownName(name)}</span>
        <span class="number">${count(spans)}</span>${errors > 0 && html`<span class="error-text"><${Icon} name="error" /><span class="visually-hidden">${plural(errors, "error")}</span></span>`}</li>`)}
    ${rest.length > 0 && html`<li class="chip">+ ${rest.length}</li>`}</ul>`;
}

function Orphans({ number }) {
  const why = "Spans whose parent is not here: it is still on its way, was lost, or is kept elsewhere.";
  return html`<button type="button" class="chip warning" aria-label=${`${count(number)} without a parent. ${why}`} ...${explained(why)}>${count(number)} without a parent</button>`;
}

function WhySampled({ sampler }) {
  const { label, why } = samplerWords(sampler);
  return html`<button type="button" class="chip why" aria-label=${`${label}. ${why}`} ...${explained(why)}>${label}</button>`;
}
