// How far back a page looks. Owns: the choices, their words, the select element. Must not know: who asks.

import { html } from "./lib.js";

/** Value in the address, words, seconds. */
export const LOOKBACKS = [
  ["5m", "5 minutes", 300], ["15m", "15 minutes", 900], ["1h", "1 hour", 3600], ["3h", "3 hours", 10_800], ["12h", "12 hours", 43_200],
  ["1d", "24 hours", 86_400], ["2d", "2 days", 172_800], ["7d", "7 days", 604_800],
];
export const DEFAULT_LOOKBACK = "1d";

/** The seconds of a value; undefined for what is none of the choices. */
export const secondsOf = (lookback) => LOOKBACKS.find(([value]) => value === lookback)?.[2];

/** @param children further options */
export function LookbackSelect({ id, value, onChange, children }) {
  return html`<select id=${id} value=${value} onChange=${(event) => onChange(event.currentTarget.value)}>
    ${LOOKBACKS.map(([choice, words]) => html`<option value=${choice}>${words}</option>`)}${children}</select>`;
}
