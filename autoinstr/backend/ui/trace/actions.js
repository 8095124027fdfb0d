// What clicks, keys and the wheel do in the waterfall.
// Owns: which of them does what. Must not know: how rows are drawn.

import { useEffect, useRef } from "../lib.js";
import { rowOf, runWith } from "./rows.js";
import { toggled } from "./state.js";
import { panned, zoomed } from "./zoom.js";

const WHEEL_STEP = 0.0015;

/**
 * `{onClick, onKeyDown}` for the list. `list`: of virtual.js, `tree` and `onTree`: of state.js, `onSelect(node)`: a
 * detail was opened (-1: closed), `page`: rows that are seen at once.
 */
export function actionsOn({ trace, rows, tree, onTree, list, onSelect, page }) {
  const rowActions = actionsOnRows({ trace, rows, tree, onTree, list, onSelect });
  const onClick = (event) => {
    const element = event.target.closest(".row");
    if (!element || String(getSelection()) !== "") return;
    const number = Number(element.dataset.row);
    const act = event.target.closest("[data-act]")?.dataset.act;
    if (act === "toggle") rowActions.toggle(number);
    else if (act === "fold") rowActions.fold(rows[number].node);
    else rowActions.detail(number);
  };
  const onKeyDown = (event) => {
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = tree.active < 0 ? -1 : rowOf(rows, tree.active);
    const action = moveBy(event.key, { number, rows, page, ...rowActions })
      ?? (number >= 0 ? changeBy(event.key, { number, rows, trace, tree, ...rowActions }) : null);
    if (!action) return;
    event.preventDefault();
    action();
  };
  return { onClick, onKeyDown };
}

function actionsOnRows({ trace, rows, tree, onTree, list, onSelect }) {
  const activate = (number) => {
    const row = rows[Math.min(rows.length - 1, Math.max(0, number))];
    onTree(() => ({ active: row.node }));
    list.show(rowOf(rows, row.node));
  };
  const toggle = (number) => {
    const { node, last } = rows[number];
    if (last > node) onTree(({ unfolded }) => ({ unfolded: toggled(unfolded, node), active: node }));
    else if (trace.size[node] > 1) onTree(({ collapsed }) => ({ collapsed: toggled(collapsed, node), active: node }));
  };
  const fold = (node) => {
    const run = runWith(trace, node);
    onTree(({ unfolded }) => ({ unfolded: toggled(unfolded, run), active: run }));
  };
  const detail = (number) => {
    const { node, last } = rows[number];
    if (last > node) return toggle(number);
    onSelect(tree.open.has(node) ? -1 : node);
    return onTree(({ open }) => ({ open: toggled(open, node), active: node }));
  };
  return { activate, toggle, fold, detail };
}

/** What a key that goes to another row does; null for other keys. */
function moveBy(key, { number, rows, page, activate }) {
  const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page };
  if (key in steps) return () => activate(number < 0 ? 0 : number + steps[key]);
  if (key === "Home") return () => activate(0);
  return key === "End" ? () => activate(rows.length - 1) : null;
}

/** What a key does to the active row; null for other keys. */
function changeBy(key, { number, rows, trace, tree, activate, toggle, fold, detail }) {
  const { node, last } = rows[number];
  const hasChildren = last === node && trace.size[node] > 1;
  const isClosed = last > node || (hasChildren && tree.collapsed.has(node));
  const run = runWith(trace, node);
  if (key === "Enter" || key === " ") return () => detail(number);
  if (key === "ArrowRight") return isClosed ? () => toggle(number) : () => hasChildren && activate(number + 1);
  if (key !== "ArrowLeft") return null;
  if (hasChildren && !isClosed) return () => toggle(number);
  if (run >= 0 && tree.unfolded.has(run)) return () => fold(node);
  return () => trace.parent[node] >= 0 && activate(rowOf(rows, trace.parent[node]));
}

/** Ctrl and the wheel zoom around the pointer, shift and the wheel move. `box`: ref of the list's element. */
export function useWheel(box, { zoom, whole, onZoom }) {
  const latest = useRef(null);
  latest.current = { zoom, whole, onZoom };
  useEffect(() => {
    const element = box.current;
    const turned = (event) => {
      if (!event.ctrlKey && !event.shiftKey) return;
      event.preventDefault();
      latest.current.onZoom(turnedTo(event, element.querySelector(".head-row .cell-time"), latest.current));
    };
    element.addEventListener("wheel", turned, { passive: false });
    return () => element.removeEventListener("wheel", turned);
  }, []);
}

function turnedTo(event, axis, { zoom, whole }) {
  // With shift pressed browsers report a turn of the wheel as sideways.
  const turn = (event.deltaY || event.deltaX) * WHEEL_STEP;
  if (!event.ctrlKey) return panned(zoom, turn / 2, whole);
  const { left, width } = axis.getBoundingClientRect();
  const place = Math.min(1, Math.max(0, (event.clientX - left) / width));
  return zoomed(zoom, Math.exp(turn), zoom[0] + place * (zoom[1] - zoom[0]), whole);
}
