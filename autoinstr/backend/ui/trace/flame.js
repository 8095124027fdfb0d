// The flame graph: all spans with the same ancestors as one box, as wide as the time of itself and all below it.
// Owns: what it is zoomed to, what is chosen, the same as a table. Must not know: how boxes are drawn.

import { colourOf, count, duration, html, plural, useEffect, useMemo, useState } from "../lib.js";
import { FlameCanvas } from "./flamecanvas.js";
import { ancestorsOf, isBelow, nameOfPath, pathTree } from "./paths.js";

const MOST_IN_TABLE = 500;
const MOST_CRUMBS = 8;
const LONGEST_CRUMB = 60;
const LONGEST_NAME = 200;

export function Flame({ trace, found, onGo }) {
  const paths = useMemo(() => pathTree(trace), [trace]);
  const [root, setRoot] = useState(0);
  const [chosen, setChosen] = useState(0);
  const [asTable, setAsTable] = useState(false);
  useEffect(() => { setRoot(0); setChosen(0); }, [paths]);
  // Until that has happened the numbers may be of the trace before.
  const [rootNow, chosenNow] = [root, chosen].map((at) => (paths[at] ? at : 0));
  return html`<section class="flame card">
    <div class="flame-head">
      <${Crumbs} paths=${paths} root=${rootNow} onRoot=${setRoot} />
      <button type="button" class="button" aria-pressed=${asTable}
        onClick=${() => setAsTable(!asTable)}>As a table</button>
    </div>
    ${asTable ? html`<${FlameTable} paths=${paths} root=${rootNow} onGo=${onGo} />` : html`
      <${FlameCanvas} paths=${paths} root=${rootNow} chosen=${chosenNow} found=${found} about=${about}
        onRoot=${setRoot} onChosen=${setChosen} />
      <${Told} paths=${paths} at=${chosenNow} onGo=${onGo} />`}
  </section>`;
}

function Crumbs({ paths, root, onRoot }) {
  const all = ancestorsOf(paths, root);
  const shown = all.length > MOST_CRUMBS ? [all[0], ...all.slice(1 - MOST_CRUMBS)] : all;
  return html`<nav aria-label="Zoomed to" class="crumbs">${shown.map((at) => html`
    <button type="button" class="text-button" onClick=${() => onRoot(at)}>
      ${nameOfPath(paths[at]).slice(0, LONGEST_CRUMB)}</button>`)}</nav>`;
}

/** What a box stands for, as texts. */
function about(paths, at) {
  const { count: calls, totalUs, selfUs, weightUs, errors } = paths[at];
  const share = paths[0].weightUs ? (100 * weightUs) / paths[0].weightUs : 0;
  const told = [
    plural(calls, "span"), `${duration(totalUs)} in all`, `${duration(selfUs)} itself`,
    `${share.toFixed(1)} % of the trace`, errors > 0 && plural(errors, "error"),
  ];
  return at ? told.filter(Boolean).join(" · ") : duration(weightUs);
}

function Told({ paths, at, onGo }) {
  if (!at) {
    return html`<p class="flame-told muted" role="status">Widths are summed time: what ran at once counts as often as it
      ran. Click or Enter zooms, arrow keys move, Escape goes back.</p>`;
  }
  const go = () => onGo(paths[at].first);
  return html`<p class="flame-told" role="status">
    <strong>${nameOfPath(paths[at])}</strong> · ${about(paths, at)}${" · "}
    <button type="button" class="text-button" onClick=${go}>first of them in the waterfall</button></p>`;
}

function FlameTable({ paths, root, onGo }) {
  const below = paths.map((path, at) => ({ ...path, at })).filter(({ at }) => at > 0 && isBelow(paths, at, root));
  const shown = below.sort((a, b) => b.weightUs - a.weightUs).slice(0, MOST_IN_TABLE);
  const figures = ["Level", "Spans", "With all below", "Itself", "Errors"];
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label="Flame graph as a table">
    <table>
      <thead><tr><th>Path</th>${figures.map((title) => html`<th class="number">${title}</th>`)}</tr></thead>
      <tbody>${shown.map((path) => html`<${Line} path=${path} onGo=${onGo} />`)}</tbody>
    </table>
    ${below.length > shown.length && html`
      <p class="muted small nothing">The ${count(shown.length)} widest of ${count(below.length)}.</p>`}
  </div>`;
}

function Line({ path, onGo }) {
  return html`<tr>
    <th scope="row"><button type="button" class="text-button" onClick=${() => onGo(path.first)}>
      <span class="dot" style=${{ color: colourOf(path.service) }}></span>${" "}
      ${nameOfPath(path).slice(0, LONGEST_NAME)}</button></th>
    <td class="number">${path.depth + 1}</td>
    <td class="number">${count(path.count)}</td>
    <td class="number">${duration(path.weightUs)}</td>
    <td class="number">${duration(path.selfUs)}</td>
    <td class=${path.errors ? "number error-text" : "number"}>${count(path.errors)}</td>
  </tr>`;
}
