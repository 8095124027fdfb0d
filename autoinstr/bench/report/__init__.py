"""What a campaign has shown, for people: a page (HTML), text for a pull request (Markdown), text for a terminal.

``blocks`` is the vocabulary, ``tables`` and ``sections`` say what is said, ``figures`` draws, and one file for each
form shows it. Nothing here computes a statistic: all numbers come from ``parts.Results``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoinstr.bench.parts import Results


def html(results: Results) -> str:
    """One self-contained page. Raises Refusal without Jinja."""
    from autoinstr.bench.report import page

    return page.html(results)


def markdown(results: Results) -> str:
    """For a pull request: the verdict, a table for each group of cells, the rest folded away."""
    from autoinstr.bench.report import pull_request

    return pull_request.markdown(results)


def terminal(results: Results, *, is_colour: bool | None = None) -> str:
    """Aligned tables, at most 100 columns; in colour where the output is a terminal, unless told otherwise."""
    from autoinstr.bench.report import console

    return console.terminal(results, is_colour=is_colour)
