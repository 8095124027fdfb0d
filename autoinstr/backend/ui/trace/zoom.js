// Which part of the trace's time is seen.
// Owns: moving and scaling that window, the marks of a time axis. Must not know: the page. Invariants: pure; a window
// lies within the trace and is never empty.

/** `[from, to]` made valid for a trace that takes `whole` µs. */
export function clampWindow(from, to, whole) {
  const least = Math.min(Math.max(whole / 100000, 1), whole || 1);
  const width = Math.min(Math.max(to - from, least), Math.max(whole, least));
  const start = Math.min(Math.max(from, 0), Math.max(0, whole - width));
  return [start, start + width];
}

/** Scaled by `factor` (below 1: closer) around the moment that stays where it is. */
export function zoomed([from, to], factor, around, whole) {
  return clampWindow(around - (around - from) * factor, around + (to - around) * factor, whole);
}

/** Moved by a part of its own width. */
export function panned([from, to], part, whole) {
  const by = (to - from) * part;
  return clampWindow(from + by, to + by, whole);
}

/** Round moments within the window, at most `most` of them, µs. */
export function ticks([from, to], most) {
  const rough = (to - from) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1e-3)));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}
