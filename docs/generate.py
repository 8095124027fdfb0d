"""Writes the reference pages that are derived from the code: run it after a change of the table in ``autoinstr.config``."""

from __future__ import annotations

from pathlib import Path

from autoinstr import config

if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(config.to_markdown(), encoding="utf-8")
