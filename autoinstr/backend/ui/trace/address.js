// What of the trace page stands in its address.
// Owns: the parameters, their defaults and their text. Must not know: what is done with them.

import { navigate } from "../lib.js";
import { parseDuration } from "./search.js";

export const VIEWS = [["waterfall", "Waterfall"], ["flame", "Flame graph"], ["statistics", "Statistics"],
  ["table", "Spans"]];

/** The address as options; what is not valid counts as not given. */
export function readAddress(query) {
  const view = query.get("view");
  return {
    view: VIEWS.some(([name]) => name === view) ? view : "waterfall",
    find: query.get("find") ?? "",
    hide: query.get("hide") === "1",
    errors: query.get("errors") === "1",
    critical: query.get("critical") === "1",
    longer: query.get("longer") ?? "",
    longerUs: parseDuration(query.get("longer")) ?? 0,
    fold: query.get("fold") !== "0",
    raw: query.get("raw") === "1",
    span: query.get("span") ?? "",
    from: positive(query.get("from")),
    to: positive(query.get("to")),
  };
}

/**
 * Change some parameters of the page that is shown; false and "" take one away. `push` where going back should undo
 * it.
 */
export function changeAddress(changes, { push = false } = {}) {
  const query = Object.fromEntries(new URLSearchParams(location.search));
  for (const [key, value] of Object.entries(changes)) query[key] = value === true ? "1" : value === false ? "" : value;
  navigate(pagePath(), query, { replace: !push });
}

function pagePath() {
  const base = new URL(".", document.baseURI).pathname.replace(/\/$/, "");
  return location.pathname.slice(base.length);
}

function positive(text) {
  const number = Number(text);
  return text && Number.isFinite(number) && number >= 0 ? number : null;
}
