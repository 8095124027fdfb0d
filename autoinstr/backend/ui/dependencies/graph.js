// The call graph as SVG. Owns: boxes, lines, arrow heads, what fades when one service is looked at. Must not know: addresses' meaning.

import { address, colourOf, count, html, plural, shownName, useMemo, useState } from "../lib.js";
import { percent, shortened } from "../explain.js";
import { explained } from "../tooltip.js";
import { layOut } from "./layout.js";

const BOX = { width: 168, height: 46, gapX: 148, gapY: 26 };
const MARGIN = 24;
/** How far the whole is made larger or smaller to fill the page; beyond that it is scrolled. */
const [SMALLEST, LARGEST] = [0.7, 1.25];
const NAME_LETTERS = 19;
const ARROW = 9;
/** Between the places where lines leave or reach one side of a box: those to the same box must not lie on each other. */
const APART = 10;
const LETTER_WIDTH = 6.4;
/** Where on its last stretch a line has its label: nearer to its end, where lines from one box have come apart. */
const LABEL_AT = 0.58;

export function Graph({ edges, searchQuery }) {
  const names = useMemo(() => [...new Set(edges.flatMap(({ parent, child }) => [parent, child]))].sort(), [edges]);
  const plan = useMemo(() => layOut(names, edges, BOX), [names, edges]);
  const lines = useMemo(() => routes(edges, plan), [edges, plan]);
  const [focus, setFocus] = useState(null);
  const most = edges.reduce((top, { calls }) => Math.max(top, calls), 1);
  const near = new Set(edges.filter(({ parent, child }) => parent === focus || child === focus).flatMap(({ parent, child }) => [parent, child]));
  const width = plan.width + 2 * MARGIN;
  const height = plan.height + 2 * MARGIN;
  return html`<div class="graph-scroll" tabindex="0" role="region" aria-label="Graph of the services, callers on the left">
    <svg class=${`graph${focus ? " focused" : ""}`} viewBox=${`0 0 ${width} ${height}`} style=${{ maxWidth: `${width * LARGEST}px`, minWidth: `${width * SMALLEST}px` }} role="group" aria-label="Services and their calls">
      <g transform=${`translate(${MARGIN} ${MARGIN})`}>
        <g aria-hidden="true">${lines.map((one) => html`<${Line} key=${keyOf(one.edge)} ...${one} most=${most} near=${isAt(one.edge, focus)} />`)}</g>
        <g aria-hidden="true">${lines.map((one) => html`<${Label} key=${keyOf(one.edge)} ...${one} near=${isAt(one.edge, focus)} />`)}</g>
        ${names.map((name) => html`<${Node} key=${name} name=${name} at=${plan.nodes.get(name)} edges=${edges} near=${name === focus || near.has(name)}
          href=${address("/", { ...searchQuery, service: name })} onFocus=${setFocus} />`)}
      </g></svg></div>`;
}

function Node({ name, at, edges, near, href, onFocus }) {
  const incoming = edges.filter(({ child }) => child === name);
  const calls = incoming.reduce((sum, edge) => sum + edge.calls, 0);
  const errors = incoming.reduce((sum, edge) => sum + edge.errors, 0);
  const shown = shortened(shownName(name), NAME_LETTERS);
  const hint = shown === name ? {} : explained(name);
  const told = calls ? `${plural(calls, "call")}${errors ? `, ${percent(errors / calls)} failed` : ""}` : "called by no other";
  const left = at.x - BOX.width / 2;
  const top = at.y - BOX.height / 2;
  return html`<a class=${`node${near ? " near" : ""}`} href=${href}
      onMouseEnter=${(event) => { onFocus(name); hint.onMouseEnter?.(event); }} onMouseLeave=${() => { onFocus(null); hint.onMouseLeave?.(); }}
      onFocus=${() => onFocus(name)} onBlur=${() => onFocus(null)}>
    <rect x=${left} y=${top} width=${BOX.width} height=${BOX.height} rx="8" />
    <rect class="mark" x=${left} y=${top + 8} width="4" height=${BOX.height - 16} rx="2" style=${{ fill: colourOf(name) }} />
    <text class="node-name" x=${left + 14} y=${at.y - 3}>${shown}</text>
    <text class=${errors ? "node-told error" : "node-told"} x=${left + 14} y=${at.y + 14}>${told}</text></a>`;
}

