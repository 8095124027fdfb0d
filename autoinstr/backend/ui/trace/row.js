// One row of the waterfall: a span, a run of like spans, or a parent that never came.
// Owns: what stands in the row. Must not know: the list around it, what a click does (that is the waterfall's, by
// `data-act`).

import { Component, colourOf, count, duration, html, plural } from "../lib.js";
import { Icon } from "../icons.js";
import { endOf, listOf, serviceOf, tagOf, textOf } from "./model.js";
import { busyTime, clockWarning, hintAbout, spells } from "./words.js";

const STEP = 14;
const STEPS = 14;
const MOST_INDENT = STEP * STEPS + 48;
const LONGEST_NAME = 300;
const MOST_MARKS = 40;
const THINNEST_PAUSE = 1 / 400;

/** Indentation in px: a step for each level at first, then less and less, since a trace may be hundreds deep. */
export const indentOf = (depth) =>
  Math.min(MOST_INDENT, depth <= STEPS ? depth * STEP : STEP * STEPS + (depth - STEPS));

/** Part of the visible time at which a moment stands (0 … 1 is visible). */
const placeOf = (at, [from, to]) => (at - from) / (to - from);

// Beyond the edges by a little, so that nobody sees an end that is not there; far beyond, numbers lose their precision.
const nearby = (place) => Math.min(1.02, Math.max(-0.02, place));

const percent = (place) => `${(nearby(place) * 100).toFixed(3)}%`;

/** Where a stretch of time is drawn. */
function stretch(start, end, zoom) {
  const [left, right] = [nearby(placeOf(start, zoom)), nearby(placeOf(end, zoom))];
  return { left: percent(left), width: percent(right - left) };
}

const isSeen = (start, end, zoom) => end >= zoom[0] && start <= zoom[1];

const short = (text) => (text.length > LONGEST_NAME ? `${text.slice(0, LONGEST_NAME)}…` : text);

export class Row extends Component {
  shouldComponentUpdate(next) {
    return Object.keys(next).some((key) => next[key] !== this.props[key]);
  }

  render(props) {
    const { trace, node, last, level, place, of, number, top, active, closed } = props;
    const expanded = last > node ? false : trace.size[node] > 1 ? !closed : undefined;
    return html`<div role="row" class=${classesOf(props)} id=${`row-${node}`} data-row=${number}
      style=${{ top: `${top}px` }} aria-level=${level} aria-posinset=${place} aria-setsize=${of}
      aria-rowindex=${number + 2} aria-expanded=${expanded} aria-selected=${Boolean(active)}>
      <div role="gridcell" class="cell-name"><${Branch} level=${level} expanded=${expanded} />${nameOf(props)}</div>
      <div role="gridcell" class="cell-time">${barOf(props)}</div>
    </div>`;
  }
}

function classesOf({ trace, node, last, active, open, match, dim }) {
  const failed = trace.error[node] && last === node;
  return ["row", active && "active", open && "open", match && "match", dim && "dim", failed && "failed",
    trace.missing[node] && "absent"].filter(Boolean).join(" ");
}

function Branch({ level, expanded }) {
  const state = expanded === undefined ? "" : expanded ? "opened" : "closed";
  return html`
    ${level > 1 && html`<span class="guides" style=${{ width: `${indentOf(level - 1)}px` }}></span>`}
    ${level - 1 > STEPS && html`<span class="depth" title=${`Level ${level}`}>${level}</span>`}
    <span class=${`toggle ${state}`} data-act=${state ? "toggle" : undefined}></span>`;
}

function nameOf({ trace, node, last, closed, folds }) {
  if (trace.missing[node]) return html`<${MissingName} trace=${trace} node=${node} />`;
  if (last > node) return html`<${RunName} trace=${trace} node=${node} last=${last} />`;
  return html`<${SpanName} trace=${trace} node=${node} closed=${closed} folds=${folds} />`;
}

function barOf({ trace, node, last, zoom, sections }) {
  if (last > node) return html`<${RunBar} trace=${trace} node=${node} last=${last} zoom=${zoom} />`;
  return html`<${Bar} trace=${trace} node=${node} zoom=${zoom} sections=${sections} />`;
}

// --- what stands in the column of names -----------------------------------------------------------------------------

function Stripe({ service }) {
  return html`<span class="stripe" style=${{ background: colourOf(service) }}></span>`;
}

function SpanName({ trace, node, closed, folds }) {
  const called = calledBy(trace, node);
  return html`
    <${Stripe} service=${serviceOf(trace, node)} />
    ${trace.error[node] === 1 && html`<${Mark} kind="error-text" icon="error" text="Error: " />`}
    <span class="name"><span class=${isSameService(trace, node) ? "service same" : "service"}>
      ${short(serviceOf(trace, node))}</span> ${short(trace.operation[node])}</span>
    ${called && html`<span class="called" title="Calls another service">
      <${Icon} name="arrow" /><span class="name">${short(called)}</span></span>`}
    ${closed && html`<${Inside} trace=${trace} node=${node} />`}
    ${folds > 0 && html`<span class="chip act" data-act="fold">fold ${count(folds)}</span>`}
    ${clockWarning(trace.spans[node]) && html`<${Mark} kind="skewed" icon="reset" text="times adjusted" />`}`;
}

function Mark({ kind, icon, text }) {
  return html`<span class=${`mark ${kind}`} title=${text}>
    <${Icon} name=${icon} /><span class="visually-hidden">${text}</span></span>`;
}

