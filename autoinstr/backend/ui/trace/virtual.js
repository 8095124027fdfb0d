// Lists of any length of which only what is seen is in the document.
// Owns: which rows those are, where each stands, scrolling one into view. Must not know: what a row shows.

import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib.js";

const OVERSCAN = 8;

/**
 * For a list of `count` rows of `height` px each in the element of `box` (which scrolls), below a header of `above` px.
 * `extras`: Map of a row's number to the px that it takes beyond that, beneath it.
 * Returns `{first, last, total, width, height, topOf, show}`: rows `first … last - 1` are to be drawn; `width` is the
 * element's.
 */
export function useVirtualRows({ box, count, height, extras = NONE, above = 0 }) {
  const [view, setView] = useState({ top: 0, height: 800, width: 1200 });
  const places = useMemo(() => placesOf(height, extras), [height, extras]);
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    let waiting = 0;
    const read = () => {
      waiting = 0;
      const { scrollTop: top, clientHeight, clientWidth: width } = element;
      setView((before) => (before.top === top && before.height === clientHeight && before.width === width ? before
        : { top, height: clientHeight, width }));
    };
    const soon = () => { waiting ||= requestAnimationFrame(read); };
    const observer = new ResizeObserver(soon);
    observer.observe(element);
    element.addEventListener("scroll", soon, { passive: true });
    read();
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", soon);
      cancelAnimationFrame(waiting);
    };
  }, []);
  const total = places.topOf(count);
  const first = Math.max(0, places.rowAt(view.top - above, count) - OVERSCAN);
  const last = Math.min(count, places.rowAt(view.top + view.height - above, count) + 1 + OVERSCAN);
  const show = useCallback((row, where = "near") => scrollToRow(box.current, places, { row, above, height, where }),
    [places, above, height]);
  return { first, last, total, width: view.width, height: view.height, topOf: places.topOf, show };
}

const NONE = new Map();

/** Top of a row, and the row at a height, when some rows have more beneath them. */
function placesOf(height, extras) {
  const sorted = [...extras].sort(([a], [b]) => a - b);
  const topOf = (row) => {
    let top = row * height;
    for (const [at, extra] of sorted) {
      if (at >= row) break;
      top += extra;
    }
    return top;
  };
  const rowAt = (top, count) => {
    let [low, high] = [0, Math.max(0, count - 1)];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (topOf(middle) <= top) low = middle;
      else high = middle - 1;
    }
    return low;
  };
  return { topOf, rowAt };
}

function scrollToRow(element, places, { row, above, height, where }) {
  if (!element || row < 0) return;
  const top = places.topOf(row);
  const seen = element.clientHeight - above;
  const isAbove = top < element.scrollTop;
  const isBelow = top + height > element.scrollTop + seen;
  if (!isAbove && !isBelow) return;
  if (where === "middle") element.scrollTop = top - seen / 3;
  else element.scrollTop = isAbove ? top : top + height - seen;
}

/** The measured height of an element, told to `onHeight(px)` whenever it changes. */
export function useHeight(onHeight) {
  const element = useRef(null);
  const latest = useRef(onHeight);
  latest.current = onHeight;
  useEffect(() => {
    const observer = new ResizeObserver(() => element.current && latest.current(element.current.offsetHeight));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return element;
}

/** As long as the component is there, the page is as high as the window, and its list scrolls instead of the page. */
export function useWholeWindow() {
  useLayoutEffect(() => {
    document.documentElement.classList.add("fills-window");
    return () => document.documentElement.classList.remove("fills-window");
  }, []);
}
