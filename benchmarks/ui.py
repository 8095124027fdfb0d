"""How fast the trace page is in Chromium: from the data's arrival to the first rows on the screen, and while scrolling.

Usage: ``python benchmarks/ui.py [spans …]`` (1,000, 10,000 and 50,000 unless told otherwise).

Wall time says what a reader sees on this machine at this moment; CPU time of the page's main thread says the same on a
machine that does other things meanwhile. "slow" counts frames that took longer than 50 ms; each of them scrolls by 120
px. Rendering is done in software where there is no graphics card, as in a container.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from tests.ui import site as served
from tests.ui import traces

SIZES = (1_000, 10_000, 50_000)
FRAMES = 150
STEP_PX = 120
SLOW_MS = 50

#: Resolves with ms: when the trace's JSON was there, when rows were in the document, when they had been painted.
FIRST_PAINT = """
window.firstPaint = new Promise((resolve) => {
  const watch = new MutationObserver(() => {
    if (!document.querySelector(".row")) return;
    watch.disconnect();
    const rows = performance.now();
    requestAnimationFrame(() => setTimeout(() => {
      const data = performance.getEntriesByType("resource").find((entry) => entry.name.includes("/api/traces/"));
      resolve({data: data.responseEnd, rows, painted: performance.now()});
    }));
  });
  watch.observe(document, {childList: true, subtree: true});
});
"""

#: Scrolls a step in each frame; ms between frames.
SCROLL = """
async ([frames, step]) => {
  const box = document.querySelector(".waterfall-box");
  const times = [];
  let before = await new Promise(requestAnimationFrame);
  for (let frame = 0; frame < frames; frame++) {
    box.scrollTop += step;
    const now = await new Promise(requestAnimationFrame);
    times.push(now - before);
    before = now;
  }
  return times;
}
"""


def main() -> None:
    sizes = [int(argument) for argument in sys.argv[1:]] or SIZES
    site = served.Site()
    with served.serve(site), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(f"Chromium {browser.version}, {platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        print(
            f"{'spans':>7} {'first paint':>12} {'CPU':>8} {'frame median':>13} {'p95':>7} {'max':>7} {'slow':>4}"
            f" {'CPU/frame':>10} {'rows':>5} {'heap':>7}"
        )
        for size in sizes:
            print(measure(browser, site, size), flush=True)
        browser.close()


def measure(browser: Browser, site: served.Site, size: int) -> str:
    path = site.put(traces.wide(size, trace_id=f"{size:x}"))
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.add_init_script(FIRST_PAINT)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(site.url + path)
    shown = page.evaluate("window.firstPaint")
    cpu_of_paint = cpu_ms(session)
    page.wait_for_timeout(500)
    before = cpu_ms(session)
    times = page.evaluate(SCROLL, [FRAMES, STEP_PX])
    per_frame = (cpu_ms(session) - before) / FRAMES
    line = (
        f"{size:7,} {shown['painted'] - shown['data']:9.0f} ms {cpu_of_paint:5.0f} ms"
        f" {statistics.median(times):10.1f} ms {statistics.quantiles(times, n=20)[-1]:7.1f} {max(times):7.1f}"
        f" {sum(time > SLOW_MS for time in times):4}"
        f" {per_frame:7.1f} ms {rows_in_document(page):5} {heap_mb(page):4.0f} MB"
    )
    page.close()
    return line


def cpu_ms(session: CDPSession) -> float:
    """CPU time of the page's main thread so far."""
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return metrics["TaskDuration"] * 1000


def rows_in_document(page: Page) -> int:
    return page.locator(".row").count()


def heap_mb(page: Page) -> float:
    return page.evaluate("performance.memory.usedJSHeapSize") / 1e6


if __name__ == "__main__":
    main()
