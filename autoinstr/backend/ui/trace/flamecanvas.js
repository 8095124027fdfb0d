// The boxes of the flame graph on a canvas.
// Owns: drawing them, which one is under the pointer, the keys among them. Must not know: what the chosen one is for.

import {
  canvasColour, canvasColourOf, html, plural, useEffect, useMemo, useRef, useState, useTheme,
} from "../lib.js";
import { hideTooltip, showTooltip } from "../tooltip.js";
import { drawOn } from "./canvas.js";
import { flameFrames, nameOfPath } from "./paths.js";

const FRAME_PX = 22;
const LEAST_PX = 0.5;
const LEAST_TEXT_PX = 34;
const WIDEST_TEXT = 120;
const TINT = 0.3;

/** `root`, `chosen`: numbers of paths; `about(paths, number)`: a line about one; `found`: of search.js. */
export function FlameCanvas({ paths, root, chosen, found, about, onRoot, onChosen }) {
  const canvas = useRef(null);
  const width = useWidth(canvas);
  const theme = useTheme();
  const frames = useMemo(() => (width ? flameFrames(paths, root, LEAST_PX / width) : []), [paths, root, width]);
  const deepest = frames.reduce((most, { path }) => Math.max(most, paths[path].depth), paths[root].depth);
  const height = (deepest - paths[root].depth + 1) * FRAME_PX;
  useEffect(() => {
    const scene = { paths, root, frames, chosen, found, colours: coloursOf(paths, frames) };
    if (width) drawOn(canvas.current, (pen, size) => drawFrames(pen, size.width, scene));
  }, [paths, root, frames, chosen, found, width, height, theme]);
  const handlers = handlersFor({ canvas, paths, root, frames, chosen, about, onRoot, onChosen });
  return html`<div class="flame-box"><canvas ref=${canvas} style=${{ height: `${height}px` }} tabindex="0" role="img"
    aria-label=${`Flame graph of ${plural(paths.length - 1, "path")}. The same is there as a table.`} ...${handlers}>
  </canvas></div>`;
}

function useWidth(canvas) {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    observer.observe(canvas.current.parentElement);
    return () => observer.disconnect();
  }, []);
  return width;
}

function handlersFor({ canvas, paths, root, frames, chosen, about, onRoot, onChosen }) {
  const up = () => onRoot(Math.max(0, paths[root].parent));
  const onMouseMove = (event) => {
    const frame = frameUnder(event, canvas.current, { paths, root, frames });
    if (!frame) return hideTooltip();
    const place = { left: event.clientX + 12, top: event.clientY - 4, bottom: event.clientY + 14 };
    return showTooltip(`${nameOfPath(paths[frame.path])} · ${about(paths, frame.path)}`.slice(0, 400), place);
  };
  const onClick = (event) => {
    const frame = frameUnder(event, canvas.current, { paths, root, frames });
    if (!frame) return;
    onChosen(frame.path);
    if (frame.path === root) up();
    else onRoot(frame.path);
  };
  const onKeyDown = (event) => {
    const next = neighbour(paths, frames, { at: chosen, key: event.key });
    if (event.key === "Enter") onRoot(chosen);
    else if (event.key === "Escape") { up(); onChosen(root); }
    else if (next !== null) onChosen(next);
    else return;
    event.preventDefault();
  };
  return { onMouseMove, onMouseLeave: hideTooltip, onClick, onKeyDown };
}

function frameUnder(event, canvas, { paths, root, frames }) {
  const box = canvas.getBoundingClientRect();
  const depth = Math.floor((event.clientY - box.top) / FRAME_PX) + paths[root].depth;
  const place = (event.clientX - box.left) / box.width;
  return frames.find(({ path, left, width }) => paths[path].depth === depth && place >= left && place < left + width);
}

/** The frame above, below, to the left, to the right of one; null for other keys. */
function neighbour(paths, frames, { at, key }) {
  const isDrawn = new Set(frames.map(({ path }) => path));
  const byWidth = (a, b) => paths[b].weightUs - paths[a].weightUs;
  const drawn = (path) => [...paths[path].children.values()].filter((one) => isDrawn.has(one)).sort(byWidth);
  const { parent } = paths[at];
  if (key === "ArrowUp") return isDrawn.has(parent) ? parent : at;
  if (key === "ArrowDown") return drawn(at)[0] ?? at;
  if (key !== "ArrowLeft" && key !== "ArrowRight") return null;
  const siblings = parent < 0 ? [at] : drawn(parent);
  return siblings[siblings.indexOf(at) + (key === "ArrowRight" ? 1 : -1)] ?? at;
}

function coloursOf(paths, frames) {
  const services = new Set(frames.map(({ path }) => paths[path].service));
  return {
    surface: canvasColour("--surface"), text: canvasColour("--text"), sunken: canvasColour("--sunken"),
    accent: canvasColour("--accent"), error: canvasColour("--error"),
    services: new Map([...services].map((service) => [service, canvasColourOf(service)])),
  };
}

function drawFrames(pen, width, { paths, root, frames, chosen, found, colours }) {
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  pen.textBaseline = "middle";
  for (const { path: at, left, width: part } of frames) {
    const path = paths[at];
    const box = [left * width, (path.depth - paths[root].depth) * FRAME_PX, Math.max(1, part * width - 1)];
    const isDim = found.active && at > 0 && !found.matches[path.first];
    pen.globalAlpha = isDim ? 0.25 : 1;
    drawFrame(pen, box, { path, colours, isAll: at === 0 });
    if (at === chosen && at) drawOutline(pen, box, colours.accent);
  }
  pen.globalAlpha = 1;
}

function drawFrame(pen, [x, y, w], { path, colours, isAll }) {
  pen.fillStyle = isAll ? colours.sunken : colours.surface;
  pen.fillRect(x, y, w, FRAME_PX - 1);
  if (!isAll) drawTint(pen, [x, y, w], path.service ? colours.services.get(path.service) : colours.sunken);
  if (path.errors) {
    pen.fillStyle = colours.error;
    pen.fillRect(x, y + FRAME_PX - 4, w, 3);
  }
  if (w > LEAST_TEXT_PX) drawText(pen, nameOfPath(path), [x, y, w], colours.text);
}

/** A colour as a wash, with itself along the left edge: text stays readable on every one of them. */
function drawTint(pen, [x, y, w], colour) {
  const alpha = pen.globalAlpha;
  pen.fillStyle = colour;
  pen.globalAlpha = alpha * TINT;
  pen.fillRect(x, y, w, FRAME_PX - 1);
  pen.globalAlpha = alpha;
  pen.fillRect(x, y, Math.min(3, w), FRAME_PX - 1);
}

function drawOutline(pen, [x, y, w], colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.strokeRect(x + 1, y + 1, Math.max(1, w - 2), FRAME_PX - 3);
}

function drawText(pen, name, [x, y, w], colour) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, w - 4, FRAME_PX);
  pen.clip();
  pen.fillStyle = colour;
  pen.fillText(name.slice(0, WIDEST_TEXT), x + 7, y + FRAME_PX / 2);
  pen.restore();
}
