// What stands where no trace is. Owns: how to send the first one, and how to find more. Must not know: the list.

import { html } from "../lib.js";
import { EVERYTHING, toAddress } from "./query.js";

export function Empty({ hasServices, isLive, search, onSearch }) {
  if (!hasServices) return html`<${FirstTrace} />`;
  if (isLive) return html`<div class="card empty"><p>Nothing yet. Traces appear here as soon as they are written.</p></div>`;
  const narrow = Object.values(toAddress({ ...search, lookback: "", limit: "100" })).some(Boolean);
  return html`<div class="card empty"><h2>No trace is like that</h2>
    <p class="muted">All conditions must hold for one and the same span, and the time is that of the span's start.</p>
    <div class="toolbar">
      ${search.lookback !== EVERYTHING && html`<button type="button" class="button" onClick=${() => onSearch({ ...search, lookback: EVERYTHING, start: "", end: "" })}>Look at all that is kept</button>`}
      ${narrow && html`<button type="button" class="button" onClick=${() => onSearch({ ...search, service: "", operation: "", tags: "", minDuration: "", maxDuration: "" })}>Without the conditions</button>`}
    </div></div>`;
}

function FirstTrace() {
  return html`<div class="card empty"><h2>No traces yet</h2>
    <p>Start a Python service under autoinstr, without a change to its code, and send it a request:</p>
    <pre tabindex="0"><code>python -m autoinstr app.py</code></pre>
    <p>Or point any OpenTelemetry SDK here:</p>
    <pre tabindex="0"><code>OTEL_EXPORTER_OTLP_ENDPOINT=http://${location.hostname}:4318</code></pre>
    <p class="muted small">Spans are taken in Jaeger's formats (UDP 6831 and 6832, HTTP 14268), as OTLP (HTTP 4318, gRPC 4317) and as Zipkin JSON (9411),
      unless the backend was started with other ports. <code>python -m autoinstr doctor</code> tells where a program sends its spans. A file of
      traces can be dropped on this page.</p></div>`;
}
