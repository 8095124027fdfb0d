// Where the services of a call graph stand: in layers from left to right, callers before those they call. Pure.
// Must not know: elements, colours. The method is the usual one for layered graphs: turn round the edges that close a cycle,
// layer by the longest path, put a bend into long edges for every layer that they cross, order each layer by the mean place of
// its neighbours until fewer crossings cannot be had that way.

const SWEEPS = 12;

/**
 * @param names nodes
 * @param edges `{ parent, child }`; an edge of a node to itself has no influence
 * @param box `{ width, height, gapX, gapY }` of a node and between nodes
 * @returns `{ width, height, nodes: Map(name → { x, y }), routes: Map(edge → [{ x, y }, …]) }`; x and y are centres; a route goes
 *   from its parent to its child, also against the direction of the layers
 */
export function layOut(names, edges, box) {
  const straight = withoutCycles(names, edges);
  const layerOf = longestPaths(names, straight);
  const { layers, chains } = withBends(names, straight, layerOf);
  orderLayers(layers, chains);
  const places = place(layers, chains, box);
  const routes = new Map(straight.map(({ edge, turned }, at) => {
    const points = chains[at].map((node) => places.of.get(node));
    return [edge, turned ? points.reverse() : points];
  }));
  return { width: places.width, height: places.height, nodes: new Map(names.map((name) => [name, places.of.get(name)])), routes };
}

/** Edges as `{ from, to, turned, edge }` without a cycle: those that lead back to where the search comes from are turned. */
function withoutCycles(names, edges) {
  const outgoing = new Map(names.map((name) => [name, []]));
  const incoming = new Map(names.map((name) => [name, 0]));
  const wanted = edges.filter(({ parent, child }) => parent !== child && outgoing.has(parent) && outgoing.has(child));
  for (const edge of wanted) {
    outgoing.get(edge.parent).push(edge);
    incoming.set(edge.child, incoming.get(edge.child) + 1);
  }
  const turned = new Set();
  const state = new Map();
  // Entrances first, so that what is turned is a call back to them and not the call itself.
  const starts = [...names].sort((one, other) => incoming.get(one) - incoming.get(other) || outgoing.get(other).length - outgoing.get(one).length);
  for (const start of starts) if (!state.has(start)) search(start, outgoing, state, turned);
  return wanted.map((edge) => (turned.has(edge)
    ? { from: edge.child, to: edge.parent, turned: true, edge }
    : { from: edge.parent, to: edge.child, turned: false, edge }));
}

/** Depth first, without recursion: a chain may be long. */
function search(start, outgoing, state, turned) {
  const stack = [{ node: start, next: 0 }];
  state.set(start, "open");
  while (stack.length) {
    const top = stack[stack.length - 1];
    const edge = outgoing.get(top.node)[top.next++];
    if (!edge) {
      state.set(top.node, "done");
      stack.pop();
    } else if (state.get(edge.child) === "open") {
      turned.add(edge);
    } else if (!state.has(edge.child)) {
      state.set(edge.child, "open");
      stack.push({ node: edge.child, next: 0 });
    }
  }
}

/** The layer of each node: one more than the highest of those that call it. */
function longestPaths(names, straight) {
  const waiting = new Map(names.map((name) => [name, 0]));
  const outgoing = new Map(names.map((name) => [name, []]));
  for (const { from, to } of straight) {
    waiting.set(to, waiting.get(to) + 1);
    outgoing.get(from).push(to);
  }
  const layerOf = new Map(names.map((name) => [name, 0]));
  const ready = names.filter((name) => waiting.get(name) === 0);
  for (let at = 0; at < ready.length; at += 1) {
    for (const to of outgoing.get(ready[at])) {
      layerOf.set(to, Math.max(layerOf.get(to), layerOf.get(ready[at]) + 1));
      waiting.set(to, waiting.get(to) - 1);
      if (waiting.get(to) === 0) ready.push(to);
    }
  }
  return layerOf;
}

/** Layers of nodes and bends (bends are objects), and for each edge the chain that it runs through. */
function withBends(names, straight, layerOf) {
  const layers = [];
  const put = (node, layer) => { (layers[layer] ??= []).push(node); };
  for (const name of names) put(name, layerOf.get(name));
  const chains = straight.map(({ from, to }) => {
    const chain = [from];
    for (let layer = layerOf.get(from) + 1; layer < layerOf.get(to); layer += 1) {
      const bend = { bend: true };
      put(bend, layer);
      chain.push(bend);
    }
    return [...chain, to];
  });
  return { layers, chains };
}

