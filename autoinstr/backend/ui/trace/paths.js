// The paths of a trace: spans that have the same ancestors by service and operation are one.
// Owns: that tree, for the flame graph and for comparing two traces. Must not know: the page. Invariants: pure, linear.

import { serviceOf } from "./model.js";

/**
 * `[{service, operation, depth, parent, children, count, errors, totalUs, selfUs, weightUs, first}]`, parents first;
 * entry 0 stands for the whole trace. `children`: Map of a name to its number; `first`: the first of its spans;
 * `weightUs`: the self times of it and all below it, so that children are never wider than their parent, however much
 * ran at once.
 */
export function pathTree(trace) {
  const paths = [newPath("", "", -1, -1, -1)];
  const pathOf = new Int32Array(trace.size.length);
  for (let node = 0; node < pathOf.length; node++) {
    const parent = trace.parent[node] < 0 ? 0 : pathOf[trace.parent[node]];
    const service = trace.missing[node] ? "" : serviceOf(trace, node);
    const operation = trace.missing[node] ? "missing parent" : trace.operation[node];
    const name = `${service}\u0000${operation}`;
    let at = paths[parent].children.get(name);
    if (at === undefined) {
      at = paths.length;
      paths[parent].children.set(name, at);
      paths.push(newPath(service, operation, paths[parent].depth + 1, parent, node));
    }
    pathOf[node] = at;
    const path = paths[at];
    path.count += 1;
    path.errors += trace.error[node];
    path.totalUs += trace.duration[node];
    path.selfUs += trace.self[node];
  }
  for (let at = paths.length - 1; at >= 0; at--) {
    paths[at].weightUs += paths[at].selfUs;
    if (at) paths[paths[at].parent].weightUs += paths[at].weightUs;
  }
  return paths;
}

function newPath(service, operation, depth, parent, first) {
  return {
    service, operation, depth, parent, first, children: new Map(), count: 0, errors: 0, totalUs: 0, selfUs: 0,
      weightUs: 0,
  };
}

/**
 * `[{path, left, width}]` of everything below `root`, as fractions of its width; what is narrower than `least` is left
 * out.
 */
export function flameFrames(paths, root, least) {
  const whole = paths[root].weightUs || 1;
  const frames = [];
  const open = [{ path: root, left: 0 }];
  while (open.length) {
    const { path, left } = open.pop();
    const width = paths[path].weightUs / whole;
    if (width < least) continue;
    frames.push({ path, left, width });
    let at = left;
    for (const child of [...paths[path].children.values()].sort((a, b) => paths[b].weightUs - paths[a].weightUs)) {
      open.push({ path: child, left: at });
      at += paths[child].weightUs / whole;
    }
  }
  return frames;
}

export function nameOfPath({ service, operation, parent }) {
  if (parent < 0) return "Whole trace";
  return service ? `${service}: ${operation}` : operation;
}

/** From the whole trace down to a path, with it. */
export function ancestorsOf(paths, at) {
  const found = [];
  for (let above = at; above >= 0; above = paths[above].parent) found.push(above);
  return found.reverse();
}

/** Whether a path is `root` or below it. */
export function isBelow(paths, at, root) {
  let above = at;
  // Parents come before their children.
  while (above > root) above = paths[above].parent;
  return above === root;
}
