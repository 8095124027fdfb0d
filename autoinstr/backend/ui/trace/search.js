// Searching in a trace, and its filters.
// Owns: the small language of the search field, which spans match. Must not know: the page.
// Invariants: pure; nothing that is typed is run as a pattern, so that no text can hang the page.

import { listOf, plainId, serviceOf, textOf } from "./model.js";

/**
 * What is asked for: `[{key, wanted, negated}]`, all of which have to hold. Words are looked for anywhere in a span;
 * `key=value` in the tag (also `service=`, `operation=`, `kind=`); a minus before it negates; quotes hold words
 * together.
 */
function parseFind(text) {
  const parts = String(text ?? "").match(/-?(?:[^\s"]|"[^"]*"?)+/g) ?? [];
  return parts.map(parsePart).filter((term) => term.wanted !== "" || term.key !== "");
}

function parsePart(part) {
  const negated = part.length > 1 && part.startsWith("-");
  const said = negated ? part.slice(1) : part;
  const [, key, value] = /^([^="]+)=(.*)$/s.exec(said) ?? [null, "", said];
  return { negated, key: key.toLowerCase(), wanted: value.replaceAll('"', "").toLowerCase() };
}

/**
 * Which spans are looked for: `{matches, count, active}`; `matches` per node 0 or 1, `active` false when nothing is
 * asked. `asked`: `{find, errors, critical, longerUs}`, `critical` the set (or map) of spans on the critical path, or
 * null.
 */
export function findMatches(trace, { find = "", errors = false, critical = null, longerUs = 0 }) {
  const terms = parseFind(find);
  const matches = new Uint8Array(trace.size.length);
  let count = 0;
  for (let node = 0; node < matches.length; node++) {
    if (trace.missing[node] || (errors && !trace.error[node]) || trace.duration[node] < longerUs) continue;
    if ((critical && !critical.has(node)) || !terms.every((term) => holds(trace, node, term))) continue;
    matches[node] = 1;
    count += 1;
  }
  return { matches, count, active: terms.length > 0 || errors || critical !== null || longerUs > 0 };
}

/** The matches and everything above them. */
export function withAncestors(trace, matches) {
  const shown = Uint8Array.from(matches);
  for (let node = shown.length - 1; node >= 0; node--) {
    if (shown[node] && trace.parent[node] >= 0) shown[trace.parent[node]] = 1;
  }
  return shown;
}

/** The next match after a node (`step` 1) or before it (-1), around the end; -1 when there is none. */
export function nextMatch(matches, node, step) {
  const length = matches.length;
  for (let moved = 1; moved <= length; moved++) {
    const at = (((node + step * moved) % length) + length) % length;
    if (matches[at]) return at;
  }
  return -1;
}

/** Which of the matches a node is, from 1; 0 when it is none. */
export function placeOf(matches, node) {
  if (!matches[node]) return 0;
  let place = 0;
  for (let at = 0; at <= node; at++) place += matches[at];
  return place;
}

/** µs from `250us`, `1.5ms`, `2 s`, or a bare number of milliseconds; null when it is none of them. */
export function parseDuration(text) {
  const found = /^\s*(\d+(?:\.\d+)?|\.\d+)\s*(us|µs|μs|ms|s|m)?\s*$/.exec(text ?? "");
  if (!found) return null;
  return Number(found[1]) * { us: 1, "µs": 1, "μs": 1, ms: 1e3, s: 1e6, m: 60e6 }[found[2] ?? "ms"];
}

function holds(trace, node, { key, wanted, negated }) {
  return negated !== (key ? hasTag(trace, node, key, wanted) : hasWord(trace, node, wanted));
}

const contains = (text, wanted) => text.toLowerCase().includes(wanted);

function hasTag(trace, node, key, wanted) {
  if (key === "service") return contains(serviceOf(trace, node), wanted);
  if (key === "operation" || key === "name") return contains(trace.operation[node], wanted);
  if (key === "kind") return trace.kind[node] === wanted;
  const found = tagLists(trace.spans[node]).some((tags) =>
    tags.some((tag) => String(tag.key).toLowerCase() === key && contains(textOf(tag.value), wanted)));
  // What has an equals sign in it may also be just that: a part of a query's text.
  return found || hasWord(trace, node, `${key}=${wanted}`);
}

function hasWord(trace, node, wanted) {
  const span = trace.spans[node];
  return contains(trace.operation[node], wanted) || contains(serviceOf(trace, node), wanted)
    || plainId(span.spanID) === plainId(wanted)
    || tagLists(span).some((tags) => tags.some((tag) => contains(String(tag.key), wanted) || contains(textOf(tag.value),
      wanted)))
    || listOf(span.warnings).some((warning) => contains(textOf(warning), wanted));
}

function tagLists(span) {
  return [listOf(span.tags), ...listOf(span.logs).map((log) => listOf(log.fields))];
}