function orderLayers(layers, chains) {
  const { before, after } = neighboursOf(chains);
  let best = { crossings: crossings(layers, after), layers: layers.map((layer) => [...layer]) };
  for (let sweep = 0; sweep < SWEEPS && best.crossings > 0; sweep += 1) {
    const [order, neighbours] = sweep % 2 ? [layers.map((_, at) => layers.length - 1 - at), after] : [layers.map((_, at) => at), before];
    for (const at of order) sortByNeighbours(layers[at], neighbours, placesOf(layers));
    const now = crossings(layers, after);
    if (now < best.crossings) best = { crossings: now, layers: layers.map((layer) => [...layer]) };
  }
  best.layers.forEach((layer, at) => { layers[at] = layer; });
}

/** Who stands next to a node or bend along the edges, in the layer before and in the one after. */
function neighboursOf(chains) {
  const before = new Map();
  const after = new Map();
  const note = (map, key, value) => (map.get(key) ?? map.set(key, []).get(key)).push(value);
  for (const chain of chains) {
    for (let at = 1; at < chain.length; at += 1) {
      note(before, chain[at], chain[at - 1]);
      note(after, chain[at - 1], chain[at]);
    }
  }
  return { before, after };
}

const placesOf = (layers) => new Map(layers.flatMap((layer) => layer.map((node, at) => [node, (at + 0.5) / layer.length])));

function sortByNeighbours(layer, neighbours, places) {
  const mean = new Map(layer.map((node) => {
    const near = neighbours.get(node) ?? [];
    return [node, near.length ? near.reduce((sum, one) => sum + places.get(one), 0) / near.length : places.get(node)];
  }));
  layer.sort((one, other) => mean.get(one) - mean.get(other));
}

/** Pairs of edges between neighbouring layers that cross; counted one by one, since services are dozens. */
function crossings(layers, after) {
  let total = 0;
  for (let at = 0; at + 1 < layers.length; at += 1) {
    const place = new Map(layers[at + 1].map((node, index) => [node, index]));
    const ends = layers[at].flatMap((node) => (after.get(node) ?? []).map((to) => place.get(to)).sort((one, other) => one - other));
    if (ends.length > 3000) return 0;
    for (let first = 0; first < ends.length; first += 1) {
      for (let second = first + 1; second < ends.length; second += 1) total += ends[first] > ends[second];
    }
  }
  return total;
}

/** Centres. Layers are columns; within them nodes are drawn towards their neighbours as far as their order allows. */
function place(layers, chains, { width, height, gapX, gapY }) {
  const of = new Map();
  const size = (node) => (node.bend ? gapY : height);
  layers.forEach((layer, column) => {
    let y = 0;
    for (const node of layer) {
      of.set(node, { x: width / 2 + column * (width + gapX), y: y + size(node) / 2 });
      y += size(node) + gapY;
    }
  });
  const { before, after } = neighboursOf(chains);
  const neighbours = new Map(layers.flat().map((node) => [node, [...(before.get(node) ?? []), ...(after.get(node) ?? [])]]));
  for (let round = 0; round < SWEEPS; round += 1) {
    for (const layer of round % 2 ? [...layers].reverse() : layers) settle(layer, neighbours, of, size, gapY);
  }
  const all = [...of.entries()];
  const top = all.reduce((least, [node, { y }]) => Math.min(least, y - size(node) / 2), Infinity);
  for (const [, point] of all) point.y -= top;
  const bottom = all.reduce((most, [node, { y }]) => Math.max(most, y + size(node) / 2), 0);
  return { of, width: layers.length * (width + gapX) - gapX, height: bottom };
}

/** Move the nodes of a layer to the mean of their neighbours, keeping their order and distance. */
function settle(layer, neighbours, of, size, gapY) {
  const wanted = layer.map((node) => {
    const near = neighbours.get(node);
    return near.length ? near.reduce((sum, one) => sum + of.get(one).y, 0) / near.length : of.get(node).y;
  });
  const apart = (at) => (size(layer[at - 1]) + size(layer[at])) / 2 + gapY;
  const down = [...wanted];
  for (let at = 1; at < layer.length; at += 1) down[at] = Math.max(down[at], down[at - 1] + apart(at));
  const up = [...wanted];
  for (let at = layer.length - 2; at >= 0; at -= 1) up[at] = Math.min(up[at], up[at + 1] - apart(at + 1));
  // Both keep the distance, so their mean does, too; it pushes neither up nor down.
  layer.forEach((node, at) => { of.get(node).y = (down[at] + up[at]) / 2; });
}
