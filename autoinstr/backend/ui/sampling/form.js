// What the fields of the editor hold, as a strategy, and back. Pure. The form of a strategy is that of Jaeger's strategies file.
// What is wrong with it is said by the backend, which knows all the rules.

export const TYPES = [["probabilistic", "A share of all traces"], ["ratelimiting", "So many traces a second"]];

/** Fields from what Jaeger's sampling endpoint answers: `{ type, param, operations: [{ operation, param }] }`, all text. */
export function fieldsOf(strategy) {
  const byOperation = strategy?.operationSampling;
  const operations = (byOperation?.perOperationStrategies ?? []).map((one) => ({
    operation: one.operation, param: text(one.probabilisticSampling?.samplingRate),
  }));
  if (byOperation) return { type: "probabilistic", param: text(byOperation.defaultSamplingProbability), operations };
  if (strategy?.rateLimitingSampling) return { type: "ratelimiting", param: text(strategy.rateLimitingSampling.maxTracesPerSecond), operations };
  return { type: "probabilistic", param: text(strategy?.probabilisticSampling?.samplingRate ?? 1), operations };
}

const text = (value) => (value === undefined || value === null ? "" : String(value));

/** An entry of Jaeger's strategies file. What is not a number goes as it is: the backend answers what is wrong with it. */
export function strategyOf({ type, param, operations }) {
  const rows = operations.filter(({ operation, param: own }) => operation || own);
  return {
    type, param: number(param),
    ...(rows.length ? { operation_strategies: rows.map(({ operation, param: own }) => ({ operation, type: "probabilistic", param: number(own) })) } : {}),
  };
}

function number(typed) {
  const trimmed = typed.trim();
  return trimmed === "" || Number.isNaN(Number(trimmed)) ? trimmed : Number(trimmed);
}
