// The comparison in a few figures and sentences.
// Owns: those. Must not know: how traces are matched.

import { colourOf, count, duration, html, plural } from "../lib.js";
import { countSigns, largestChanges } from "../trace/difference.js";
import { share, signed, tone } from "./signs.js";

const MOST_CHANGES = 5;
const LONGEST_NAME = 300;

/** `found`: of difference.js. */
export function Summary({ a, b, found }) {
  return html`<section class="card summary" aria-label="Summary">
    <${Figures} a=${a} b=${b} />
    <${Findings} found=${found} />
  </section>`;
}

function Figures({ a, b }) {
  const services = (trace) => trace.services.length;
  return html`<table>
    <thead><tr><th><span class="visually-hidden">What</span></th>
      <th class="number">A</th><th class="number">B</th><th class="number">Difference</th></tr></thead>
    <tbody>
      <${Figure} name="Duration" a=${a.durationUs} b=${b.durationUs} text=${duration}
        more=${share(a.durationUs, b.durationUs)} />
      <${Figure} name="Spans" a=${a.count} b=${b.count} text=${count} />
      <${Figure} name="Services" a=${services(a)} b=${services(b)} text=${count} />
      <${Figure} name="Errors" a=${a.errors} b=${b.errors} text=${count} />
    </tbody></table>`;
}

function Figure({ name, a, b, text, more = "" }) {
  return html`<tr><th scope="row">${name}</th><td class="number">${text(a)}</td><td class="number">${text(b)}</td>
    <td class=${`number ${tone(b - a)}`}>${signed(b - a, text)}${more}</td></tr>`;
}

function Findings({ found }) {
  const signs = countSigns(found);
  const changed = found.length - signs.same;
  const changes = largestChanges(found, MOST_CHANGES);
  return html`<div class="findings">
    <h2>${changed ? "What differs" : "Nothing differs"}</h2>
    <p>${changed ? `${plural(changed, "path")} of ${count(found.length)}: ${inWords(signs)}.`
      : "Both have the same paths, as often, and none takes a tenth more or less."}</p>
    ${changes.length > 0 && html`
      <p class="muted small">Where the time went, by what each does itself:</p>
      <ol>${changes.map((one) => html`<${Change} one=${one} />`)}</ol>`}
  </div>`;
}

function inWords(signs) {
  const told = [
    [signs.added, "only in B"], [signs.removed, "only in A"], [signs.calls, "called another number of times"],
    [signs.slower, "slower"], [signs.faster, "faster"],
  ];
  return told.filter(([number]) => number).map(([number, words]) => `${count(number)} ${words}`).join(", ");
}

function Change({ one }) {
  return html`<li>
    <span class=${`number ${tone(one.selfDeltaUs)}`}>${signed(one.selfDeltaUs, duration)}</span>
    <span class="dot" style=${{ color: colourOf(one.service) }}></span>
    <span class="name"><b>${one.service.slice(0, LONGEST_NAME)}</b> ${one.operation.slice(0, LONGEST_NAME)}</span>
  </li>`;
}
