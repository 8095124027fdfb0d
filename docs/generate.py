"""Writes the reference pages that are derived from the code: run it after a change of the table in
``autoinstr.config.table``.
"""

from __future__ import annotations

from pathlib import Path

from autoinstr.config.reference import to_markdown

if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(to_markdown(), encoding="utf-8")
