// Lists of keys and values: tags, what a process says of itself, the fields of an event.
// Owns: how a value of any kind and length is shown, copied, searched for. Must not know: spans.
// Invariants: a value becomes text only, and a link only when it is a whole http(s) address.

import { address, count, html, useState } from "../lib.js";
import { Icon } from "../icons.js";
import { textOf } from "./model.js";

const LONG = 600;
const MANY = 12;
const LONGEST_ADDRESS = 2000;

/** `tags`: Jaeger's `[{key, value}]`; `service`: whose traces a click on a value searches for. */
export function Values({ tags, service, label }) {
  const [filter, setFilter] = useState("");
  const wanted = filter.toLowerCase();
  const shown = wanted ? tags.filter((tag) => `${tag.key}\n${textOf(tag.value)}`.toLowerCase().includes(wanted)) : tags;
  return html`
    ${tags.length > MANY && html`<label class="field values-filter"><span class="visually-hidden">Filter ${label}</span>
      <input type="search" placeholder=${`Filter ${count(tags.length)} entries`} value=${filter}
        onInput=${(event) => setFilter(event.currentTarget.value)} /></label>`}
    <dl class="values" aria-label=${label}>${shown.map((tag) => html`<div>
      <dt>${tag.key}</dt>
      <dd><${Value} name=${String(tag.key)} value=${textOf(tag.value)} service=${service} /></dd></div>`)}</dl>
    ${wanted && !shown.length && html`<p class="muted small">Nothing here holds “${filter}”.</p>`}`;
}

function Value({ name, value, service }) {
  const [whole, setWhole] = useState(false);
  const isLong = value.length > LONG;
  const shown = isLong && !whole ? `${value.slice(0, LONG)}…` : value;
  return html`
    <span class="value" dir="auto">${isAddress(value)
      ? html`<a href=${value} target="_blank" rel="noopener noreferrer">${shown}</a>` : shown}</span>
    ${isLong && html`<button type="button" class="text-button" onClick=${() => setWhole(!whole)}>
      ${whole ? "Show less" : `Show all ${count(value.length)} characters`}</button>`}
    <span class="value-actions">
      <${CopyButton} text=${value} label=${`Copy the value of ${name}`} />
      ${service && canBeSearched(name, value) && html`<a class="tiny" href=${similar(service, name, value)}
        aria-label=${`Find traces with ${name}=${value.slice(0, 60)}`}
        title="Find traces like it"><${Icon} name="search" /></a>`}
    </span>`;
}

const canBeSearched = (key, value) => value.length <= LONG && /^[^\s="]+$/.test(key);

/** The search for traces that have the same value under the same key. */
const similar = (service, key, value) => address("/", { service, tags: `${key}="${value.replace(/["\\]/g, "\\$&")}"` });

/** Whether a text is one whole address that a link may lead to: no script, no data. */
export function isAddress(text) {
  if (/\s/.test(text) || text.length > LONGEST_ADDRESS) return false;
  try { return /^https?:$/.test(new URL(text).protocol); } catch { return false; }
}

export function CopyButton({ text, label, children }) {
  const [told, setTold] = useState("");
  const copy = async () => {
    setTold(await copyText(text) ? "Copied" : "Cannot copy");
    setTimeout(() => setTold(""), 1500);
  };
  return html`<button type="button" class=${children ? "button quiet" : "tiny"} aria-label=${label}
    title=${told || label} onClick=${copy}>
    ${(children || !told) && html`<${Icon} name="copy" />`}
    <span role="status">${told || children}</span></button>`;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // no clipboard without https, which loopback names other than localhost do not have
  }
}

function copyBySelection(text) {
  const field = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
