// Where a strategy comes from, in words.

/** By the backend's name for it: a label, a sentence. */
export const SOURCES = {
  file: { label: "file", why: "From the strategies file that the backend was started with; changing the file changes it." },
  edited: { label: "edited", why: "Set here, in the interface. Resetting it brings back what was there before." },
  adaptive: { label: "adaptive", why: "Reckoned by the backend from the traffic, to keep a certain number of traces of each operation." },
  default: { label: "default", why: "Nobody has said anything for this service." },
};
