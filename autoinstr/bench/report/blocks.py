"""What a report is made of: tables, figures, notes, and groups of these, as values that say nothing about their looks.

Owns: the vocabulary between what is said (``tables``, ``sections``) and how it is shown (``page``, ``pull_request``,
``console``).
Must not know: results, HTML (figures come as markup that is safe already).
Invariants: frozen; text is plain text, which whoever shows it must escape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers stand to the right."""

    title: str
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """``rows`` have one text per column, except for columns at the end that a row has nothing to say in."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    kind: str = "table"


@dataclass(frozen=True)
class Row:
    """One variant in a plot made of rows: ``numbers`` stand beside its mark; ``stamp`` is a word such as "unclear"."""

    name: str
    colour: int
    plot: Markup
    numbers: tuple[str, ...]
    stamp: str = ""


@dataclass(frozen=True)
class Rows:
    """A table whose first column is the variant and whose second one a plot on a common axis."""

    caption: str
    axis: Markup
    axis_title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    #: Positions (0..1) of lines that run through all rows; the first one is the zero line.
    lines: tuple[float, ...] = ()
    kind: str = "rows"


@dataclass(frozen=True)
class Key:
    """A line of a legend."""

    name: str
    colour: int


@dataclass(frozen=True)
class Figure:
    """A plot, with what stands around it."""

    title: str
    svg: Markup
    note: str = ""
    keys: tuple[Key, ...] = ()
    kind: str = "figure"


@dataclass(frozen=True)
class Grid:
    """Figures side by side where there is room, each at least ``narrowest`` (small, medium) wide."""

    figures: tuple[Figure, ...]
    narrowest: str = "medium"
    kind: str = "grid"


@dataclass(frozen=True)
class Beside:
    """The first block, and the others beside it where there is room."""

    blocks: tuple[Block, ...]
    kind: str = "beside"


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    #: plain, warning, aside, method.
    tone: str = "plain"
    kind: str = "note"


@dataclass(frozen=True)
class Matrix:
    """Cells against variants: ``weights`` (0..1) say how strongly a field is shaded."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    weights: tuple[tuple[float, ...], ...]
    kind: str = "matrix"


@dataclass(frozen=True)
class Group:
    """A cell of the campaign, or anything that can be folded away."""

    title: str
    blocks: tuple[Block, ...]
    stamps: tuple[str, ...] = ()
    aside: str = ""
    is_open: bool = True
    kind: str = "group"


Block = Table | Rows | Figure | Grid | Beside | Note | Matrix | Group


@dataclass(frozen=True)
class Section:
    """``lead`` is the finding in a sentence; ``reading`` says how the figures are read."""

    id: str
    title: str
    #: In the list of sections.
    short: str
    blocks: tuple[Block, ...]
    lead: str = ""
    reading: str = ""


@dataclass(frozen=True)
class Card:
    """A number at the top of the page."""

    title: str
    value: str
    detail: str = ""
    tone: str = ""


#: Variant -> the number of its colour; 0 is the bare program, 1 the bare program again.
Colours = Mapping[str, int]
