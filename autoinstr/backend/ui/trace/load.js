// Fetching a trace, and again while it is still arriving.
// Owns: when to ask again, what a failed answer means. Must not know: how a trace is shown.

import { fetchJson, useEffect, useRef, useState } from "../lib.js";
import { criticalPath } from "./critical.js";
import { buildTrace } from "./model.js";

// A batching client sends within seconds; what has not come after the last of these does not come by itself.
const ASK_AGAIN_MS = [1000, 2000, 4000, 8000, 15000];
const RECENT_US = 20e6;
// Fetching a huge trace over and over would make the page slow for nothing: there is a button.
const MOST_TO_ASK_AGAIN = 20000;

/** A trace with its critical path: `{trace, path}`; throws an Error whose message can be shown. */
export async function fetchTrace(id, raw = false) {
  const answer = await fetchJson(`/api/traces/${encodeURIComponent(id)}`, raw ? { raw: "true" } : {});
  const found = answer?.data?.[0];
  if (!found) throw new Error("trace not found");
  return withPath(found);
}

function withPath(json) {
  const trace = buildTrace(json);
  return { trace, path: criticalPath(trace) };
}

/**
 * `{trace, path, error, arriving, news, reload}`: `arriving` while asking again makes sense, `news` how many spans the
 * last answer had more than the one before.
 */
export function useTrace(id, raw) {
  const [state, setState] = useState({ trace: null, path: null, error: "", news: 0 });
  const [round, setRound] = useState({ number: 0, of: id });
  const asked = useRef("");
  useEffect(() => {
    let current = true;
    const again = asked.current === `${id} ${raw}`;
    asked.current = `${id} ${raw}`;
    fetchTrace(id, raw).then(
      (found) => current && setState((before) => following(before, found, again)),
      (error) => current && setState((before) => ({ ...before, error: error.message, trace: again ? before.trace
        : null })));
    return () => { current = false; };
  }, [id, raw, round]);
  const arriving = isArriving(state, round.number);
  useEffect(() => {
    if (!arriving) return undefined;
    const timer = setTimeout(() => setRound({ number: round.number + 1, of: id }), ASK_AGAIN_MS[round.number]);
    return () => clearTimeout(timer);
  }, [state, round, id]);
  useEffect(() => { if (round.of !== id) setRound({ number: 0, of: id }); }, [id]);
  return { ...state, arriving, reload: () => setRound({ number: 0, of: id }) };
}

/** What has not changed keeps its identity, so that nothing is drawn anew. */
function following(before, found, again) {
  const { trace } = before;
  if (again && trace && trace.count === found.trace.count && trace.durationUs === found.trace.durationUs) {
    return { ...before, error: "", news: 0 };
  }
  return { ...found, error: "", news: again && trace ? found.trace.count - trace.count : 0 };
}

function isArriving({ trace, error }, round) {
  if (round >= ASK_AGAIN_MS.length) return false;
  if (!trace) return /not found/.test(error);
  if (trace.count > MOST_TO_ASK_AGAIN) return false;
  return trace.orphans > 0 || Math.abs(Date.now() * 1000 - (trace.startUs + trace.durationUs)) < RECENT_US;
}

/** What was lost on the way, once it is `wanted`: `GET /ui/data/losses`, or null; nothing here depends on it. */
export function useLosses(wanted) {
  const [losses, setLosses] = useState(null);
  useEffect(() => {
    if (!wanted) return undefined;
    let current = true;
    fetchJson("/ui/data/losses").then((found) => current && setLosses(found), () => {});
    return () => { current = false; };
  }, [wanted]);
  return losses;
}
