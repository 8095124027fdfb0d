// What differs between two traces: by the paths of service and operation.
// Owns: matching, and what counts as a change. Must not know: the page. Invariants: pure, never recursive.

import { pathTree } from "./paths.js";

const LEAST_CHANGE = 0.1;
const LEAST_CHANGE_US = 100;

/**
 * `[{service, operation, depth, parent, end, sign, a, b, deltaUs, deltaCount}]`, parents first. `a` and `b`: entries of
 * `pathTree`, or null where a trace has no such path; `sign`: "added" (only in b), "removed" (only in a), "calls"
 * (another number of them), "slower", "faster" (by at least a tenth) or "same"; `end`: the number of the entry after
 * the last one below.
 */
export function difference(traceA, traceB) {
  const [a, b] = [pathTree(traceA), pathTree(traceB)];
  const found = [];
  const open = pairs(a, b, a[0], b[0], -1);
  while (open.length) {
    const { one, other, parent } = open.pop();
    const at = found.length;
    found.push(entry(one, other, parent));
    open.push(...pairs(a, b, one, other, at));
  }
  for (let at = found.length - 1; at >= 0; at--) {
    found[at].end = Math.max(found[at].end, at + 1);
    const parent = found[found[at].parent];
    if (parent) parent.end = Math.max(parent.end, found[at].end);
  }
  return found;
}

/** How many paths have each sign: `{added, removed, calls, slower, faster, same}`. */
export function countSigns(found) {
  const counts = { added: 0, removed: 0, calls: 0, slower: 0, faster: 0, same: 0 };
  for (const { sign } of found) counts[sign] += 1;
  return counts;
}

/** The paths whose self time changed most, in either direction; what they changed by is `selfDeltaUs`. */
export function largestChanges(found, most) {
  return found.map((one) => ({ ...one, selfDeltaUs: (one.b?.selfUs ?? 0) - (one.a?.selfUs ?? 0) }))
    .filter((one) => Math.abs(one.selfDeltaUs) >= LEAST_CHANGE_US)
    .sort((x, y) => Math.abs(y.selfDeltaUs) - Math.abs(x.selfDeltaUs)).slice(0, most);
}

/** The children of two paths that go together, last first (they are taken from the end). */
function pairs(a, b, one, other, parent) {
  const names = new Set([...(one?.children.keys() ?? []), ...(other?.children.keys() ?? [])]);
  const found = [...names].map((name) => ({
    one: a[one?.children.get(name)] ?? null, other: b[other?.children.get(name)] ?? null, parent,
  }));
  return found.reverse();
}

function entry(a, b, parent) {
  const { service, operation, depth } = a ?? b;
  const deltaUs = (b?.totalUs ?? 0) - (a?.totalUs ?? 0);
  const deltaCount = (b?.count ?? 0) - (a?.count ?? 0);
  return { service, operation, depth, parent, end: 0, a, b, deltaUs, deltaCount, sign: signOf(a, b, deltaUs,
    deltaCount) };
}

function signOf(a, b, deltaUs, deltaCount) {
  if (!a) return "added";
  if (!b) return "removed";
  if (deltaCount) return "calls";
  if (Math.abs(deltaUs) < Math.max(LEAST_CHANGE_US, LEAST_CHANGE * a.totalUs)) return "same";
  return deltaUs > 0 ? "slower" : "faster";
}
