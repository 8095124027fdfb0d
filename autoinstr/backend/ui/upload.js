// Files of traces from the reader's disk. Owns: sending them, dropping them anywhere, what came of it.
// Must not know: formats; the backend tells what a file is.

import { fetchJson, html, navigate, plural, useEffect, useState } from "./lib.js";
import { Icon } from "./icons.js";

let tell = () => {};

/** Send files one after the other, then show what was in them. @param {File[]} files */
export async function upload(files) {
  if (!files.length) return;
  const ids = [];
  const problems = [];
  tell({ text: `Reading ${plural(files.length, "file")} …` });
  for (const file of files) {
    try {
      const answer = await fetchJson("/ui/data/upload", {}, { method: "POST", body: file, headers: { "Content-Type": "application/json" } });
      ids.push(...answer.traceIDs);
    } catch (error) {
      problems.push(`${file.name}: ${error.message}`);
    }
  }
  const unique = [...new Set(ids)];
  tell(problems.length ? { kind: "error", text: `Not read: ${problems.join(" · ")}` } : unique.length ? null : { text: "There is no trace in that." });
  if (unique.length === 1) navigate("/trace/" + unique[0]);
  else if (unique.length) navigate("/", { traceID: unique.slice(0, 100) });
}

export function FileDrop() {
  const [told, setTold] = useState(null);
  const [over, setOver] = useState(false);
  useEffect(() => {
    tell = setTold;
    let depth = 0;
    const isFiles = (event) => event.dataTransfer?.types.includes("Files");
    const handlers = {
      dragenter: (event) => { if (isFiles(event)) { depth += 1; setOver(true); } },
      dragleave: (event) => { if (isFiles(event)) { depth = Math.max(0, depth - 1); setOver(depth > 0); } },
      dragover: (event) => isFiles(event) && event.preventDefault(),
      drop: (event) => {
        if (!isFiles(event)) return;
        event.preventDefault();
        depth = 0;
        setOver(false);
        upload([...event.dataTransfer.files]);
      },
    };
    for (const [name, handler] of Object.entries(handlers)) addEventListener(name, handler);
    return () => { for (const [name, handler] of Object.entries(handlers)) removeEventListener(name, handler); };
  }, []);
  return html`${over && html`<div class="drop-target">Drop files of traces here: Jaeger, OTLP or Zipkin JSON</div>`}
    ${told && html`<div class=${`notice toast ${told.kind ?? ""}`} role=${told.kind === "error" ? "alert" : "status"}><span>${told.text}</span>
      <button type="button" class="button quiet icon-only" aria-label="Close" onClick=${() => setTold(null)}><${Icon} name="close" /></button></div>`}`;
}
