// A trace from Jaeger's JSON as columns in the order in which a reader sees it.
// Owns: which span is whose child, times relative to the trace's start, self time, errors, what is missing.
// Must not know: the page. Invariants: pure; linear in the number of spans (after sorting) and never recursive, since a
// trace may be a chain of 50,000; whatever the JSON holds, every span is somewhere in the tree exactly once.
//
// Nodes are in depth-first order, siblings by start. Therefore the descendants of node i are the nodes
// i + 1 … i + size[i] - 1, and the next sibling of i is i + size[i].

const KINDS = new Set(["client", "server", "producer", "consumer"]);
const UNKNOWN_SERVICE = "unknown-service";
const SMALLEST_RUN = 4;

/**
 * The columns of a trace (Jaeger JSON: `{traceID, spans, processes}`).
 *
 * Per node: `parent` (-1: none), `depth`, `size`, `start` and `duration` and `self` (µs, `start` after the trace's
 * start), `service` (index into `services`), `operation`, `kind` ("" if none), `error` (0 or 1), `errorsInside` (of
 * descendants), `follows` (1: its reference is FOLLOWS_FROM), `missing` (1: no span, but the parent that some spans
 * name and that never came), `remote` (the server's span of a client's, else -1), `run` (at the first of ≥ 4 like
 * siblings without children: how many; else 0), `key` (unique: the span id), `spans` (the JSON; null where missing).
 * Of the whole: `id`, `processes` (as sent), `startUs` (epoch), `durationUs`, `count` (spans), `errors`, `orphans`,
 * `depthMost`, `services` (`[{name, spans, errors}]`), `problems` (texts), `indexOf` (key → node).
 */
export function buildTrace(raw) {
  const spans = (Array.isArray(raw?.spans) ? raw.spans : []).filter((span) => span && typeof span === "object");
  const processes = raw?.processes ?? {};
  const startUs = spans.reduce((least, span) => Math.min(least, number(span.startTime) || Infinity), Infinity);
  const family = findParents(spans);
  const order = depthFirst(spans, family);
  const trace = columns(order.length);
  Object.assign(trace, {
    id: String(raw?.traceID ?? ""), processes, startUs: Number.isFinite(startUs) ? startUs : 0, count: spans.length,
      orphans: family.orphans,
    problems: problemsOf(family, order),
  });
  fill(trace, order, { spans, processes, follows: family.follows });
  sumUp(trace);
  return trace;
}

/** The direct children of a node, by start. */
export function* childrenOf(trace, node) {
  const end = node + trace.size[node];
  for (let child = node + 1; child < end; child += trace.size[child]) yield child;
}

/** The nodes without a parent, by start. */
export function* rootsOf(trace) {
  for (let node = 0; node < trace.size.length; node += trace.size[node]) yield node;
}

export const endOf = (trace, node) => trace.start[node] + trace.duration[node];

export const serviceOf = (trace, node) => trace.services[trace.service[node]]?.name ?? "";

