// Searching and filtering in the trace, and opening and closing its tree.
// Owns: those controls. Must not know: what they do to the views (the address says it to all of them).

import { count, html, useEffect, useRef, useState } from "../lib.js";
import { changeAddress } from "./address.js";
import { parseDuration } from "./search.js";

const TYPING_MS = 150;

/**
 * `place`: which of the matches is the active one, from 1; `onStep(1 | -1)`: the next, the previous; `onTree`: see
 * actions.
 */
export function Toolbar({ options, trace, found, place, onStep, onTree, isWaterfall }) {
  const isFiltered = options.errors || options.critical || options.longerUs > 0;
  const clear = () => changeAddress({ errors: "", critical: "", longer: "" });
  return html`<div class="toolbar trace-toolbar" role="group" aria-label="Search and filters">
    <${Find} options=${options} found=${found} place=${place} onStep=${onStep} />
    ${isWaterfall && html`<${Toggle} name="hide" options=${options} disabled=${!options.find}>Hide the rest<//>`}
    <span class="gap"></span>
    <${Toggle} name="errors" options=${options} disabled=${!trace.errors && !options.errors}>
      Errors${" "}<span class="badge">${count(trace.errors)}</span><//>
    <${Toggle} name="critical" options=${options}>Critical path<//>
    <${Longer} options=${options} />
    ${isFiltered && html`<button type="button" class="button quiet" onClick=${clear}>Clear filters</button>`}
    ${isWaterfall && html`<${TreeButtons} options=${options} onTree=${onTree} />`}
  </div>`;
}

function TreeButtons({ options, onTree }) {
  return html`<span class="gap push"></span>
    <button type="button" class="button quiet" aria-pressed=${options.fold}
      title="Runs of four or more like siblings in one row"
      onClick=${() => changeAddress({ fold: options.fold ? "0" : "" })}>Fold repeats</button>
    <span class="switch" role="group" aria-label="Tree">
      <button type="button" class="button" onClick=${onTree.expandAll} title="Expand all ( [ )">Expand</button>
      <button type="button" class="button" onClick=${onTree.collapseAll} title="Collapse all ( ] )">Collapse</button>
      <button type="button" class="button icon-only" onClick=${onTree.expandLevel} aria-label="Expand one level"
        title="Expand one level ( o )">+</button>
      <button type="button" class="button icon-only" onClick=${onTree.collapseLevel} aria-label="Collapse one level"
        title="Collapse one level ( p )">−</button>
    </span>`;
}

function Toggle({ name, options, disabled, children }) {
  return html`<button type="button" class="button" aria-pressed=${options[name]} disabled=${disabled}
    onClick=${() => changeAddress({ [name]: !options[name] })}>${children}</button>`;
}

function Find({ options, found, place, onStep }) {
  const [text, setText] = useDebounced(options.find, (typed) => changeAddress({ find: typed }));
  const pressed = (event) => {
    if (event.key === "Enter") onStep(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape" && text) setText("");
    else return;
    event.preventDefault();
  };
  const isNone = !found.active || !found.count;
  return html`<div class="find" role="search" aria-label="In this trace">
    <label class="field"><span class="visually-hidden">Search in this trace</span>
      <input id="trace-find" type="search" value=${text} placeholder="Search: name, tag=value, -not, id"
        autocomplete="off" spellcheck=${false}
        onInput=${(event) => setText(event.currentTarget.value)} onKeyDown=${pressed} /></label>
    <span class="find-count" role="status">${found.active && html`
      ${place ? `${count(place)} / ` : ""}${count(found.count)}<span class="visually-hidden"> matches</span>`}</span>
    <button type="button" class="button quiet icon-only" disabled=${isNone}
      onClick=${() => onStep(-1)} aria-label="Previous match" title="Previous match ( b )">‹</button>
    <button type="button" class="button quiet icon-only" disabled=${isNone}
      onClick=${() => onStep(1)} aria-label="Next match" title="Next match ( n )">›</button>
  </div>`;
}

function Longer({ options }) {
  const [text, setText] = useDebounced(options.longer, (typed) => changeAddress({ longer: typed }));
  const isWrong = text.trim() !== "" && parseDuration(text) === null;
  return html`<label class="field longer"><span>Longer than</span>
    <input value=${text} placeholder="10ms" size="6" autocomplete="off" aria-invalid=${isWrong ? "true" : undefined}
      title=${isWrong ? "A number with us, ms, s or m, as in 10ms" : ""}
        onInput=${(event) => setText(event.currentTarget.value)} /></label>`;
}

/** What is being typed, told to `onSettled` when the typing pauses; follows `value` when that changes by itself. */
function useDebounced(value, onSettled) {
  const [text, setText] = useState(value);
  const told = useRef(value);
  const timer = useRef(0);
  useEffect(() => {
    if (value === told.current) return;
    told.current = value;
    setText(value);
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const change = (typed) => {
    setText(typed);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      told.current = typed;
      onSettled(typed);
    }, TYPING_MS);
  };
  return [text, change];
}
