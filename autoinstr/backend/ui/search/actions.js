// What can be done with traces in bulk: take in, take out, delete. Owns: these three buttons.

import { fetchJson, html, plural, useRef, useState } from "../lib.js";
import { Icon } from "../icons.js";
import { upload } from "../upload.js";

/** Traces in one request: addresses have a limit of length. */
const IDS_AT_ONCE = 40;

export function UploadButton() {
  const chooser = useRef(null);
  const chosen = (event) => { upload([...event.currentTarget.files]); event.currentTarget.value = ""; };
  return html`<button type="button" class="button icon-only" aria-label="Open files of traces" title="Open files of traces: Jaeger, OTLP or Zipkin JSON"
      onClick=${() => chooser.current.click()}><${Icon} name="upload" /></button>
    <input ref=${chooser} type="file" accept=".json,application/json" multiple hidden aria-label="Files of traces" onChange=${chosen} />`;
}

export function DownloadButton({ traces }) {
  const [state, setState] = useState("");
  const download = async () => {
    setState("Fetching …");
    try {
      save(JSON.stringify({ data: await whole(traces.map((trace) => trace.traceID)) }), `traces-${traces.length}.json`);
      setState("");
    } catch (error) {
      setState(`The download failed: ${error.message}`);
    }
  };
  const label = `Download ${plural(traces.length, "trace")} as Jaeger JSON`;
  return html`<button type="button" class="button icon-only" aria-label=${label} title=${label} disabled=${!traces.length} onClick=${download}>
    <${Icon} name="download" /></button><span class="small muted" role="status">${state}</span>`;
}

async function whole(ids) {
  const data = [];
  for (let at = 0; at < ids.length; at += IDS_AT_ONCE) {
    const answer = await fetchJson("/api/traces", { traceID: ids.slice(at, at + IDS_AT_ONCE) });
    data.push(...answer.data);
  }
  return data;
}

function save(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  // Not at once: the browser reads it after this turn.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function DeleteEverything({ onDeleted }) {
  const dialog = useRef(null);
  const [problem, setProblem] = useState("");
  const confirmed = async () => {
    try {
      await fetchJson("/ui/data/traces", {}, { method: "DELETE" });
      dialog.current.close();
      onDeleted();
    } catch (error) {
      setProblem(error.message);
    }
  };
  return html`<button type="button" class="button icon-only" aria-label="Delete everything" title="Delete everything" onClick=${() => { setProblem(""); dialog.current.showModal(); }}>
      <${Icon} name="trash" /></button>
    <dialog ref=${dialog} aria-labelledby="delete-title"><div class="stack">
      <h2 id="delete-title">Delete every trace?</h2>
      <p>All traces of all services are removed from the store, also those that were archived. This cannot be undone.</p>
      ${problem && html`<div class="notice error" role="alert"><span>${problem}</span></div>`}
      <div class="dialog-foot"><button type="button" class="button" autofocus onClick=${() => dialog.current.close()}>Keep them</button>
        <button type="button" class="button danger" onClick=${confirmed}>Delete everything</button></div></div></dialog>`;
}
