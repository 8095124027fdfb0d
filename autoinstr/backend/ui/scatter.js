// Traces as points, time by duration. Owns: the drawing, marking a range, finding the point under the pointer.
// Must not know: searches, addresses. What is drawn here can also be had from the list below it, by keyboard.

import { canvasColour, canvasColourOf, dateTime, duration, html, plural, useEffect, useLayoutEffect, useMemo, useRef, useState, useTheme } from "./lib.js";
import { scale, timeTicks, valueTicks } from "./axes.js";
import { hideTooltip, showTooltip } from "./tooltip.js";

const HEIGHT = 168;
const EDGE = { left: 60, right: 14, top: 12, bottom: 24 };
const REACH = 14;
const SHORTEST_MARK = 6;

/** @param highlighted the id of a trace that is pointed at somewhere else */
export function Scatter({ traces, scale: kind, highlighted, onHover, onScale, onOpen, onRange }) {
  const canvas = useRef(null);
  const width = useWidth(canvas);
  const theme = useTheme();
  const [mark, setMark] = useState(null);
  const plot = useMemo(() => layOut(traces, width, kind === "log"), [traces, width, kind]);
  useLayoutEffect(() => { draw(canvas.current, plot, highlighted, mark); }, [plot, highlighted, mark, theme]);
  useEffect(() => hideTooltip, []);

  const pointed = (event) => nearest(plot, at(event));
  const handlers = {
    onPointerDown: (event) => {
      if (event.button !== 0) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      setMark({ from: at(event).x, to: at(event).x });
    },
    onPointerMove: (event) => {
      if (mark) { setMark({ ...mark, to: at(event).x }); return; }
      const point = pointed(event);
      onHover(point?.trace.traceID ?? null);
      event.currentTarget.style.cursor = point ? "pointer" : "crosshair";
      if (point) showTooltip(words(point.trace), boxOf(event.currentTarget, point));
      else hideTooltip();
    },
    onPointerUp: (event) => {
      setMark(null);
      if (!mark) return;
      const [from, to] = [mark.from, mark.to].sort((one, other) => one - other);
      if (to - from >= SHORTEST_MARK) onRange(String(Math.floor(plot.time.at(share(from, width)))), String(Math.ceil(plot.time.at(share(to, width)))));
      else if (pointed(event)) { hideTooltip(); onOpen(pointed(event).trace.traceID); }
    },
    onPointerCancel: () => setMark(null),
    onPointerLeave: () => { hideTooltip(); onHover(null); },
  };
  const failed = traces.filter((trace) => trace.errors > 0).length;
  const label = `Durations of ${plural(traces.length, "trace")} over time, ${failed} with errors. The list below has the same traces.`;
  return html`<figure class="scatter card">
    <figcaption><span>Duration over time</span>
      <span class="legend"><svg viewBox="0 0 10 10" aria-hidden="true"><circle cx="5" cy="5" r="3.6" fill="currentColor" /></svg>trace</span>
      <span class="legend error-text"><svg viewBox="0 0 10 10" aria-hidden="true"><path d="M5 .4 9.6 5 5 9.6.4 5z" fill="currentColor" /></svg>with errors</span>
      <span class="muted hint">Drag to choose a range of time</span>
      <button type="button" class="button quiet" aria-pressed=${kind === "log"} onClick=${() => onScale(kind === "log" ? "linear" : "log")}>Logarithmic</button></figcaption>
    <canvas ref=${canvas} role="img" aria-label=${label} height=${HEIGHT} ...${handlers}></canvas></figure>`;
}

function useWidth(canvas) {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry.contentRect.width)));
    observer.observe(canvas.current);
    return () => observer.disconnect();
  }, []);
  return width;
}

const share = (x, width) => Math.min(1, Math.max(0, (x - EDGE.left) / (width - EDGE.left - EDGE.right)));

const at = (event) => ({ x: event.offsetX, y: event.offsetY });

/** Points with their places, the scales and the ticks. */
function layOut(traces, width, isLog) {
  const starts = traces.map((trace) => trace.start_us);
  const lengths = traces.map((trace) => Math.max(trace.duration_us, 1));
  const [first, last] = [lowest(starts), highest(starts)];
  const room = Math.max((last - first) * 0.02, 1000);
  const time = scale(first - room, last + room, false);
  const [low, high] = isLog ? [lowest(lengths) / 1.3, highest(lengths) * 1.3] : [0, highest(lengths) * 1.06];
  const value = scale(low, high, isLog);
  const inner = { width: Math.max(width - EDGE.left - EDGE.right, 1), height: HEIGHT - EDGE.top - EDGE.bottom };
  const x = (us) => EDGE.left + time.of(us) * inner.width;
  const y = (us) => EDGE.top + (1 - value.of(us)) * inner.height;
  const points = traces.map((trace) => ({
    trace, x: x(trace.start_us), y: y(Math.max(trace.duration_us, 1)), radius: Math.min(8, 3 + Math.log10(Math.max(1, trace.spans)) * 1.5),
  }));
  return {
    width, points, time,
    columns: timeTicks(first - room, last + room, Math.max(2, Math.floor(inner.width / 90))).map(({ us, text }) => ({ x: x(us), text })),
    rows: valueTicks(low, high, isLog, 5).map((us) => ({ y: y(us), text: us === 0 ? "0" : duration(us).replace(/\.0+(?= )|(\.\d*?[1-9])0+(?= )/, "$1") })),
  };
}

