// What the backend holds and what was lost on the way. Owns: the footer, the banner, how often both are asked.
// Must not know: pages.

import { BASE, count, html, plural, useJson, useState } from "./lib.js";
import { bytes, lossesInWords } from "./explain.js";
import { Icon } from "./icons.js";

const EVERY_MS = 15_000;
const SERVICES_NAMED = 3;

export function Footer() {
  const { data, error } = useJson("/ui/data/status", {}, EVERY_MS);
  if (error) return html`<footer class="bottom"><span class="error-text" role="status">${error.message}</span></footer>`;
  return html`<footer class="bottom">${data && html`<span>${held(data.store, data.limits)}</span><span>${letGo(data.store)}</span>
    <span>autoinstr ${data.version}, up ${uptime(data.uptime_s)}</span>`}</footer>`;
}

/** With its limit, since what is there beyond it goes. */
function held(store, limits = {}) {
  const spans = `${plural(store.spans, "span")} in ${plural(store.traces, "trace")} kept`;
  const size = store.bytes > 0 ? `, ${bytes(store.bytes)}` : "";
  if (limits.max_bytes) return `${spans}${size} of ${bytes(limits.max_bytes)}`;
  return limits.max_spans ? `${spans} of at most ${count(limits.max_spans)} spans${size}` : spans + size;
}

function letGo(store) {
  return store.evicted_spans_total > 0 ? `${plural(store.evicted_spans_total, "older span")} made room for newer ones` : "";
}

function uptime(seconds) {
  for (const [limit, divisor, unit] of [[120, 1, "s"], [7200, 60, "min"], [172_800, 3600, "h"]]) {
    if (seconds < limit) return `${count(Math.floor(seconds / divisor))} ${unit}`;
  }
  return plural(Math.floor(seconds / 86_400), "day");
}

/** Told once; closed, it comes back when more was lost. */
export function LossBanner() {
  const { data } = useJson("/ui/data/losses", {}, EVERY_MS);
  const [closedAt, setClosedAt] = useState(0);
  const losses = (data?.services ?? [])
    .map((service) => ({ name: service.name, ways: lossesInWords(service).filter((way) => way.onTheWay) }))
    .filter(({ ways }) => ways.length > 0);
  const total = losses.reduce((sum, { ways }) => sum + ways.reduce((all, way) => all + way.number, 0), 0);
  if (total <= closedAt) return null;
  const rest = losses.length - SERVICES_NAMED;
  return html`<div class="notices"><div class="notice warning" role="status"><span><b>Some traces have gaps.</b>${" "}
      ${losses.slice(0, SERVICES_NAMED).map(({ name, ways }) => html`<bdi class="cut">${name}</bdi>: ${ways[0].what}. `)}
      ${rest > 0 && `${plural(rest, "other service")} lost spans, too. `}<a href=${`${BASE}/services`}>Where, and what helps</a></span>
    <button type="button" class="button quiet icon-only" aria-label="Close" onClick=${() => setClosedAt(total)}><${Icon} name="close" /></button></div></div>`;
}
