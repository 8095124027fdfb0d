// The search form. Owns: its fields, and a draft of what is typed but not yet asked. Must not know: results.

import { html, shownName, useEffect, useOperations, useState } from "../lib.js";
import { Icon } from "../icons.js";
import { LookbackSelect, secondsOf } from "../lookback.js";
import { CUSTOM, DURATION, EVERYTHING, LIMITS, fromLocalTime, parseTags, toLocalTime } from "./query.js";

const ERRORS_ONLY = "error=true";

/**
 * @param search the search in force, as `fromAddress` gives it
 * @param onSearch called with a search when it is to be in force
 */
export function SearchForm({ search, services, onSearch }) {
  const [draft, setDraft] = useState(search);
  const key = JSON.stringify(search);
  useEffect(() => setDraft(search), [key]);
  const names = useOperations(draft.service);
  const tagProblem = problemOf(() => parseTags(draft.tags));

  const typed = (field) => (event) => setDraft({ ...draft, [field]: event.currentTarget.value });
  const chosen = (changes) => { const next = { ...draft, ...changes }; setDraft(next); if (!problemOf(() => parseTags(next.tags))) onSearch(next); };
  const submit = (event) => { event.preventDefault(); if (!tagProblem && event.currentTarget.reportValidity()) onSearch(draft); };

  return html`<form class="search-form" role="search" aria-label="Traces" onSubmit=${submit}>
    <div class="field"><label for="service">Service</label>
      <select id="service" value=${draft.service} onChange=${(event) => chosen({ service: event.currentTarget.value, operation: "" })}>
        <option value="">All services</option>
        ${withChosen(services, draft.service).map((name) => html`<option value=${name}>${shownName(name)}</option>`)}</select></div>
    <div class="field"><label for="operation">Operation</label>
      <input id="operation" list="operations" value=${draft.operation} onInput=${typed("operation")} autocomplete="off" spellcheck=${false}
        placeholder="Any" />
      <datalist id="operations">${names.map((name) => html`<option value=${name}></option>`)}</datalist></div>
    <div class="field"><label for="tags">Tags</label>
      <input id="tags" value=${draft.tags} onInput=${typed("tags")} placeholder="http.status_code=503" autocomplete="off" spellcheck=${false}
        aria-invalid=${tagProblem ? "true" : undefined} aria-describedby="tags-told" />
      <span id="tags-told" class=${tagProblem ? "problem" : "hint"}>${tagProblem || "All must be on one span, or on its process"}</span></div>
    <label class="check"><input type="checkbox" checked=${hasErrorsOnly(draft.tags)}
      onChange=${(event) => chosen({ tags: withErrorsOnly(draft.tags, event.currentTarget.checked) })} /> Only with errors</label>
    <div class="field-pair">
      <div class="field"><label for="min">Shortest</label>
        <input id="min" value=${draft.minDuration} onInput=${typed("minDuration")} pattern=${DURATION} title="For example 1.5s, 100ms or 250us"
          placeholder="100ms" autocomplete="off" /></div>
      <div class="field"><label for="max">Longest</label>
        <input id="max" value=${draft.maxDuration} onInput=${typed("maxDuration")} pattern=${DURATION} title="For example 1.5s, 100ms or 250us"
          placeholder="2s" autocomplete="off" /></div></div>
    <div class="field-pair">
      <div class="field"><label for="lookback">From the last</label>
        <${LookbackSelect} id="lookback" value=${draft.lookback} onChange=${(value) => chosen(lookback(value, draft))}>
          <option value=${EVERYTHING}>All that is kept</option><option value=${CUSTOM}>Choose times …</option><//></div>
      <div class="field"><label for="limit">Traces at most</label>
        <select id="limit" value=${draft.limit} onChange=${(event) => chosen({ limit: event.currentTarget.value })}>
          ${withChosen(LIMITS.map(String), draft.limit).map((value) => html`<option value=${value}>${value}</option>`)}</select></div></div>
    ${draft.lookback === CUSTOM && html`<div class="field"><label for="start">Started after</label>
        <input id="start" type="datetime-local" step="1" value=${toLocalTime(draft.start)}
          onChange=${(event) => setDraft({ ...draft, start: fromLocalTime(event.currentTarget.value) })} /></div>
      <div class="field"><label for="end">Started before</label>
        <input id="end" type="datetime-local" step="1" value=${toLocalTime(draft.end)}
          onChange=${(event) => setDraft({ ...draft, end: fromLocalTime(event.currentTarget.value) })} /></div>`}
    <button type="submit" class="button primary"><${Icon} name="search" />Find traces</button>
  </form>`;
}

function problemOf(act) {
  try { act(); return ""; } catch (error) { return error.message; }
}

/** An address may hold a service that has no spans any more. */
function withChosen(values, chosen) {
  return !chosen || values.includes(chosen) ? values : [chosen, ...values];
}

/** Times of one's own start where the choice before left off. */
function lookback(value, draft) {
  if (value !== CUSTOM) return { lookback: value, start: "", end: "" };
  const seconds = secondsOf(draft.lookback) ?? 86_400;
  return { lookback: value, start: String((Math.floor(Date.now() / 1000) - seconds) * 1e6), end: "" };
}

function hasErrorsOnly(tags) {
  return ` ${tags} `.includes(` ${ERRORS_ONLY} `);
}

function withErrorsOnly(tags, wanted) {
  const others = tags.split(/\s+/).filter((word) => word && word !== ERRORS_ONLY);
  return (wanted ? [...others, ERRORS_ONLY] : others).join(" ");
}