// Not Math.min(...values): the number of arguments has a limit.
const lowest = (values) => values.reduce((least, one) => Math.min(least, one), Infinity);
const highest = (values) => values.reduce((most, one) => Math.max(most, one), -Infinity);

function nearest(plot, { x, y }) {
  let best = null;
  let bestDistance = REACH;
  for (const point of plot.points) {
    const distance = Math.hypot(point.x - x, point.y - y);
    if (distance <= bestDistance) [best, bestDistance] = [point, distance];
  }
  return best;
}

function draw(canvas, plot, highlighted, mark) {
  if (!plot.width) return;
  const ratio = devicePixelRatio || 1;
  Object.assign(canvas, { width: plot.width * ratio, height: HEIGHT * ratio });
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = `11px ${getComputedStyle(canvas).fontFamily}`;
  drawAxes(pen, plot);
  if (mark) drawMark(pen, mark);
  const surface = canvasColour("--surface");
  const error = canvasColour("--error");
  // Errors last, so that nothing covers them.
  for (const point of plot.points.filter(({ trace }) => !trace.errors)) drawPoint(pen, point, canvasColourOf(point.trace.service), surface);
  for (const point of plot.points.filter(({ trace }) => trace.errors)) drawPoint(pen, point, error, surface);
  const chosen = plot.points.find(({ trace }) => trace.traceID === highlighted);
  if (chosen) drawRing(pen, chosen);
}

function drawAxes(pen, { width, columns, rows }) {
  pen.strokeStyle = canvasColour("--line");
  pen.fillStyle = canvasColour("--muted");
  pen.lineWidth = 1;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const { y, text } of rows) {
    line(pen, EDGE.left, Math.round(y) + 0.5, width - EDGE.right, Math.round(y) + 0.5);
    pen.fillText(text, EDGE.left - 8, y);
  }
  pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  const bottom = HEIGHT - EDGE.bottom;
  for (const { x, text } of columns) {
    line(pen, Math.round(x) + 0.5, bottom, Math.round(x) + 0.5, bottom + 4);
    pen.fillText(text, Math.min(Math.max(x, 30), width - 30), HEIGHT - 6);
  }
}

function line(pen, fromX, fromY, toX, toY) {
  pen.beginPath();
  pen.moveTo(fromX, fromY);
  pen.lineTo(toX, toY);
  pen.stroke();
}

/** Round, or with errors a larger diamond. */
function drawPoint(pen, { trace, x, y, radius }, colour, edge) {
  pen.beginPath();
  if (trace.errors) {
    const reach = radius + 2;
    pen.moveTo(x, y - reach);
    pen.lineTo(x + reach, y);
    pen.lineTo(x, y + reach);
    pen.lineTo(x - reach, y);
    pen.closePath();
  } else {
    pen.arc(x, y, radius, 0, 2 * Math.PI);
  }
  pen.globalAlpha = 0.85;
  pen.fillStyle = colour;
  pen.fill();
  pen.globalAlpha = 1;
  pen.strokeStyle = edge;
  pen.stroke();
}

function drawRing(pen, { x, y, radius }) {
  pen.beginPath();
  pen.arc(x, y, radius + 5, 0, 2 * Math.PI);
  pen.strokeStyle = canvasColour("--text");
  pen.lineWidth = 2;
  pen.stroke();
}

function drawMark(pen, { from, to }) {
  pen.fillStyle = canvasColour("--accent");
  pen.globalAlpha = 0.15;
  pen.fillRect(Math.min(from, to), EDGE.top, Math.abs(to - from), HEIGHT - EDGE.top - EDGE.bottom);
  pen.globalAlpha = 1;
}

function words(trace) {
  const errors = trace.errors ? `, ${plural(trace.errors, "error")}` : "";
  return `${trace.service} ${trace.operation}: ${duration(trace.duration_us)}, ${plural(trace.spans, "span")}${errors}. ${dateTime(trace.start_us)}`.slice(0, 400);
}

function boxOf(canvas, point) {
  const { left, top } = canvas.getBoundingClientRect();
  return { left: left + point.x + 10, top: top + point.y - 10, bottom: top + point.y + 10 };
}
