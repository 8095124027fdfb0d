// Rate, errors and durations of one service over the last hour. Owns: asking Jaeger's metrics API, the three charts, the table
// of operations. Must not know: the page.

import { address, count, duration, fetchJson, html, shownName, useEffect, useState } from "../lib.js";
import { percent, rate } from "../explain.js";
import { LineChart } from "./charts.js";

const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;
const ENTRY_KINDS = ["server", "consumer"];
const ALL_KINDS = ["unspecified", "internal", "server", "client", "producer", "consumer"];
const OPERATIONS_SHOWN = 12;

/** @param onlyEntries whether the service was asked for anything; otherwise all its spans are counted */
export function Red({ service, onlyEntries }) {
  const [state, setState] = useState({ figures: null, error: null });
  useEffect(() => {
    const stop = new AbortController();
    ask(service, onlyEntries ? ENTRY_KINDS : ALL_KINDS, stop.signal).then(
      (figures) => setState({ figures, error: null }),
      (error) => stop.signal.aborted || setState({ figures: null, error }));
    return () => stop.abort();
  }, [service, onlyEntries]);
  const { figures, error } = state;
  if (error) return html`<div class="notice error" role="alert"><span>The figures over time cannot be shown: ${error.message}</span></div>`;
  if (!figures) return html`<p class="muted loading" role="status">Loading …</p>`;
  const times = { startMs: figures.endMs - HOUR_MS, endMs: figures.endMs };
  return html`<div class="charts">
      <${LineChart} title=${onlyEntries ? "Requests" : "Spans"} format=${rate} ...${times} series=${[{ name: "rate", colour: "--accent", points: figures.calls }]} />
      <${LineChart} title="Errors" format=${percent} ...${times} series=${[{ name: "share", colour: "--error", points: figures.errors }]} />
      <${LineChart} title="Duration" format=${(ms) => duration(ms * 1000)} ...${times}
        series=${[{ name: "95 %", colour: "--accent", points: figures.p95 }, { name: "50 %", colour: "--muted", dash: [4, 3], points: figures.p50 }]} /></div>
    <${Operations} service=${service} rows=${figures.operations} />`;
}

async function ask(service, kinds, signal) {
  const endMs = Math.floor(Date.now() / MINUTE_MS) * MINUTE_MS;
  const query = { service, spanKind: kinds, endTs: endMs, lookback: HOUR_MS, step: MINUTE_MS, ratePer: MINUTE_MS };
  const get = (name, more = {}) => fetchJson(`/api/metrics/${name}`, { ...query, ...more }, { signal });
  // One figure for the whole hour and operation.
  const hour = { groupByOperation: true, step: HOUR_MS, ratePer: HOUR_MS };
  const [calls, errors, p50, p95, ...byOperation] = await Promise.all([
    get("calls"), get("errors"), get("latencies", { quantile: 0.5 }), get("latencies", { quantile: 0.95 }),
    get("calls", hour), get("errors", hour), get("latencies", { ...hour, quantile: 0.95 }),
  ]);
  return { endMs, calls: pointsOf(calls), errors: pointsOf(errors), p50: pointsOf(p50), p95: pointsOf(p95), operations: operationRows(...byOperation) };
}

/** Jaeger's metric family as `[{ ms, value }]`. */
function pointsOf(family) {
  return family.metrics.slice(0, 1).flatMap((metric) => metric.metricPoints.map(pointOf));
}

const pointOf = ({ timestamp, gaugeValue }) => ({ ms: Date.parse(timestamp), value: Number(gaugeValue.doubleValue) });

function operationRows(calls, errors, p95) {
  const rows = new Map();
  for (const [key, family] of Object.entries({ calls, errors, p95 })) {
    for (const metric of family.metrics) {
      const name = metric.labels.find((label) => label.name === "operation")?.value ?? "";
      const last = metric.metricPoints.map(pointOf).filter(({ value }) => Number.isFinite(value)).pop();
      if (last) rows.set(name, { name, ...rows.get(name), [key]: last.value });
    }
  }
  return [...rows.values()].filter((row) => row.calls > 0).sort((one, other) => other.calls - one.calls);
}

function Operations({ service, rows }) {
  if (!rows.length) return null;
  return html`<table class="operations"><caption class="visually-hidden">Operations of ${service} in the last hour</caption>
    <thead><tr><th scope="col">Operation</th><th scope="col" class="number">Rate</th><th scope="col" class="number">Failed</th><th scope="col" class="number">95 % take less than</th></tr></thead>
    <tbody>${rows.slice(0, OPERATIONS_SHOWN).map((row) => html`<tr key=${row.name}>
      <td><a class="name block" href=${address("/", { service, operation: row.name })}>${shownName(row.name)}</a></td><td class="number">${rate(row.calls)}</td>
      <td class=${row.errors > 0 ? "number error-text" : "number"}>${percent(row.errors ?? 0)}</td>
      <td class="number">${row.p95 === undefined ? "–" : duration(row.p95 * 1000)}</td></tr>`)}</tbody></table>
    ${rows.length > OPERATIONS_SHOWN && html`<p class="muted small">And ${count(rows.length - OPERATIONS_SHOWN)} more operations.</p>`}`;
}
