"""Which colour a variant has, and which cells of a large campaign get figures.

Owns: colours by variant, what is unfolded, what is left out to keep the page small.
Must not know: what a section says.
Invariants: pure; a variant has one colour in all figures; a noisy cell is never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from autoinstr.bench.parts import AGAIN, BASE, CellResult, Results
from autoinstr.bench.report import (
    tables,
)
from autoinstr.bench.report.blocks import (
    Key,
    Note,
)

#: Colours of the style sheet: bare, bare again, and those that the variants take in turn.
COLOURS = 14
#: So many groups of a section are unfolded; of more, an overview stands before them.
OPEN = 4
#: So many groups of a section have figures of what a table says as well; of more, only these and the noisy ones.
DETAILED = 6
LEFT_OUT = (
    "Figures of {} more cells are left out to keep this page small; their numbers are in the tables and in the JSON."
)


@dataclass(frozen=True)
class Page:
    """``colours`` has a number for each variant of the campaign, the same in all figures."""

    results: Results
    colours: dict[str, int]

    def colour(self, variant: str) -> int:
        return self.colours.get(variant, 2)

    def keys(self, names: Iterable[str]) -> tuple[Key, ...]:
        return tuple(Key(tables.variant_name(name), self.colour(name)) for name in names)


def page(results: Results) -> Page:
    others = [one.name for one in results.manifest.variants if one.name not in (BASE, AGAIN)]
    numbers = {name: 2 + number % (COLOURS - 2) for number, name in enumerate(others)}
    return Page(results, {BASE: 0, AGAIN: 1} | numbers)


def detailed(cells: Sequence[CellResult], most: int = DETAILED) -> list[CellResult]:
    """Those that get figures even where there are many."""
    return [one for number, one in enumerate(cells) if number < most or one.is_noisy]


def left_out(cells: Sequence[CellResult], most: int = DETAILED) -> tuple[Note, ...]:
    fewer = len(cells) - len(detailed(cells, most))
    return (Note(LEFT_OUT.format(fewer)),) if fewer else ()


def families(
    cells: Sequence[CellResult], mode: str, title: Callable[[CellResult], str]
) -> Iterable[tuple[str, list[CellResult]]]:
    own = [one for one in cells if one.cell.mode == mode]
    for name in dict.fromkeys(map(title, own)):
        yield name, [one for one in own if title(one) == name]
