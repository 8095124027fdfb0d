// The whole trace, small, with the window of time that the waterfall shows.
// Owns: that drawing, moving and resizing the window with mouse and keys. Must not know: the rows.

import { canvasColour, canvasColourOf, duration, html, useEffect, useRef, useState, useTheme } from "../lib.js";
import { drawOn } from "./canvas.js";
import { clampWindow, panned, ticks } from "./zoom.js";

const TICK_PX = 120;
const NEAR_PX = 6;
const LEAST_DRAG_PX = 4;

export function Minimap({ trace, zoom, onZoom }) {
  const canvas = useRef(null);
  const theme = useTheme();
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    observer.observe(canvas.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (width) drawOn(canvas.current, (pen, size) => drawSpans(pen, size, trace));
  }, [trace, width, theme]);
  const drag = useDrag(trace, zoom, onZoom);
  const whole = trace.durationUs || 1;
  const [left, right] = zoom.map((at) => at / whole);
  const mostTicks = Math.max(2, Math.min(8, Math.floor(width / TICK_PX)));
  return html`<div class="minimap" role="group" aria-label="Part of the time that is shown">
    <div class="minimap-axis" aria-hidden="true">${ticks([0, whole], mostTicks).map((at) => html`
      <span style=${{ left: `${(at / whole) * 100}%` }}>${duration(at)}</span>`)}</div>
    <div class="minimap-area" ref=${drag.area} onPointerDown=${drag.start} onPointerMove=${drag.move}
      onPointerUp=${drag.end} onPointerCancel=${drag.end} onDblClick=${() => onZoom([0, whole])}>
      <canvas ref=${canvas} aria-hidden="true"></canvas>
      <div class="shade" style=${{ left: 0, width: `${left * 100}%` }}></div>
      <div class="shade" style=${{ left: `${right * 100}%`, right: 0 }}></div>
      <div class="frame" style=${between(left, right)}></div>
      ${drag.drawn && html`<div class="draft" style=${between(...drag.drawn)}></div>`}
      <${Handle} name="Start" at=${0} zoom=${zoom} whole=${whole} onZoom=${onZoom} />
      <${Handle} name="End" at=${1} zoom=${zoom} whole=${whole} onZoom=${onZoom} />
    </div></div>`;
}

const between = (left, right) => ({ left: `${left * 100}%`, width: `${(right - left) * 100}%` });

function Handle({ name, at, zoom, whole, onZoom }) {
  const pressed = (event) => {
    const step = { ArrowLeft: -0.01, ArrowRight: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const moved = zoom.map((one, which) => (which === at ? one + step * whole : one));
    if (moved[0] < moved[1]) onZoom(clampWindow(Math.max(0, moved[0]), Math.min(whole, moved[1]), whole));
  };
  return html`<div class="handle" role="slider" tabindex="0" aria-label=${`${name} of the time that is shown`}
    aria-orientation="horizontal" aria-valuemin="0" aria-valuemax=${Math.round(whole)}
    aria-valuenow=${Math.round(zoom[at])} aria-valuetext=${duration(zoom[at])}
    style=${{ left: `${(zoom[at] / whole) * 100}%` }} onKeyDown=${pressed}></div>`;
}

/** On an edge: resize; within a window that is not everything: move; else: draw a new one. */
function useDrag(trace, zoom, onZoom) {
  const area = useRef(null);
  const held = useRef(null);
  const [drawn, setDrawn] = useState(null);
  const whole = trace.durationUs || 1;
  const place = (event) => {
    const box = area.current.getBoundingClientRect();
    return { part: Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)), pixel: 1 / box.width };
  };
  const start = (event) => {
    if (event.button !== 0) return;
    const { part, pixel } = place(event);
    held.current = { ...grip(part, pixel, zoom.map((at) => at / whole)), part, zoom };
    area.current.setPointerCapture(event.pointerId);
    event.preventDefault();
  };
  const move = (event) => {
    if (!held.current) return;
    const { part } = place(event);
    const { what, edge, part: from, zoom: [low, high] } = held.current;
    if (what === "draw") return setDrawn([Math.min(from, part), Math.max(from, part)]);
    if (what === "pan") return onZoom(panned([low, high], ((part - from) * whole) / (high - low), whole));
    const moved = edge ? [low, part * whole] : [part * whole, high];
    onZoom(clampWindow(Math.min(...moved), Math.max(...moved), whole));
  };
  const end = (event) => {
    const { what, part: from } = held.current ?? {};
    held.current = null;
    setDrawn(null);
    if (what !== "draw" || event.type === "pointercancel") return;
    const { part, pixel } = place(event);
    if (Math.abs(part - from) < LEAST_DRAG_PX * pixel) return;
    onZoom(clampWindow(Math.min(part, from) * whole, Math.max(part, from) * whole, whole));
  };
  return { area, start, move, end, drawn };
}

function grip(part, pixel, [left, right]) {
  if (Math.abs(part - left) < NEAR_PX * pixel && left > 0) return { what: "resize", edge: 0 };
  if (Math.abs(part - right) < NEAR_PX * pixel && right < 1) return { what: "resize", edge: 1 };
  const isAll = left <= 0 && right >= 1;
  if (isAll && part < NEAR_PX * pixel) return { what: "resize", edge: 0 };
  if (isAll && part > 1 - NEAR_PX * pixel) return { what: "resize", edge: 1 };
  return { what: !isAll && part > left && part < right ? "pan" : "draw" };
}

function drawSpans(pen, { width, height }, trace) {
  const colours = trace.services.map(({ name }) => canvasColourOf(name));
  const scale = width / (trace.durationUs || 1);
  const step = height / Math.max(1, trace.size.length);
  const thickness = Math.min(6, Math.max(1, step - 1));
  const draw = (node, colour) => {
    pen.fillStyle = colour;
    pen.fillRect(trace.start[node] * scale, node * step, Math.max(1, trace.duration[node] * scale), thickness);
  };
  const length = trace.size.length;
  for (let node = 0; node < length; node++) if (!trace.missing[node]) draw(node, colours[trace.service[node]]);
  // Last, so that nothing covers them.
  const error = canvasColour("--error");
  for (let node = 0; node < length; node++) if (trace.error[node]) draw(node, error);
}
