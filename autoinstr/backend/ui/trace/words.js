// What a trace's data means, in plain words: why it was kept, what was lost on the way, what a run of like spans may
// mean.
// Owns: those sentences. Must not know: the page. Invariants: pure; says nothing that the data does not say.

import { lossesInWords, samplerWords } from "../explain.js";
import { duration } from "../lib.js";
import { criticalTime } from "./critical.js";
import { endOf, listOf, serviceOf, tagOf } from "./model.js";

/** Why a root span was kept, from what its tags say of the sampler; null when they say nothing. */
export function whySampled(tags) {
  const type = tagOf(tags, "sampler.type");
  const debugId = tagOf(tags, "jaeger-debug-id");
  if (type !== undefined) return samplerWords({ type, param: tagOf(tags, "sampler.param"), reason: tagOf(tags, "sampler.reason") }).why;
  return debugId === undefined ? null : samplerWords({ type: "debug", param: debugId }).why;
}

/** `["cart: 12 spans were lost in …"]` for those services that are in the trace; `losses`: `GET /ui/data/losses`. */
export function whatWasLost(losses, services) {
  const wanted = new Set(services);
  return listOf(losses?.services).filter((one) => wanted.has(one.name))
    .flatMap((one) => lossesInWords(one).map(({ what }) => `${one.name}: ${what}`));
}

/** A hint about a run of like siblings, or "": one after the other, and of a kind that can often be one call. */
export function hintAbout(trace, node, last) {
  const tags = listOf(trace.spans[node].tags);
  const isQuery = tags.some((tag) => String(tag.key).startsWith("db."));
  if (!isQuery && trace.kind[node] !== "client") return "";
  for (let at = node + 1; at <= last; at++) if (trace.start[at] < endOf(trace, at - 1)) return "";
  return isQuery ? "N+1 queries? They ran one after the other; one query may do."
    : "Calls one after the other: could they be one, or run at once?";
}

/** The whole time of a run of siblings in which at least one of them ran, µs. */
export function busyTime(trace, node, last) {
  return spells(trace, node, last, 0).reduce((sum, [start, end]) => sum + end - start, 0);
}

/** `[[start, end], …]` in which siblings ran; pauses of at most `gap` µs are not shown. */
export function spells(trace, node, last, gap) {
  const found = [];
  for (let at = node; at <= last; at++) {
    const latest = found[found.length - 1];
    if (latest && trace.start[at] <= latest[1] + gap) latest[1] = Math.max(latest[1], endOf(trace, at));
    else found.push([trace.start[at], endOf(trace, at)]);
  }
  return found;
}

/** A span in a line, for a tooltip. `path`: of critical.js. */
export function aboutSpan(trace, node, path) {
  const critical = criticalTime(path.get(node));
  const remote = trace.remote[node];
  const [start, us, self] = [trace.start[node], trace.duration[node], trace.self[node]];
  return [
    `${serviceOf(trace, node)} ${trace.operation[node]}`.slice(0, 200),
    `${duration(start)} to ${duration(start + us)}`,
    `takes ${duration(us)}, ${duration(self)} of it itself`,
    critical > 0 && `${duration(critical)} on the critical path`,
    remote >= 0 && `${serviceOf(trace, remote).slice(0, 100)} answers in ${duration(trace.duration[remote])}`,
    remote >= 0 && `the way there and back takes ${duration(Math.max(0, us - trace.duration[remote]))}`,
  ].filter(Boolean).join(" · ");
}

/** What of a span's warnings says that its times were moved because of its host's clock; "" if none. */
export function clockWarning(span) {
  return listOf(span?.warnings).map(String).find((warning) => /timestamps were adjusted by/.test(warning)) ?? "";
}
