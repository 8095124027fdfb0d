// Small charts of a figure over time. Owns: drawing, and what a pointer on it shows. Must not know: what the figures are.

import { canvasColour, html, useEffect, useLayoutEffect, useMemo, useRef, useState, useTheme } from "../lib.js";
import { scale, timeTicks, valueTicks } from "../axes.js";
import { hideTooltip, showTooltip } from "../tooltip.js";

const HEIGHT = 120;
const EDGE = { left: 54, right: 8, top: 10, bottom: 20 };

/**
 * @param series `[{ name, colour: "--accent", dash: [], points: [{ ms, value }] }]`; a value that is no number is a gap
 * @param format a value as text
 */
export function LineChart({ title, series, format, startMs, endMs }) {
  const canvas = useRef(null);
  const [width, setWidth] = useState(0);
  const [pointed, setPointed] = useState(null);
  const theme = useTheme();
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry.contentRect.width)));
    observer.observe(canvas.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => hideTooltip, []);
  const plot = useMemo(() => layOut(series, format, startMs, endMs, width), [series, startMs, endMs, width]);
  useLayoutEffect(() => { draw(canvas.current, plot, pointed); }, [plot, pointed, theme]);

  const move = (event) => {
    const ms = plot.time.at((event.offsetX - EDGE.left) / plot.inner.width);
    const near = series.map((one) => [one, nearest(one.points, ms)]).filter(([, point]) => point);
    if (!near.length) return;
    const [, { ms: at }] = near[0];
    setPointed(at);
    const { left, top } = event.currentTarget.getBoundingClientRect();
    showTooltip(`${clock(at)} · ${near.map(([one, point]) => `${one.name} ${format(point.value)}`).join(" · ")}`,
      { left: left + event.offsetX + 12, top: top + 8, bottom: top + HEIGHT });
  };
  const leave = () => { setPointed(null); hideTooltip(); };
  return html`<figure class="chart"><figcaption><b>${title}</b>${series.map((one) => html`
      <span class="muted"><svg class="swatch" viewBox="0 0 16 4" aria-hidden="true"><path d="M0 2h16" style=${{ stroke: `var(${one.colour})`, strokeWidth: 2, strokeDasharray: (one.dash ?? []).join(" ") }} /></svg>${one.name}</span>`)}</figcaption>
    <canvas ref=${canvas} height=${HEIGHT} role="img" aria-label=${`${title}: ${series.map((one) => summary(one, format)).join("; ")}`}
      onPointerMove=${move} onPointerLeave=${leave}></canvas></figure>`;
}

/** What the line says, for those who do not see it. */
function summary({ name, points }, format) {
  const values = points.map((point) => point.value).filter(Number.isFinite);
  if (!values.length) return `${name}: no figures`;
  const most = values.reduce((top, value) => Math.max(top, value), -Infinity);
  return `${name}: now ${format(values[values.length - 1])}, at most ${format(most)}`;
}

const clock = (ms) => new Date(ms).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });

function nearest(points, ms) {
  return points.filter((point) => Number.isFinite(point.value))
    .reduce((best, point) => (!best || Math.abs(point.ms - ms) < Math.abs(best.ms - ms) ? point : best), null);
}

function layOut(series, format, startMs, endMs, width) {
  const values = series.flatMap((one) => one.points.map((point) => point.value)).filter(Number.isFinite);
  const most = values.reduce((top, value) => Math.max(top, value), 0) * 1.1 || 1;
  const inner = { width: Math.max(1, width - EDGE.left - EDGE.right), height: HEIGHT - EDGE.top - EDGE.bottom };
  const time = scale(startMs, endMs, false);
  const value = scale(0, most, false);
  const x = (ms) => EDGE.left + time.of(ms) * inner.width;
  const y = (one) => EDGE.top + (1 - value.of(one)) * inner.height;
  return {
    width, inner, time, x,
    lines: series.map((one) => ({ ...one, points: one.points.map((point) => (Number.isFinite(point.value) ? { x: x(point.ms), y: y(point.value) } : null)) })),
    rows: valueTicks(0, most, false, 3).map((one) => ({ y: y(one), text: one === 0 ? "0" : format(one) })),
    columns: timeTicks(startMs * 1000, endMs * 1000, Math.max(2, Math.floor(inner.width / 90))).map(({ us, text }) => ({ x: x(us / 1000), text })),
  };
}

function draw(canvas, { width, lines, rows, columns, x, inner }, pointed) {
  if (!width) return;
  const ratio = devicePixelRatio || 1;
  Object.assign(canvas, { width: width * ratio, height: HEIGHT * ratio });
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = `10.5px ${getComputedStyle(canvas).fontFamily}`;
  pen.fillStyle = canvasColour("--muted");
  pen.strokeStyle = canvasColour("--line");
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const { y, text } of rows) {
    stroke(pen, [{ x: EDGE.left, y: Math.round(y) + 0.5 }, { x: width - EDGE.right, y: Math.round(y) + 0.5 }]);
    pen.fillText(text, EDGE.left - 6, y);
  }
  pen.textAlign = "center";
  for (const { x: at, text } of columns) pen.fillText(text, Math.min(Math.max(at, 20), width - 22), HEIGHT - 8);
  if (pointed !== null) {
    pen.strokeStyle = canvasColour("--line-strong");
    stroke(pen, [{ x: x(pointed), y: EDGE.top }, { x: x(pointed), y: EDGE.top + inner.height }]);
  }
  pen.lineWidth = 1.75;
  pen.lineJoin = "round";
  for (const { colour, dash, points } of lines) {
    pen.strokeStyle = canvasColour(colour);
    pen.fillStyle = pen.strokeStyle;
    pen.setLineDash(dash ?? []);
    for (const piece of pieces(points)) stroke(pen, piece);
  }
}

/** Runs without a gap. */
function pieces(points) {
  const runs = [[]];
  for (const point of points) {
    if (point) runs[runs.length - 1].push(point);
    else if (runs[runs.length - 1].length) runs.push([]);
  }
  return runs.filter((run) => run.length);
}

function stroke(pen, points) {
  if (points.length === 1) {
    pen.fillRect(points[0].x - 1.5, points[0].y - 1.5, 3, 3);
    return;
  }
  pen.beginPath();
  points.forEach(({ x, y }, at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}
