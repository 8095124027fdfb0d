// Which rows the waterfall has: what is collapsed, folded, filtered away.
// Owns: the list of rows and their place in the tree as assistive technology is told it. Must not know: the page.

/**
 * `[{node, last, level, place, of}]` from the top to the bottom: a span, or a run of like siblings `node … last` in
 * one row (`last > node`). `level`, `place` and `of` count from 1.
 *
 * `collapsed`: nodes whose children are not shown; `unfolded`: first nodes of runs that are shown one by one; `fold`:
 * whether runs are folded at all; `shown`: per node 0 or 1, or null for all.
 */
export function visibleRows(trace, { collapsed, unfolded, fold, shown }) {
  const rows = [];
  const length = trace.size.length;
  for (let node = 0; node < length;) {
    if (shown && !shown[node]) {
      node += trace.size[node];
      continue;
    }
    const run = trace.run[node];
    if (run && fold && !shown && !unfolded.has(node)) {
      rows.push({ node, last: node + run - 1, level: trace.depth[node] + 1, place: 0, of: 0 });
      node += run;
      continue;
    }
    rows.push({ node, last: node, level: trace.depth[node] + 1, place: 0, of: 0 });
    node += collapsed.has(node) ? trace.size[node] : 1;
  }
  number(rows);
  return rows;
}

/** The number of the row that shows a node, itself or within a run; -1 when it is hidden. */
export function rowOf(rows, node) {
  let [low, high] = [0, rows.length - 1];
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (rows[middle].last < node) low = middle + 1;
    else if (rows[middle].node > node) high = middle - 1;
    else return middle;
  }
  return -1;
}

/** What has to be opened for a node to be seen: `[collapsed, unfolded]` without and with what hides it. */
export function reveal(trace, node, collapsed, unfolded) {
  const stillCollapsed = new Set(collapsed);
  for (let above = trace.parent[node]; above >= 0; above = trace.parent[above]) stillCollapsed.delete(above);
  const run = runWith(trace, node);
  return [stillCollapsed, run < 0 || unfolded.has(run) ? unfolded : new Set([...unfolded, run])];
}

/** The first node of the run that holds a node, or -1. */
export function runWith(trace, node) {
  for (let first = node; first >= 0 && trace.parent[first] === trace.parent[node] && trace.size[first] === 1; first--) {
    if (trace.run[first]) return first + trace.run[first] > node ? first : -1;
  }
  return -1;
}

/** All nodes with children, at one level or deeper. */
export function parentsFrom(trace, depth) {
  const found = new Set();
  trace.size.forEach((size, node) => { if (size > 1 && trace.depth[node] >= depth) found.add(node); });
  return found;
}

/** One level less: the deepest that are open are closed. */
export function collapseOneLevel(trace, collapsed) {
  const open = openParents(trace, collapsed);
  const deepest = open.reduce((most, node) => Math.max(most, trace.depth[node]), -1);
  return new Set([...collapsed, ...open.filter((node) => trace.depth[node] === deepest)]);
}

/** One level more: the highest that are closed are opened. */
export function expandOneLevel(trace, collapsed) {
  let highest = Infinity;
  for (const node of collapsed) highest = Math.min(highest, trace.depth[node]);
  return new Set([...collapsed].filter((node) => trace.depth[node] !== highest));
}

function openParents(trace, collapsed) {
  const found = [];
  for (let node = 0; node < trace.size.length; node += collapsed.has(node) ? trace.size[node] : 1) {
    if (trace.size[node] > 1 && !collapsed.has(node)) found.push(node);
  }
  return found;
}

function number(rows) {
  const counts = [];
  for (const row of rows) {
    counts.length = row.level;
    row.place = counts[row.level - 1] = (counts[row.level - 1] ?? 0) + 1;
  }
  const sizes = [];
  for (let at = rows.length - 1; at >= 0; at--) {
    const row = rows[at];
    row.of = sizes[row.level - 1] ??= row.place;
    if (row.place === 1) sizes[row.level - 1] = undefined;
  }
}
