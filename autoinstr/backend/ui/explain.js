// Figures in words: why a trace is here, what a service was told, what got lost. Pure text, no elements.
// Must not know: pages, where the figures come from.

import { count, plural } from "./lib.js";

const LABEL_LENGTH = 40;

/**
 * Why a trace was kept, from its root's sampler: a label and a sentence. `reason` is why it was kept beyond the rate.
 * @param {{type: string, param: unknown, reason?: string} | null} sampler
 */
export function samplerWords(sampler) {
  if (!sampler?.type) {
    return { label: "not said", why: "Its root does not say which sampler kept it: a caller or a debug flag demanded it, its tracer does not tell, or the root has not come." };
  }
  const type = String(sampler.type);
  const param = sampler.param;
  const words = Object.hasOwn(WHY, type) ? WHY[type](Number(param), sampler.reason) : undefined;
  return {
    label: shortened(sampler.reason ? `${type}: ${sampler.reason}` : param === null || param === undefined || param === "" ? type : `${type} ${param}`),
    why: words ?? shortened(`Kept by a sampler of the type “${type}”, with the parameter ${param}.`, 300),
  };
}

const WHY = {
  const: () => "Kept by a sampler that keeps every trace: each such request is here.",
  probabilistic: (rate) => (rate > 0 && rate <= 1 ? `Kept by a probabilistic sampler at ${rate}: ${oneIn(rate)}.` : undefined),
  ratelimiting: (rate) => (rate > 0
    ? `Kept by a rate limiter: each process keeps at most ${traces(rate)}. How many more such requests there were is not known.` : undefined),
  budget: (rate, reason) => {
    if (reason) {
      const what = reason === "error" ? "its request failed" : reason === "slow" ? "its request took unusually long" : reason;
      return `Kept beyond the rate of an overhead budget: ${shortened(what)}. It stands for itself, and what it called was not kept.`;
    }
    return rate > 0 && rate <= 1 ? `Kept within an overhead budget, whose rate was ${rate} then: ${oneIn(rate)}.` : undefined;
  },
  lowerbound: (rate) => (rate >= 0 && rate < 1
    ? `Kept by the lower bound: chance (${rate}) had not picked it, but a few traces of each operation are kept however rare they are.` : undefined),
};

function oneIn(rate) {
  const each = 1 / rate;
  if (each < 1.05) return "each such request is here";
  return `about ${each < 9.5 ? Number(each.toFixed(1)) : count(Math.round(each))} such requests happened for each one shown`;
}

function traces(perSecond) {
  if (perSecond >= 1) return `${Number(perSecond.toFixed(2))} ${perSecond === 1 ? "trace" : "traces"} a second`;
  return `one trace in ${Number((1 / perSecond).toFixed(1))} seconds`;
}

export function shortened(text, length = LABEL_LENGTH) {
  const letters = [...text];
  return letters.length > length ? letters.slice(0, length - 1).join("") + "…" : text;
}

/** A share between 0 and 1: "10 %", "0.1 %". */
export function percent(share) {
  const value = share * 100;
  if (!Number.isFinite(value)) return "–";
  return `${value === 0 || value >= 99.95 ? Math.round(value) : Number(value.toPrecision(2))} %`;
}

/** So many a second, or a minute where that is easier to read: "2.4/s", "7/min". */
export function rate(perSecond) {
  const perMinute = perSecond * 60;
  if (!Number.isFinite(perSecond)) return "–";
  if (perSecond >= 1) return `${perSecond >= 100 ? count(Math.round(perSecond)) : Number(perSecond.toPrecision(2))}/s`;
  return `${Number(perMinute.toPrecision(2))}/min`;
}

/** What a service was told, from the answer of Jaeger's sampling endpoint: a sentence without a full stop. */
export function strategyWords(strategy) {
  const single = strategy?.operationSampling;
  const operations = single?.perOperationStrategies?.length ?? 0;
  const base = single ? keeps(single.defaultSamplingProbability) : baseWords(strategy);
  return operations ? `${base}; ${plural(operations, "operation")} otherwise` : base;
}

function baseWords(strategy) {
  const rate = strategy?.rateLimitingSampling?.maxTracesPerSecond;
  if (strategy?.strategyType === "RATE_LIMITING" || strategy?.strategyType === 1) {
    return rate > 0 ? `keeps at most ${traces(rate)} in each process` : "keeps nothing";
  }
  return keeps(strategy?.probabilisticSampling?.samplingRate);
}

function keeps(rate) {
  if (rate === undefined || rate === null) return "not said";
  return rate >= 1 ? "keeps everything" : rate <= 0 ? "keeps nothing" : `keeps ${percent(rate)}`;
}

/** The ways in which spans get lost: key of the figures, what it counts, what happened, what helps. */
const LOSSES = [
  ["client_queue", "span", "were lost in the client's queue", "raise JAEGER_REPORTER_MAX_QUEUE_SIZE or lower the rate"],
  ["client_too_large", "span", "were larger than the client may send", "send over HTTP instead of UDP, or put less into attributes"],
  ["client_failed", "span", "could not be sent by the client", "see whether it reaches the backend, and what its own log says"],
  ["packets", "packet", "of spans never came", "UDP drops under load: send over HTTP, or raise the system's receive buffer"],
  ["refused", "span", "were refused by the backend", "its queue was full, or they could not be read: see its log"],
  ["evicted", "span", "made room for newer ones", "raise the limits of the store (`autoinstr serve --help`) to keep them for longer"],
];
/** What has been here and was let go by its age or size is no gap in a trace that is shown. */
const NOT_ON_THE_WAY = "evicted";

/** `[{ cause, number, what, help, onTheWay }]` of what a service's spans have suffered, the largest number first. */
export function lossesInWords(losses) {
  return LOSSES.filter(([cause]) => losses?.[cause] > 0)
    .map(([cause, unit, what, help]) => {
      const number = losses[cause];
      return { cause, number, help, onTheWay: cause !== NOT_ON_THE_WAY, what: `${plural(number, unit)} ${number === 1 ? what.replace(/^were/, "was") : what}` };
    })
    .sort((one, other) => other.number - one.number);
}

/** 3.2 MB */
export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = number;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value < 9.95 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}
