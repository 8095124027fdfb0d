// What makes the picture of a trace wrong or not whole.
// Owns: those notices, and what can be done about each. Must not know: the views.

import { html, plural } from "../lib.js";
import { Icon } from "../icons.js";
import { changeAddress } from "./address.js";
import { clockWarning, whatWasLost } from "./words.js";

/** `state`: of load.js; `losses`: `GET /ui/data/losses`, or null. */
export function Notices({ trace, state, options, losses }) {
  const isIncomplete = trace.orphans > 0 || state.arriving || state.news > 0;
  return html`<div class="trace-notices">
    ${state.error && html`<div class="notice error" role="alert">
      <span>It could not be read again: ${state.error}</span><${Again} state=${state} /></div>`}
    ${isIncomplete && html`<div class=${trace.orphans ? "notice warning" : "notice"} role="status">
      <span>${incompleteness(trace, state, losses)}</span><${Again} state=${state} /></div>`}
    <${Clocks} trace=${trace} raw=${options.raw} />
    ${trace.problems.map((problem) => html`<div class="notice warning"><span>${problem}</span></div>`)}
  </div>`;
}

function Clocks({ trace, raw }) {
  const adjusted = trace.spans.reduce((sum, span) => sum + (span && clockWarning(span) ? 1 : 0), 0);
  if (!adjusted && !raw) return null;
  const told = raw ? "Times are shown as they were sent, by clocks that may differ."
    : `The times of ${plural(adjusted, "span")} were adjusted, because clocks of different hosts disagreed.`;
  const turn = () => changeAddress({ raw: !raw }, { push: true });
  return html`<div class="notice"><span>${told}</span>
    <button type="button" class="button" aria-pressed=${raw} onClick=${turn}>Times as sent</button></div>`;
}

function incompleteness(trace, { arriving, news }, losses) {
  const lost = whatWasLost(losses, trace.services.map(({ name }) => name));
  const orphans = trace.orphans === 1 ? "The parent of 1 span" : `The parents of ${plural(trace.orphans, "span")}`;
  return [
    trace.orphans > 0 && `${orphans} ${arriving ? "did not come yet" : "never came"}.`,
    trace.orphans > 0 && lost.length > 0 && `Spans were lost on the way: ${lost.join("; ")}.`,
    arriving && "The trace may still be arriving: the page asks again by itself.",
    news > 0 && `${plural(news, "new span")}.`,
  ].filter(Boolean).join(" ");
}

function Again({ state }) {
  return html`<button type="button" class="button" onClick=${state.reload}><${Icon} name="reset" />Refresh</button>`;
}
