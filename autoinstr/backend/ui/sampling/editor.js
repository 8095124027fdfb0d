// The dialog in which a service's strategy is changed. Owns: its fields, sending them, showing what the backend says of them.
// Must not know: the page behind it.

import { fetchJson, html, useEffect, useOperations, useRef, useState } from "../lib.js";
import { Icon } from "../icons.js";
import { TYPES, fieldsOf, strategyOf } from "./form.js";

const PARAM = { probabilistic: ["Share", "0 keeps nothing, 0.1 one in ten, 1 everything"], ratelimiting: ["Traces a second", "In each process of the service"] };

export function Editor({ service, onDone, onClose }) {
  const dialog = useRef(null);
  const [fields, setFields] = useState(() => fieldsOf(service.strategy));
  const [problem, setProblem] = useState("");
  const operations = useOperations(service.name);
  useEffect(() => dialog.current.showModal(), []);
  const save = async (event) => {
    event.preventDefault();
    try {
      await fetchJson(`/ui/data/sampling/${encodeURIComponent(service.name)}`, {}, {
        method: "PUT", body: JSON.stringify(strategyOf(fields)), headers: { "Content-Type": "application/json" } });
      dialog.current.close();
      onDone();
    } catch (error) {
      setProblem(error.message);
    }
  };
  const [paramLabel, paramHint] = PARAM[fields.type];
  return html`<dialog ref=${dialog} aria-labelledby="editor-title" onClose=${onClose}><form onSubmit=${save}>
    <h2 id="editor-title">Sampling of <bdi class="cut">${service.name}</bdi></h2>
    <div class="field-pair">
      <div class="field"><label for="type">Keep</label><select id="type" value=${fields.type} onChange=${(event) => setFields({ ...fields, type: event.currentTarget.value })}>
        ${TYPES.map(([value, words]) => html`<option value=${value}>${words}</option>`)}</select></div>
      <div class="field"><label for="param">${paramLabel}</label><input id="param" inputmode="decimal" autocomplete="off" value=${fields.param} aria-describedby="param-hint"
        onInput=${(event) => setFields({ ...fields, param: event.currentTarget.value })} /><span class="hint" id="param-hint">${paramHint}</span></div></div>
    <${Operations} rows=${fields.operations} known=${operations} onChange=${(rows) => setFields({ ...fields, operations: rows })} />
    ${problem && html`<div class="notice error" role="alert"><span><b>Not saved.</b> ${problem}</span></div>`}
    <p class="muted small">The service asks for its strategy about once a minute, and follows from then on.</p>
    <div class="dialog-foot"><button type="button" class="button" onClick=${() => dialog.current.close()}>Cancel</button>
      <button type="submit" class="button primary">Save</button></div></form></dialog>`;
}

function Operations({ rows, known, onChange }) {
  const change = (at, changes) => onChange(rows.map((row, index) => (index === at ? { ...row, ...changes } : row)));
  return html`<fieldset class="field operations-field"><legend>Operations with a share of their own</legend>
    <datalist id="known-operations">${known.map((name) => html`<option value=${name}></option>`)}</datalist>
    ${rows.map((row, at) => html`<div class="operation-row" key=${at}>
      <input aria-label=${`Operation ${at + 1}`} list="known-operations" value=${row.operation} autocomplete="off" placeholder="GET /checkout"
        onInput=${(event) => change(at, { operation: event.currentTarget.value })} />
      <input aria-label=${`Share of operation ${at + 1}`} inputmode="decimal" value=${row.param} autocomplete="off" placeholder="0.5"
        onInput=${(event) => change(at, { param: event.currentTarget.value })} />
      <button type="button" class="button quiet icon-only" aria-label=${`Remove operation ${at + 1}`} onClick=${() => onChange(rows.filter((_, index) => index !== at))}><${Icon} name="close" /></button></div>`)}
    <button type="button" class="button" onClick=${() => onChange([...rows, { operation: "", param: "" }])}>Add an operation</button></fieldset>`;
}
