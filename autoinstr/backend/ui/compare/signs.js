// How a difference looks and reads: signs and words beside the colours, for those who do not see them.
// Owns: signs, words, classes of colours. Must not know: elements.

/** Sign of `difference.js` → mark and words. */
export const SIGNS = {
  added: ["+", "only in B"],
  removed: ["−", "only in A"],
  calls: ["≠", "another number of spans"],
  slower: ["▲", "slower in B"],
  faster: ["▼", "faster in B"],
  same: ["", "the same"],
};

/** The class of a change: more, less, or none. */
export const tone = (change) => (change > 0 ? "more" : change < 0 ? "less" : "");

/** `+12.3 ms`, `−4`, `±0`; `text` writes the number. */
export function signed(change, text) {
  if (change === 0) return "±0";
  return `${change > 0 ? "+" : "−"}${text(Math.abs(change))}`;
}

/** ` (+43 %)`, or nothing where that says nothing. */
export function share(before, after) {
  if (before <= 0 || before === after) return "";
  return ` (${signed(Math.round((100 * (after - before)) / before), String)} %)`;
}