/** What a tag's value reads like; objects as JSON. */
export function textOf(value) {
  if (typeof value === "string") return value;
  return value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Tags, log fields, warnings: a list, whatever was sent. */
export const listOf = (value) => (Array.isArray(value) ? value.filter((one) => one != null) : []);

/** The value of the first tag with that key, or undefined. */
export const tagOf = (tags, key) => listOf(tags).find((tag) => tag.key === key)?.value;

/** Ids with and without leading zeros are the same id. */
export const plainId = (id) => String(id ?? "").toLowerCase().replace(/^0+(?=.)/, "");

function number(value) {
  const found = Number(value);
  return Number.isFinite(found) ? found : 0;
}

const durationOf = (span) => Math.max(0, number(span.duration));

// --- who is whose parent ---------------------------------------------------------------------------------------------

/** `parents[i]`: index of the parent; -1: none; ≤ -2: number -2 - p of the `absent` ids that are named but not here. */
function findParents(spans) {
  const byId = new Map();
  let duplicates = 0;
  spans.forEach((span, at) => {
    const id = plainId(span.spanID);
    if (byId.has(id)) duplicates += 1;
    else byId.set(id, at);
  });
  const absent = new Map();
  const follows = new Uint8Array(spans.length);
  const parents = Int32Array.from(spans, (span, at) => {
    const references = parentReferences(span).filter((one) => byId.get(plainId(one.spanID)) !== at);
    const found = references.find((one) => byId.has(plainId(one.spanID))) ?? references[0];
    if (!found) return -1;
    follows[at] = found.refType === "FOLLOWS_FROM" ? 1 : 0;
    const id = plainId(found.spanID);
    if (byId.has(id)) return byId.get(id);
    if (!absent.has(id)) absent.set(id, absent.size);
    return -2 - absent.get(id);
  });
  return { parents, follows, absent: [...absent.keys()], orphans: parents.filter((one) => one < -1).length,
    duplicates };
}

/** References into this trace, the parent's first. */
function parentReferences(span) {
  const traceId = plainId(span.traceID);
  const inside = listOf(span.references).filter((one) => one.spanID && plainId(one.traceID) === traceId);
  return span.parentSpanID ? [{ refType: "CHILD_OF", spanID: span.parentSpanID }, ...inside] : inside;
}

/**
 * What stands where: `[{at, parent, id}]` (`parent`: position in this list; `at`: index of the span, -1 where
 * missing).
 */
function depthFirst(spans, { parents, absent }) {
  const sorted = byStart(spans);
  const { firstOf, nextOf, roots } = linkSiblings(sorted, parents, absent.length);
  const order = [];
  const seen = new Uint8Array(spans.length);
  order.circles = 0;
  const walk = (root) => {
    const stack = [[root, -1]];
    while (stack.length) {
      const [at, parent] = stack.pop();
      const place = order.length;
      if (at >= 0) seen[at] = 1;
      order.push({ at: Math.max(at, -1), parent, id: at < -1 ? absent[-2 - at] : "" });
      const below = [];
      for (let child = firstOf(at); child >= 0; child = nextOf[child]) if (!seen[child]) below.push([child, place]);
      while (below.length) stack.push(below.pop());
    }
  };
  roots.forEach(walk);
  // What is left names itself, in a circle, as its ancestor.
  for (const at of sorted) {
    if (seen[at]) continue;
    order.circles += 1;
    walk(at);
  }
  return order;
}

function byStart(spans) {
  // One that does not say when it began comes last, so that it does not name the trace.
  const starts = Float64Array.from(spans, (span) => number(span.startTime) || Number.MAX_SAFE_INTEGER);
  const lengths = Float64Array.from(spans, durationOf);
  return Int32Array.from(spans.keys()).sort((a, b) => starts[a] - starts[b] || lengths[b] - lengths[a] || a - b);
}

/** Children as linked lists by start; `roots` by start, a missing parent standing where its first child does. */
function linkSiblings(sorted, parents, absentCount) {
  const first = new Int32Array(parents.length).fill(-1);
  const firstOfAbsent = new Int32Array(absentCount).fill(-1);
  const nextOf = new Int32Array(parents.length).fill(-1);
  for (const at of [...sorted].reverse()) {
    const parent = parents[at];
    if (parent === -1) continue;
    const heads = parent >= 0 ? first : firstOfAbsent;
    const head = parent >= 0 ? parent : -2 - parent;
    nextOf[at] = heads[head];
    heads[head] = at;
  }
  const roots = [...new Set([...sorted].filter((at) => parents[at] < 0).map((at) => (parents[at] === -1 ? at
    : parents[at])))];
  return { firstOf: (at) => (at >= 0 ? first[at] : firstOfAbsent[-2 - at]), nextOf, roots };
}

function problemsOf({ duplicates }, { circles }) {
  const problems = [];
  if (duplicates) problems.push(`${duplicates} of the spans have an id that another span has as well.`);
  if (circles) problems.push("Some spans name each other as parent; the earliest of them is shown as a root.");
  return problems;
}

// --- columns ---------------------------------------------------------------------------------------------------------

function columns(length) {
  const integers = () => new Int32Array(length);
  const times = () => new Float64Array(length);
  const bits = () => new Uint8Array(length);
  return {
    parent: integers(), depth: integers(), size: integers().fill(1), service: integers().fill(-1),
      errorsInside: integers(),
    remote: integers().fill(-1), run: integers(), start: times(), duration: times(), self: times(), error: bits(),
    follows: bits(), missing: bits(), operation: new Array(length), kind: new Array(length), key: new Array(length),
    spans: new Array(length), services: [], indexOf: new Map(),
  };
}

function fill(trace, order, { spans, processes, follows }) {
  const services = new Map();
  order.forEach(({ at, parent, id }, node) => {
    const span = at < 0 ? null : spans[at];
    trace.spans[node] = span;
    trace.parent[node] = parent;
    trace.depth[node] = parent < 0 ? 0 : trace.depth[parent] + 1;
    trace.key[node] = uniqueKey(trace.indexOf, span ? String(span.spanID ?? "") : `missing:${id}`);
    trace.indexOf.set(trace.key[node], node);
    if (!span) return fillMissing(trace, node, id);
    trace.follows[node] = follows[at];
    fillSpan(trace, node, span, serviceIndex(trace, services, processes, span));
  });
}

function fillSpan(trace, node, span, service) {
  const tags = listOf(span.tags);
  // A span that does not say when it began stands at the start.
  trace.start[node] = Math.max(0, number(span.startTime) - trace.startUs);
  trace.duration[node] = durationOf(span);
  trace.operation[node] = textOf(span.operationName ?? "");
  trace.kind[node] = kindOf(tags);
  trace.error[node] = isError(tags) ? 1 : 0;
  trace.service[node] = service;
  trace.services[service].spans += 1;
  trace.services[service].errors += trace.error[node];
}

function fillMissing(trace, node, id) {
  trace.missing[node] = 1;
  trace.operation[node] = id;
  trace.kind[node] = "";
  trace.start[node] = Infinity;
}

function serviceIndex(trace, services, processes, span) {
  const told = processes[span.processID]?.serviceName ?? span.process?.serviceName;
  const name = textOf(told ?? UNKNOWN_SERVICE);
  if (!services.has(name)) {
    services.set(name, trace.services.length);
    trace.services.push({ name, spans: 0, errors: 0 });
  }
  return services.get(name);
}

function uniqueKey(known, wanted) {
  let key = wanted;
  for (let number = 2; known.has(key); number++) key = `${wanted}_${number}`;
  return key;
}

function kindOf(tags) {
  const told = textOf(tagOf(tags, "span.kind") ?? "").toLowerCase();
  return KINDS.has(told) ? told : "";
}

/** As Jaeger's UI: `error` is true or "true"; and OpenTelemetry's status. */
function isError(tags) {
  return tags.some(({ key, value }) =>
    (key === "error" && (value === true || value === "true")) || (key === "otel.status_code" && value === "ERROR"));
}

// --- what follows from the columns -----------------------------------------------------------------------------------

function sumUp(trace) {
  const length = trace.size.length;
  for (let node = length - 1; node >= 0; node--) {
    const parent = trace.parent[node];
    if (trace.missing[node]) cover(trace, node);
    if (parent < 0) continue;
    trace.size[parent] += trace.size[node];
    trace.errorsInside[parent] += trace.errorsInside[node] + trace.error[node];
  }
  let end = 0;
  trace.depthMost = 0;
  trace.errors = 0;
  for (let node = 0; node < length; node++) {
    trace.self[node] = trace.missing[node] ? 0 : selfTime(trace, node);
    trace.remote[node] = serverOf(trace, node);
    end = Math.max(end, endOf(trace, node));
    trace.depthMost = Math.max(trace.depthMost, trace.depth[node]);
    trace.errors += trace.error[node];
  }
  trace.durationUs = end;
  markRuns(trace);
}

/** A parent that is not here lasted at least as long as what it called. */
function cover(trace, node) {
  let [start, end] = [Infinity, 0];
  for (const child of childrenOf(trace, node)) {
    start = Math.min(start, trace.start[child]);
    end = Math.max(end, endOf(trace, child));
  }
  trace.start[node] = Number.isFinite(start) ? start : 0;
  trace.duration[node] = Math.max(0, end - trace.start[node]);
}

/** The time in which no child ran. */
function selfTime(trace, node) {
  const end = endOf(trace, node);
  let covered = trace.start[node];
  let self = 0;
  for (const child of childrenOf(trace, node)) {
    if (trace.start[child] >= end) break;
    if (trace.start[child] > covered) self += trace.start[child] - covered;
    covered = Math.max(covered, endOf(trace, child));
  }
  return self + Math.max(0, end - covered);
}

/** The span of the service that was called, when it is the only child and another service's. */
function serverOf(trace, node) {
  const wanted = { client: "server", producer: "consumer" }[trace.kind[node]];
  const child = node + 1;
  if (!wanted || trace.size[node] < 2 || trace.size[child] !== trace.size[node] - 1) return -1;
  return trace.kind[child] === wanted && trace.service[child] !== trace.service[node] ? child : -1;
}

function markRuns(trace) {
  const alike = (a, b) => trace.size[b] === 1 && trace.parent[a] === trace.parent[b]
    && trace.service[a] === trace.service[b] && trace.operation[a] === trace.operation[b];
  for (let node = 0; node < trace.size.length;) {
    let end = node + 1;
    if (trace.size[node] === 1 && trace.parent[node] >= 0) while (end < trace.size.length && alike(node, end)) end++;
    if (end - node >= SMALLEST_RUN) trace.run[node] = end - node;
    node = end;
  }
}
