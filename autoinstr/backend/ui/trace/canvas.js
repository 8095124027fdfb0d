// Drawing on canvases that are sharp on every screen.
// Owns: their scale. Must not know: what is drawn.

/** Calls `draw(pen, {width, height})` in CSS pixels on an empty canvas of the element's size. */
export function drawOn(canvas, draw) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  if (!pen) return;
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  draw(pen, { width, height });
}
