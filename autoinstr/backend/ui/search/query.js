// What a search is: the page's address, what the backend is asked, and back. Pure.
// Must not know: elements, the form.

import { DEFAULT_LOOKBACK, secondsOf } from "../lookback.js";

export const CUSTOM = "custom";
export const EVERYTHING = "all";
export const LIMITS = [20, 50, 100, 200, 500, 1000, 1500];
export const DEFAULT_LIMIT = 100;
export const DURATION = "(\\d+(\\.\\d*)?(ns|us|µs|ms|s|m|h))+";

/** What the address holds of a search; other keys (sort, scale, live) are how it is looked at. */
const KEYS = ["service", "operation", "tags", "minDuration", "maxDuration", "lookback", "start", "end", "limit"];

/** @param {URLSearchParams} query */
export function fromAddress(query) {
  const search = Object.fromEntries(KEYS.map((key) => [key, query.get(key) ?? ""]));
  if (search.start || search.end) search.lookback = CUSTOM;
  else if (!secondsOf(search.lookback) && search.lookback !== EVERYTHING) search.lookback = DEFAULT_LOOKBACK;
  search.limit = String(Math.min(1500, Math.max(1, Math.floor(Number(search.limit)) || DEFAULT_LIMIT)));
  return search;
}

/** The other way; defaults are left out, so that addresses stay short. */
export function toAddress(search) {
  const custom = search.lookback === CUSTOM;
  return {
    ...search,
    lookback: custom || search.lookback === DEFAULT_LOOKBACK ? "" : search.lookback,
    start: custom ? search.start : "",
    end: custom ? search.end : "",
    limit: search.limit === String(DEFAULT_LIMIT) ? "" : search.limit,
  };
}

/** Parameters of `/ui/data/search`; throws an Error for tags that cannot be understood. */
export function toParameters(search, nowMs) {
  const tags = parseTags(search.tags);
  const seconds = secondsOf(search.lookback);
  const start = search.lookback === CUSTOM ? search.start : search.lookback === EVERYTHING ? 1 : Math.round((nowMs - seconds * 1000) * 1000);
  return {
    service: search.service,
    operation: search.operation,
    tags: Object.keys(tags).length ? JSON.stringify(tags) : "",
    minDuration: search.minDuration.replaceAll(" ", ""),
    maxDuration: search.maxDuration.replaceAll(" ", ""),
    start: start || 1,
    end: search.lookback === CUSTOM ? search.end : "",
    limit: search.limit,
  };
}

/** `key=value key2="two words"` as an object. */
export function parseTags(text) {
  const tags = {};
  const pair = /\s*([^\s="]+)=("((?:[^"\\]|\\.)*)"|[^\s"]*)(?=\s|$)/y;
  const trimmed = text.trim();
  while (pair.lastIndex < trimmed.length) {
    const at = pair.lastIndex;
    const found = pair.exec(trimmed);
    if (!found) throw new Error(`Tags are written key=value, or key="two words"; this is neither: ${trimmed.slice(at, at + 40).trim()}`);
    tags[found[1]] = found[3] === undefined ? found[2] : found[3].replace(/\\(.)/g, "$1");
  }
  return tags;
}

/** Whether what a live event tells of a trace is enough to say if it belongs to a search. */
export function decidesAlone(search) {
  return !(search.operation || search.tags.trim() || search.minDuration || search.maxDuration);
}

export const SORTS = {
  newest: ["Newest", (one, other) => other.start_us - one.start_us],
  longest: ["Longest", (one, other) => other.duration_us - one.duration_us],
  spans: ["Most spans", (one, other) => other.spans - one.spans],
  errors: ["Most errors", (one, other) => other.errors - one.errors || other.start_us - one.start_us],
};

/** Text for a `datetime-local` field, from microseconds since the epoch in text; and back. */
export function toLocalTime(us) {
  if (!us || !Number.isFinite(Number(us))) return "";
  const date = new Date(Number(us) / 1000);
  if (Number.isNaN(date.getTime())) return "";
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

export function fromLocalTime(text) {
  const ms = new Date(text).getTime();
  return Number.isNaN(ms) ? "" : String(ms * 1000);
}
