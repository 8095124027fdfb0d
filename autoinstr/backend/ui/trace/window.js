// The window of time that is seen, as state: at once on the page, in the address when it has come to rest.
// Owns: keeping the two together. Must not know: who moves it (zoom.js computes where to).

import { useEffect, useMemo, useRef, useState } from "../lib.js";
import { changeAddress } from "./address.js";
import { clampWindow } from "./zoom.js";

const SETTLED_MS = 250;

/** `[[from, to], change]` in µs after the trace's start; `from` and `to` are the address's, or null. */
export function useWindow(trace, { from, to }) {
  const whole = trace.durationUs;
  const asked = from === null && to === null ? "" : `${from ?? 0} ${to ?? whole}`;
  const [moved, setMoved] = useState(null);
  const written = useRef(asked);
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  useEffect(() => {
    // Somebody else changed the address: going back, a link.
    if (asked !== written.current) setMoved(null);
    written.current = asked;
  }, [asked]);
  const change = (wanted) => {
    const [start, end] = clampWindow(wanted[0], wanted[1], whole);
    setMoved([start, end]);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      const isAll = start <= 0 && end >= whole;
      const [first, last] = isAll ? ["", ""] : [Math.floor(start), Math.ceil(end)];
      // First, so that the page that the new address draws knows it for its own.
      written.current = isAll ? "" : `${first} ${last}`;
      changeAddress({ from: first, to: last });
    }, SETTLED_MS);
  };
  const now = useMemo(() => moved ?? clampWindow(from ?? 0, to ?? whole, whole), [moved, from, to, whole]);
  return [now, change];
}
