// The line between the names and the times.
// Owns: where it stands, moving it with mouse and keys. Must not know: what is on either side.

import { html, useLayoutEffect, useRef, useState } from "../lib.js";

/** The names' share of the width, when nobody has moved the line. */
export const NAME_SHARE = 0.38;

const LEAST = 0.15;
const MOST = 0.75;
const STEPS = { ArrowLeft: -0.02, ArrowRight: 0.02 };

/** Sets `--name-share` and `--divider` on the element around that of `box` (a ref), which scrolls. */
export function Divider({ box }) {
  const [share, setShare] = useState(NAME_SHARE);
  const set = (wanted) => setShare(Math.min(MOST, Math.max(LEAST, wanted)));
  const drag = useDrag(box, set);
  usePlace(box, share);
  const pressed = (event) => {
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    set(share + STEPS[event.key]);
  };
  return html`<div class="divider" role="separator" tabindex="0" aria-orientation="vertical"
    aria-label="Width of the names" aria-valuemin=${LEAST * 100} aria-valuemax=${MOST * 100}
    aria-valuenow=${Math.round(share * 100)} onKeyDown=${pressed} onDblClick=${() => set(NAME_SHARE)}
    ...${drag}></div>`;
}

function useDrag(box, set) {
  const held = useRef(false);
  const start = (event) => {
    held.current = true;
    event.currentTarget.setPointerCapture(event.pointerId);
    event.preventDefault();
  };
  const move = (event) => {
    if (held.current) set((event.clientX - box.current.getBoundingClientRect().left) / box.current.clientWidth);
  };
  const end = () => { held.current = false; };
  return { onPointerDown: start, onPointerMove: move, onPointerUp: end, onPointerCancel: end };
}

function usePlace(box, share) {
  useLayoutEffect(() => {
    const { style } = box.current.parentElement;
    // The rows are narrower than what surrounds them, by the scrollbar.
    const place = () => style.setProperty("--divider", `${share * box.current.clientWidth}px`);
    style.setProperty("--name-share", `${(share * 100).toFixed(2)}%`);
    place();
    const observer = new ResizeObserver(place);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, [share]);
}
