// Axes of charts: where ticks stand and what they say. Pure, apart from the reader's locale.
// Must not know: canvases, what is drawn.

const TIME_STEPS_S = [0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000];

/** A scale that is straight or logarithmic: `of(value)` in 0..1 and `at(share)` back. */
export function scale(low, high, isLog) {
  if (!isLog) return { of: (value) => (value - low) / (high - low || 1), at: (share) => low + share * (high - low) };
  const base = Math.log(low);
  const span = Math.log(high) - base || 1;
  return { of: (value) => (Math.log(Math.max(value, low)) - base) / span, at: (share) => Math.exp(base + share * span) };
}

/** Round values between two microseconds since the epoch, at most `most`, on whole steps of local time: `[{ us, text }]`. */
export function timeTicks(startUs, endUs, most) {
  const span = Math.max(endUs - startUs, 1);
  const step = (TIME_STEPS_S.find((seconds) => span / (seconds * 1e6) <= most) ?? span / 1e6 / most) * 1e6;
  const zone = new Date(startUs / 1000).getTimezoneOffset() * 60e6;
  const ticks = [];
  for (let us = Math.ceil((startUs - zone) / step) * step + zone; us <= endUs && ticks.length <= most; us += step) {
    ticks.push({ us, text: timeText(us, step) });
  }
  return ticks;
}

function timeText(us, step) {
  const date = new Date(us / 1000);
  const two = (number) => String(number).padStart(2, "0");
  const midnight = date.getHours() + date.getMinutes() + date.getSeconds() === 0;
  if (step >= 86_400e6 || (midnight && step >= 3600e6)) return date.toLocaleDateString(undefined, { month: "short", day: "numeric" });
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (step >= 60e6) return clock;
  const seconds = `${clock}:${two(date.getSeconds())}`;
  return step >= 1e6 ? seconds : `${seconds}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** Powers of ten within the limits, with 2 and 5 between them where there is room; straight, or too close: round steps. */
export function valueTicks(low, high, isLog, most) {
  return isLog ? logTicks(low, high, most) : straightTicks(low, high, most);
}

function logTicks(low, high, most) {
  for (const parts of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const part of parts) ticks.push(part * 10 ** power);
    }
    const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
    if (inside.length < 2) break;
    if (inside.length <= most || parts.length === 1) return inside.filter((_, at) => at % Math.ceil(inside.length / most) === 0);
  }
  return straightTicks(low, high, most);
}

function straightTicks(low, high, most) {
  const rough = (high - low || 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * power).find((one) => one >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) ticks.push(tick);
  return ticks;
}
