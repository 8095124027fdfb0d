// New traces as they come. Owns: the connection, what is held back while somebody reads. Must not know: how a trace looks.

import { address, useEffect, useRef, useState } from "../lib.js";

/** How long a pointer that moves over the list says that somebody reads it. */
const READING_MS = 2500;

/**
 * Call `onTraces(summaries, isAll)` for what the backend has just written, while `on`; not all of it when it was too much to tell.
 * Returns what the connection is like: "off", "connecting", "open" or "broken" (it is tried again by itself).
 */
export function useLive(on, onTraces) {
  const [state, setState] = useState("off");
  const latest = useRef(onTraces);
  latest.current = onTraces;
  useEffect(() => {
    if (!on) { setState("off"); return undefined; }
    setState("connecting");
    const source = new EventSource(address("/ui/data/live"));
    source.addEventListener("open", () => setState("open"));
    source.addEventListener("error", () => setState("broken"));
    source.addEventListener("traces", (event) => {
      const { traces, skipped } = JSON.parse(event.data);
      latest.current(traces, !skipped);
    });
    source.addEventListener("missed", () => latest.current([], false));
    return () => source.close();
  }, [on]);
  return state;
}

/** Handlers for the list, and `isReading()`: nothing must move under the eyes of who reads it. */
export function useReading() {
  const list = useRef(null);
  const moved = useRef(0);
  const isReading = () => {
    const element = list.current;
    if (!element) return false;
    return Date.now() - moved.current < READING_MS || element.contains(document.activeElement) || element.getBoundingClientRect().top < 0;
  };
  return { isReading, ref: list, onPointerMove: () => { moved.current = Date.now(); } };
}