const keyOf = ({ parent, child }) => `${parent}\n${child}`;

const isAt = ({ parent, child }, name) => parent === name || child === name;

const classOf = (edge, near) => `edge${edge.errors > 0 ? " error" : ""}${near ? " near" : ""}`;

function Line({ edge, points, loop, most, near }) {
  const width = 1.5 + 4.5 * (Math.log1p(edge.calls) / Math.log1p(most)) ** 2;
  const { path, head } = loop ? drawnLoop(loop, width) : drawnLine(points, width);
  return html`<g class=${classOf(edge, near)}><path d=${path} style=${{ strokeWidth: width }} /><path class="head" d=${head} /></g>`;
}

/** Over all lines, not beside its own, so that none runs through it. */
function Label({ edge, points, loop, near }) {
  const { x, y } = loop ? { x: loop.x + 12, y: loop.y - BOX.height / 2 - 10 } : labelPlace(points);
  const calls = count(edge.calls);
  const failed = edge.errors > 0 ? ` · ${percent(edge.errors / edge.calls)} failed` : "";
  const width = (calls.length + failed.length) * LETTER_WIDTH + 8;
  return html`<g class=${classOf(edge, near)}><rect x=${x - width / 2} y=${y - 9} width=${width} height="18" rx="4" />
    <text x=${x} y=${y + 4} text-anchor="middle">${calls}${failed && html`<tspan class="failed">${failed}</tspan>`}</text></g>`;
}

/** `{ edge, points }` from the side of one box to the side of the other; a call of a service to itself is `{ edge, loop }`, over its box. */
function routes(edges, plan) {
  const lines = edges.map((edge) => (edge.parent === edge.child
    ? { edge, loop: plan.nodes.get(edge.parent) } : { edge, points: plan.routes.get(edge).map((point) => ({ ...point })) }));
  const sides = new Map();
  for (const { edge, points } of lines.filter((line) => line.points)) {
    const [first, last] = [points[0], points[points.length - 1]];
    const direction = Math.sign(last.x - first.x);
    first.x += (direction * BOX.width) / 2;
    last.x -= (direction * BOX.width) / 2;
    for (const [name, point, next] of [[edge.parent, first, points[1]], [edge.child, last, points[points.length - 2]]]) {
      const side = `${Math.round(point.x)} ${name}`;
      (sides.get(side) ?? sides.set(side, []).get(side)).push({ point, towards: next.y });
    }
  }
  for (const ends of sides.values()) {
    const apart = Math.min(APART, (BOX.height - 12) / Math.max(1, ends.length - 1));
    ends.sort((one, other) => one.towards - other.towards).forEach(({ point }, at) => { point.y += (at - (ends.length - 1) / 2) * apart; });
  }
  return lines;
}

function drawnLine(points, width) {
  const end = points[points.length - 1];
  const direction = Math.sign(end.x - points[points.length - 2].x);
  const reach = ARROW + width / 2;
  const stops = [...points.slice(0, -1), { x: end.x - direction * reach, y: end.y }];
  const curves = stops.slice(1).map((to, at) => {
    const bend = (stops[at].x + to.x) / 2;
    return `C${bend} ${stops[at].y} ${bend} ${to.y} ${to.x} ${to.y}`;
  });
  const half = 4 + width / 2;
  return { path: `M${stops[0].x} ${stops[0].y}${curves.join("")}`, head: `M${end.x} ${end.y}l${-direction * (reach + 1)} ${-half}v${2 * half}z` };
}

/** A point of the last curve, whose control points are at half its width. */
function labelPlace(points) {
  const [from, to] = points.slice(-2);
  const t = LABEL_AT;
  const middle = (from.x + to.x) / 2;
  const mixed = (one, two, three, four) => (1 - t) ** 3 * one + 3 * (1 - t) ** 2 * t * two + 3 * (1 - t) * t ** 2 * three + t ** 3 * four;
  return { x: mixed(from.x, middle, middle, to.x), y: mixed(from.y, from.y, to.y, to.y) };
}

function drawnLoop({ x, y }, width) {
  const top = y - BOX.height / 2;
  const half = 4 + width / 2;
  return {
    path: `M${x + 30} ${top}C${x + 34} ${top - 26} ${x + 66} ${top - 26} ${x + 66} ${top - ARROW}`,
    head: `M${x + 66} ${top}l${-half} ${-ARROW - 2}h${2 * half}z`,
  };
}
