// Two traces side by side: what one has that the other has not, and what takes longer.
// Owns: the page's address, the legend. Must not know: how traces are chosen, matched, drawn.

import { html, navigate, useEffect, useKeys, useMemo, useState } from "./lib.js";
import { Picker } from "./compare/picker.js";
import { SIGNS } from "./compare/signs.js";
import { Summary } from "./compare/summary.js";
import { Tree } from "./compare/tree.js";
import { difference } from "./trace/difference.js";
import { fetchTrace } from "./trace/load.js";

export const shortcuts = [
  ["↑ ↓", "Previous, next row"],
  ["← →", "Collapse, expand"],
  ["c", "Only what changed, or everything"],
  ["x", "Swap the two traces"],
];

export function ComparePage({ query }) {
  const [a, b] = [query.get("a") ?? "", query.get("b") ?? ""];
  const left = useOne(a);
  const right = useOne(b);
  const swap = () => navigate("/compare", { a: b, b: a, only: query.get("only") }, { replace: true });
  useKeys({ x: swap });
  return html`<div class="page compare-page">
    <h1 tabindex="-1">Compare two traces</h1>
    <div class="pickers">
      <${Picker} key="a" which="a" id=${a} other=${right} one=${left} query=${query} />
      <button type="button" class="button icon-only swap" onClick=${swap} aria-label="Swap the two traces"
        title="Swap the two traces ( x )">⇄</button>
      <${Picker} key="b" which="b" id=${b} other=${left} one=${right} query=${query} />
    </div>
    ${left.trace && right.trace
      ? html`<${Difference} a=${left.trace} b=${right.trace} query=${query} />`
      : html`<p class="card nothing">Choose two traces: paste their ids or addresses, or take one of the suggestions.
          Spans are matched by the path of services and operations that leads to them.</p>`}
  </div>`;
}

/** `{trace, error}` of an id; neither while there is none. */
function useOne(id) {
  const [state, setState] = useState({ trace: null, error: "" });
  useEffect(() => {
    let current = true;
    const show = (trace, error) => current && setState({ trace, error });
    show(null, "");
    if (id) fetchTrace(id).then(({ trace }) => show(trace, ""), (error) => show(null, error.message));
    return () => { current = false; };
  }, [id]);
  return state;
}

function Difference({ a, b, query }) {
  const found = useMemo(() => difference(a, b), [a, b]);
  const only = query.get("only") === "changed";
  const turn = () => {
    navigate("/compare", { ...Object.fromEntries(query), only: only ? "" : "changed" }, { replace: true });
  };
  useKeys({ c: turn });
  return html`
    <${Summary} a=${a} b=${b} found=${found} />
    <div class="toolbar">
      <button type="button" class="button" aria-pressed=${only} onClick=${turn}>Only what changed</button>
      <${Legend} />
    </div>
    <${Tree} a=${a} b=${b} found=${found} only=${only} />`;
}

function Legend() {
  const told = Object.entries(SIGNS).filter(([sign]) => sign !== "same");
  return html`<span class="legend">${told.map(([sign, [mark, words]]) => html`
    <span class=${`sign ${sign}`}><b>${mark}</b> ${words}</span>`)}</span>`;
}
