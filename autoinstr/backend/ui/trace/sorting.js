// Column headers that sort. Owns: their look and their state in words. Must not know: what is sorted.

import { html, useState } from "../lib.js";

/**
 * `[{key, down}, sortBy(key)]`: a second click on a column turns it around. Numbers are wanted largest first, text by
 * the alphabet.
 */
export function useSorting(key, down, textKeys) {
  const [sorting, setSorting] = useState({ key, down });
  const sortBy = (wanted) => setSorting((before) => (before.key === wanted ? { key: wanted, down: !before.down }
    : { key: wanted, down: !textKeys.includes(wanted) }));
  return [sorting, sortBy];
}

export const sortState = ({ key, down }, column) => (key !== column ? undefined : down ? "descending" : "ascending");

export function SortButton({ column, title, sorting, sortBy }) {
  const state = sortState(sorting, column);
  return html`<button type="button" class="sort" onClick=${() => sortBy(column)}>${title}<span aria-hidden="true">
    ${{ ascending: " ▲", descending: " ▼" }[state] ?? ""}</span></button>`;
}
