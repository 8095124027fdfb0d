// Figures of a trace by service, by operation or by both.
// Owns: sums and quantiles. Must not know: the page. Invariants: pure.

import { serviceOf } from "./model.js";

const NAMES = {
  both: (trace, node) => [serviceOf(trace, node), trace.operation[node]],
  service: (trace, node) => [serviceOf(trace, node), ""],
  operation: (trace, node) => ["", trace.operation[node]],
};

/**
 * `[{service, operation, count, errors, total, avg, min, max, p95, self, share}]`, times in µs; `share` is the group's
 * part of all self time (0 … 1). `by`: `both`, `service` or `operation`; the name that is not asked for is "".
 * `wanted`: per node 0 or 1, or null for all spans.
 */
export function figuresBy(trace, by, wanted = null) {
  const groups = new Map();
  let selfOfAll = 0;
  for (let node = 0; node < trace.size.length; node++) {
    if (trace.missing[node] || (wanted && !wanted[node])) continue;
    const [service, operation] = NAMES[by](trace, node);
    const name = `${service}\u0000${operation}`;
    if (!groups.has(name)) groups.set(name, { service, operation, errors: 0, self: 0, durations: [] });
    const group = groups.get(name);
    group.durations.push(trace.duration[node]);
    group.errors += trace.error[node];
    group.self += trace.self[node];
    selfOfAll += trace.self[node];
  }
  return [...groups.values()].map((group) => summary(group, selfOfAll));
}

function summary({ service, operation, errors, self, durations }, selfOfAll) {
  const sorted = Float64Array.from(durations).sort();
  const total = sorted.reduce((sum, one) => sum + one, 0);
  return {
    service, operation, errors, self, total, count: sorted.length, avg: total / sorted.length, min: sorted[0],
    max: sorted[sorted.length - 1], p95: quantile(sorted, 0.95), share: selfOfAll ? self / selfOfAll : 0,
  };
}

/** The smallest value that at least this part of all values does not exceed (nearest rank). */
export function quantile(sorted, part) {
  return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)];
}

/** A copy sorted by a key: numbers, or text by the alphabet; `down` for the largest first. */
export function sortedBy(list, key, down) {
  const sign = down ? -1 : 1;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  return [...list].sort((a, b) => sign * compare(a[key], b[key]));
}
