"""The page of a trace as a reader has it in front of them: what stands in it, what can be done with it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page

from ui import traces
from ui.conftest import Visitor
from ui.site import Site

ROWS = "[role=treegrid] .row"

NAMES = """rows => rows
  .map((one) => [Number(one.dataset.row), one.querySelector(".name").innerText])
  .sort((a, b) => a[0] - b[0])
  .map((one) => one[1])"""
ACTIVE = """() => {
  const id = document.querySelector("[role=treegrid]").getAttribute("aria-activedescendant");
  return document.getElementById(id).querySelector(".name").innerText; }"""
QUERY_IS = """(wanted) => {
  const query = new URLSearchParams(location.search);
  return Object.entries(wanted).every(([key, value]) => query.get(key) === value); }"""


class Opener:
    """Opens the page of a trace, once its rows, or what is ``ready``, are there."""

    def __init__(self, site: Site, visitor: Visitor) -> None:
        self._site = site
        self._visitor = visitor

    def __call__(self, trace: traces.Trace, query: str = "", *, ready: str = ROWS, **options: Any) -> Page:
        options = {"viewport": {"width": 1400, "height": 900}} | options
        return self._visitor.open(self._site, self._site.put(trace) + query, ready=ready, **options)  # type: ignore[arg-type]


def row(page: Page, text: str) -> Locator:
    return page.locator(ROWS).filter(has_text=text).first


def names(page: Page) -> list[str]:
    """What the rows that are in the document say, top to bottom."""
    return [" ".join(one.split()) for one in page.locator(ROWS).evaluate_all(NAMES)]


def active(page: Page) -> str:
    """The name in the row that the list points assistive technology at."""
    name: str = page.evaluate(ACTIVE)
    return name


def query_of(page: Page) -> dict[str, str]:
    query: dict[str, str] = page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")
    return query


def wait_for_query(page: Page, **wanted: str | None) -> None:
    """Until the address holds what it should; None: no such parameter."""
    page.wait_for_function(QUERY_IS, arg=wanted)


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, end[1])
    page.mouse.move(*end)
    page.mouse.up()


def wait_for_colours(page: Page, canvas: str, at_least: int) -> None:
    """Until that much is drawn, for a canvas is drawn a frame after its page; read from a copy: reading it itself would change how it
    is drawn."""
    script = """([selector, atLeast]) => {
      const drawn = document.querySelector(selector);
      if (!drawn || !drawn.width || !drawn.height) return false;
      const copy = Object.assign(document.createElement("canvas"), {width: drawn.width, height: drawn.height});
      const pen = copy.getContext("2d", {willReadFrequently: true});
      pen.drawImage(drawn, 0, 0);
      return new Set(new Uint32Array(pen.getImageData(0, 0, copy.width, copy.height).data.buffer)).size >= atLeast; }"""
    page.wait_for_function(script, arg=[canvas, at_least])
