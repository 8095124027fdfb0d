// The trace page's keys, as the help says them. Must not know: how it is done.

export const SHORTCUTS = [
  ["↑ ↓ or k j", "Previous, next row"],
  ["← →", "Collapse, expand; to the parent, to the first child"],
  ["Enter", "Open or close a span's detail"],
  ["[ ]", "Expand all, collapse all"],
  ["o p", "Expand, collapse one level"],
  ["w s", "Zoom in, out (or ctrl and the wheel)"],
  ["a d", "Move left, right in time"],
  ["0", "The whole trace"],
  ["f", "Search in this trace"],
  ["n b", "Next, previous match"],
  ["e", "Next error"],
  ["1 2 3 4", "Waterfall, flame graph, statistics, spans"],
];
