// One tooltip for all pages. Owns: where it stands, when it shows. Must not know: what it says.
// It is drawn once, over everything, so that nothing that cuts its content off can cut a tooltip.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";

let show = () => {};

/** Handlers for an element that explains itself in `text`, on hover and on focus; its label must say the same to a screen reader. */
export function explained(text) {
  const open = (event) => show({ text, of: event.currentTarget, box: event.currentTarget.getBoundingClientRect() });
  return { onMouseEnter: open, onFocus: open, onMouseLeave: hideTooltip, onBlur: hideTooltip };
}

/** Show `text` beside a rectangle of the window: for canvases, which have no elements. */
export const showTooltip = (text, box) => show({ text, box });

export const hideTooltip = () => show(null);

export function TooltipHost() {
  const [tip, setTip] = useState(null);
  const element = useRef(null);
  useEffect(() => {
    show = setTip;
    const escape = (event) => event.key === "Escape" && setTip(null);
    const gone = () => setTip(null);
    // It goes with its element: what comes into sight because it got the focus must not lose its explanation by that.
    const moved = () => setTip((before) => (before?.of?.isConnected ? { ...before, box: before.of.getBoundingClientRect() } : null));
    addEventListener("keydown", escape);
    addEventListener("scroll", moved, { capture: true, passive: true });
    addEventListener("popstate", gone);
    return () => {
      removeEventListener("keydown", escape);
      removeEventListener("scroll", moved, { capture: true });
      removeEventListener("popstate", gone);
    };
  }, []);
  useLayoutEffect(() => {
    if (!tip) return;
    const { width, height } = element.current.getBoundingClientRect();
    const left = Math.min(tip.box.left, document.documentElement.clientWidth - width - 8);
    const below = tip.box.bottom + 6;
    const top = below + height < innerHeight ? below : tip.box.top - height - 6;
    Object.assign(element.current.style, { left: `${Math.max(8, left)}px`, top: `${Math.max(8, top)}px` });
  }, [tip]);
  return tip && html`<div class="tooltip" ref=${element} aria-hidden="true">${tip.text}</div>`;
}
