// Choosing one of the two traces: by id, by address, from suggestions.
// Owns: the field, its errors, what is suggested. Must not know: what the traces are compared by.

import {
  BASE, ago, colourOf, duration, fetchJson, html, navigate, plural, useEffect, useState,
} from "../lib.js";
import { namingNode } from "../trace/head.js";
import { serviceOf } from "../trace/model.js";

const LONGEST_NAME = 300;
const SUGGESTIONS = 30;
const NO_ID = "A trace id is 1 to 32 of the digits 0 to 9 and a to f.";

/** The id in what was pasted: an id, or the address of a trace's page; "" when there is none. */
export function idIn(text) {
  const found = /(?:\/trace\/|^\s*)([0-9a-f]{1,32})(?=[\s?#/]|$)/i.exec(text);
  return found ? found[1].toLowerCase() : "";
}

/** `which`: "a" or "b"; `id`: the one that is chosen; `one` and `other`: `{trace, error}` of it and of the other. */
export function Picker({ which, id, one, other, query }) {
  const suggestions = useSuggestions(other.trace);
  const choose = (wanted) => navigate("/compare", { ...Object.fromEntries(query), [which]: wanted });
  const name = which.toUpperCase();
  return html`<section class="card picker" aria-label=${`Trace ${name}`}>
    <${Field} which=${which} name=${name} id=${id} error=${one.error} onChoose=${choose} />
    ${one.trace
      ? html`<${Chosen} id=${id} trace=${one.trace} />`
      : html`<${Suggestions} traces=${suggestions} not=${other.trace?.id} onChoose=${choose} name=${name} />`}
  </section>`;
}

function Field({ which, name, id, error, onChoose }) {
  const [text, setText] = useState(id);
  const [problem, setProblem] = useState("");
  useEffect(() => setText(id), [id]);
  const submit = (event) => {
    event.preventDefault();
    const wanted = idIn(text);
    const isWrong = text.trim() !== "" && !wanted;
    setProblem(isWrong ? NO_ID : "");
    if (!isWrong) onChoose(wanted);
  };
  return html`
    <form onSubmit=${submit} novalidate>
      <span class="letter" aria-hidden="true">${name}</span>
      <label class="field"><span class="visually-hidden">Id or address of trace ${name}</span>
        <input name=${which} value=${text} placeholder="Id or address of a trace" autocomplete="off" spellcheck=${false}
          aria-invalid=${problem ? "true" : undefined}
          onInput=${(event) => setText(event.currentTarget.value)} /></label>
      <button type="submit" class="button">Take</button>
    </form>
    ${(problem || error) && html`<p class="error-text" role="alert">${problem || `Trace ${name}: ${error}.`}</p>`}`;
}

function Chosen({ id, trace }) {
  if (!trace.count) return html`<p>This trace has no spans.</p>`;
  const node = namingNode(trace);
  const service = serviceOf(trace, node);
  const told = `${duration(trace.durationUs)} · ${plural(trace.count, "span")} · ${ago(trace.startUs)}`;
  return html`<p class="chosen">
    <a href=${`${BASE}/trace/${encodeURIComponent(id)}`}>
      <${Name} service=${service} operation=${trace.operation[node]} /></a>
    <span class="muted small">${told}</span></p>`;
}

function Name({ service, operation }) {
  return html`<span class="dot" style=${{ color: colourOf(service) }}></span>
    <span class="name"><b>${service.slice(0, LONGEST_NAME)}</b> ${operation.slice(0, LONGEST_NAME)}</span>`;
}

/** Recent traces that begin like the other one; all recent ones when there is no other. */
function useSuggestions(other) {
  const [found, setFound] = useState([]);
  const node = other?.count ? namingNode(other) : -1;
  const like = node < 0 ? {} : { service: serviceOf(other, node), operation: other.operation[node] };
  useEffect(() => {
    let current = true;
    // Without suggestions there is still the field.
    const show = (answer) => { if (current) setFound(answer?.traces ?? []); };
    fetchJson("/ui/data/search", { ...like, limit: SUGGESTIONS }).then(show, () => {});
    return () => { current = false; };
  }, [like.service, like.operation]);
  return found;
}

function Suggestions({ traces, not, onChoose, name }) {
  const others = traces.filter(({ traceID }) => traceID !== not);
  if (!others.length) return null;
  return html`<ul class="suggestions" aria-label=${`Suggestions for trace ${name}`}>${others.map((one) => html`
    <li><button type="button" onClick=${() => onChoose(one.traceID)}>
      <${Name} service=${one.service ?? ""} operation=${one.operation ?? ""} />
      ${one.errors > 0 && html`<span class="error-text small">${plural(one.errors, "error")}</span>`}
      <span class="muted small number">${duration(one.duration_us)}</span>
      <span class="muted small number">${ago(one.start_us)}</span>
    </button></li>`)}</ul>`;
}
