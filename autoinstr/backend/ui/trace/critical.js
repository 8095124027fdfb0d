// The critical path: which span the end of the trace was waiting for, at every moment.
// Owns: that computation. Must not know: the page. Invariants: pure, never recursive; sections do not overlap, each
// lies within its span, and spans that merely follow from another (nobody waits for them) are on nobody's path.

import { childrenOf, endOf, rootsOf } from "./model.js";

/** node → `[from, to, from, to, …]` in µs after the trace's start, for the spans on the path. */
export function criticalPath(trace) {
  const path = new Map();
  const open = [];
  lastFinishers(trace, rootsOf(trace), 0, trace.durationUs, open, () => {});
  while (open.length) {
    const [node, from, to] = open.pop();
    const sections = [];
    lastFinishers(trace, childrenOf(trace, node), from, to, open, (start, end) => sections.push(start, end));
    if (sections.length && !trace.missing[node]) path.set(node, sections);
  }
  return path;
}

/** Time on the path in all, µs. */
export function criticalTime(sections) {
  let sum = 0;
  for (let at = 0; at < (sections?.length ?? 0); at += 2) sum += sections[at + 1] - sections[at];
  return sum;
}

/** Goes back from `to`: who of the nodes ended last before that, and who ended last before that one began … */
function lastFinishers(trace, nodes, from, to, open, own) {
  const candidates = [...nodes].filter((node) => !trace.follows[node] && trace.start[node] < to && endOf(trace,
    node) > from);
  candidates.sort((a, b) => Math.min(endOf(trace, b), to) - Math.min(endOf(trace, a), to)
    || trace.start[a] - trace.start[b]);
  let cursor = to;
  for (const node of candidates) {
    const end = Math.min(endOf(trace, node), to);
    const start = Math.max(trace.start[node], from);
    // One that was still running when the next one began was not what that one waited for.
    if (end > cursor || start >= end) continue;
    if (end < cursor) own(end, cursor);
    open.push([node, start, end]);
    cursor = start;
  }
  if (cursor > from) own(from, cursor);
}