/** What a collapsed row hides. */
function Inside({ trace, node }) {
  const errors = trace.errorsInside[node];
  return html`
    <span class="chip">${count(trace.size[node] - 1)}<span class="visually-hidden"> spans inside</span></span>
    ${errors > 0 && html`<span class="chip error">${plural(errors, "error")} inside</span>`}`;
}

function isSameService(trace, node) {
  const parent = trace.parent[node];
  return parent >= 0 && !trace.missing[parent] && trace.service[parent] === trace.service[node];
}

/** The service that a client's span calls: the one that answered, else the one that the span names. */
function calledBy(trace, node) {
  if (trace.remote[node] >= 0) return serviceOf(trace, trace.remote[node]);
  if (trace.size[node] > 1 || !trace.kind[node]) return "";
  return textOf(tagOf(trace.spans[node].tags, "peer.service") ?? "");
}

function RunName({ trace, node, last }) {
  const errors = trace.error.subarray(node, last + 1).reduce((sum, one) => sum + one, 0);
  const hint = hintAbout(trace, node, last);
  return html`
    <${Stripe} service=${serviceOf(trace, node)} />
    <span class="name"><span class="service">${short(serviceOf(trace, node))}</span>${" "}
      ${short(trace.operation[node])}</span>
    <span class="times">× ${count(last - node + 1)}</span>
    ${errors > 0 && html`<span class="chip error">${plural(errors, "error")} inside</span>`}
    ${hint && html`<span class="chip warning" title=${hint}>${hint.startsWith("N+1") ? "N+1?" : "one by one"}
      <span class="visually-hidden"> ${hint}</span></span>`}`;
}

function MissingName({ trace, node }) {
  return html`
    <span class="stripe absent"></span>
    <span class="name">Missing parent <span class="mono">${short(trace.operation[node])}</span></span>
    <span class="chip warning">never came</span>`;
}

// --- what stands in the column of times -----------------------------------------------------------------------------

function Bar({ trace, node, zoom, sections }) {
  const [start, end] = [trace.start[node], endOf(trace, node)];
  if (!isSeen(start, end, zoom)) return html`<${OutOfSight} before=${end < zoom[0]} us=${end - start} />`;
  const remote = trace.remote[node];
  const background = trace.missing[node] ? "" : colourOf(serviceOf(trace, node));
  return html`
    <span class=${remote >= 0 ? "bar outer" : "bar"} data-act="bar"
      style=${{ ...stretch(start, end, zoom), background }}></span>
    ${remote >= 0 && html`<${ServersBar} trace=${trace} node=${remote} zoom=${zoom} />`}
    ${pairsOf(sections ?? []).map(([from, to]) => html`
      <span class="critical" style=${stretch(from, to, zoom)}></span>`)}
    ${momentsOf(trace, node).map((at) => html`
      <span class="event" style=${{ left: percent(placeOf(at, zoom)) }}></span>`)}
    <${Label} start=${start} end=${end} zoom=${zoom}>
      ${duration(end - start)}<${Self} trace=${trace} node=${node} /><//>`;
}

/** The other service's part of a call; the rest of it is the way there and back. */
function ServersBar({ trace, node, zoom }) {
  const place = stretch(trace.start[node], endOf(trace, node), zoom);
  const background = colourOf(serviceOf(trace, node));
  return html`<span class="bar inner" style=${{ ...place, background }}></span>`;
}

function pairsOf(sections) {
  const most = Math.min(sections.length / 2, MOST_MARKS);
  return Array.from({ length: most }, (_, at) => [sections[2 * at], sections[2 * at + 1]]);
}

function Self({ trace, node }) {
  if (trace.size[node] < 2 || trace.missing[node]) return null;
  return html`<span class="self"> · self ${duration(trace.self[node])}</span>`;
}

/** When a span's events were, after the trace's start. */
function momentsOf(trace, node) {
  const logs = listOf(trace.spans[node]?.logs).slice(0, MOST_MARKS);
  return [...new Set(logs.map((log) => Number(log.timestamp) - trace.startUs).filter(Number.isFinite))];
}

function RunBar({ trace, node, last, zoom }) {
  const start = trace.start[node];
  const end = spells(trace, node, last, 0).at(-1)[1];
  const busy = busyTime(trace, node, last);
  if (!isSeen(start, end, zoom)) return html`<${OutOfSight} before=${end < zoom[0]} us=${busy} />`;
  const background = colourOf(serviceOf(trace, node));
  const drawn = spells(trace, node, last, (zoom[1] - zoom[0]) * THINNEST_PAUSE).filter((one) => isSeen(...one, zoom));
  return html`
    <span class="bar run" style=${{ ...stretch(start, end, zoom), background }}></span>
    ${drawn.map((one) => html`
      <span class="bar" data-act="bar" style=${{ ...stretch(...one, zoom), background }}></span>`)}
    <${Label} start=${start} end=${end} zoom=${zoom}>${duration(busy)} in all<//>`;
}

function OutOfSight({ before, us }) {
  const text = before ? `‹ ${duration(us)}` : `${duration(us)} ›`;
  return html`<span class=${before ? "away before" : "away after"}>${text}</span>`;
}

/** Beside the bar where there is room, else on it. */
function Label({ start, end, zoom, children }) {
  const [left, right] = [placeOf(start, zoom), placeOf(end, zoom)];
  if (right < 0.76) return html`<span class="label after" style=${{ left: percent(right) }}>${children}</span>`;
  if (left > 0.24) return html`<span class="label before" style=${{ right: percent(1 - left) }}>${children}</span>`;
  return html`<span class="label on" style=${{ right: percent(Math.max(0, 1 - right)) }}>${children}</span>`;
}
