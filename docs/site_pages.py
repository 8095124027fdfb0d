"""The site that MkDocs makes: pages in the order of index.md, and those that lie outside docs/.

Owns: which pages there are, their order, where links lead that would leave the folder, the names of headings.
Must not know: what is on a page; which version it is.
Invariants: pages are read on GitHub as well, and are written for it: a link that works there works here, or the build fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
#: Pages outside docs/, and the names under which they are on the site.
OUTSIDE = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "scenarios/README.md": "locustfiles.md",
}
FENCED = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
ELSEWHERE = ("https://", "http://", "mailto:", "#")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The order of the pages, and headings that are linked to as on GitHub."""
    config.nav = list(_nav((ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    config.mdx_configs["toc"] = {**config.mdx_configs.get("toc", {}), "slugify": _anchor}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages outside docs/, too."""
    for source, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links by the names of the site; what is not a page of it is linked to where the sources are."""
    source = next((path for path, name in OUTSIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    parts = FENCED.split(markdown)
    # Every other part is code.
    parts[::2] = [LINK.sub(lambda link: _link(link, source, page, config), part) for part in parts[::2]]
    return "".join(parts)


def _nav(index: str) -> Iterator[Any]:
    """The overview, then the sections of index.md with what they link to."""
    yield "index.md"
    first, *sections = re.split(r"^## ", index, flags=re.MULTILINE)
    yield from _entries(first)
    for section in sections:
        title, _, text = section.partition("\n")
        yield {title: list(_entries(text))}


def _entries(text: str) -> Iterator[dict[str, str]]:
    for _, title, target in LINK.findall(text):
        if not target.startswith(ELSEWHERE):
            path = _resolve("docs/index.md", target.partition("#")[0])
            yield {title: OUTSIDE.get(path, path.removeprefix("docs/"))}


def _link(link: re.Match[str], source: str, page: Page, config: MkDocsConfig) -> str:
    sign, title, target = link.groups()
    path, hash_sign, anchor = target.partition("#")
    if target.startswith(ELSEWHERE):
        return link[0]
    there = _resolve(source, path)
    if there in OUTSIDE or there.startswith("docs/"):
        name = OUTSIDE.get(there, there.removeprefix("docs/"))
        near = os.path.relpath(name, os.path.dirname(page.file.src_uri) or ".").replace(os.sep, "/")
        return f"{sign}[{title}]({near}{hash_sign}{anchor})"
    if not (ROOT / there).exists():
        return link[0]  # MkDocs will say so.
    if not config.repo_url:
        return title
    return f"[{title}]({config.repo_url.rstrip('/')}/blob/{os.environ.get('GITHUB_REF_NAME', 'main')}/{there}{hash_sign}{anchor})"


def _resolve(source: str, target: str) -> str:
    """A link's target, from the root of the repository."""
    return os.path.normpath(os.path.join(os.path.dirname(source), target)).replace(os.sep, "/")


def _anchor(heading: str, separator: str) -> str:
    """The name of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)
