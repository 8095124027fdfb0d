// What the reader has done to the tree: collapsed, unfolded, opened, chosen.
// Owns: those sets, and carrying them over when the same trace is read again with more spans. Must not know: the page.

import { useCallback, useState } from "../lib.js";

const nothing = (trace) => ({ trace, collapsed: new Set(), unfolded: new Set(), open: new Set(), active: -1 });

/**
 * `[tree, change]`; `change(tree => changes)` merges. `tree`: `{collapsed, unfolded, open}` sets of nodes, `active` a
 * node or -1.
 */
export function useTree(trace) {
  const [state, setState] = useState(() => nothing(trace));
  const change = useCallback((changing) => setState((before) => {
    const now = carried(before, trace);
    return { ...now, ...changing(now) };
  }), [trace]);
  return [carried(state, trace), change];
}

const carriedOver = new WeakMap();

/** The same spans' nodes in another reading of the trace. */
function carried(state, trace) {
  if (state.trace === trace) return state;
  // The same answer for the same question, so that what depends on the sets is not computed again.
  const known = carriedOver.get(state);
  if (known?.trace === trace) return known;
  const result = state.trace.id === trace.id ? carry(state, trace) : nothing(trace);
  carriedOver.set(state, result);
  return result;
}

function carry({ trace: before, collapsed, unfolded, open, active }, trace) {
  const nodeNow = (node) => trace.indexOf.get(before.key[node]) ?? -1;
  const moved = (nodes) => new Set([...nodes].map(nodeNow).filter((node) => node >= 0));
  return { trace, collapsed: moved(collapsed), unfolded: moved(unfolded), open: moved(open), active: active < 0 ? -1
    : nodeNow(active) };
}

/** A set with one element more, or without it when it was there. */
export function toggled(set, one) {
  const result = new Set(set);
  if (!result.delete(one)) result.add(one);
  return result;
}
