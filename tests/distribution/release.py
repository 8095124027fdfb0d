"""The last look before an upload: does what was built say of itself what the tag says?

As a program: ``python tests/distribution/release.py WHEEL TAG REPOSITORY_URL``; prints each fault, and exits with 1 if there
is one. Needs nothing but Python.

Owns: what tag, version, changelog and links have to do with each other.
Must not know: how anything is built or uploaded.
"""

from __future__ import annotations

import re
import sys
import zipfile
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).parents[2]


def faults(metadata: str, changelog: str, tag: str, repository: str) -> list[str]:
    """Why this must not be uploaded, one sentence for each reason."""
    about = message_from_string(metadata)
    version = about["Version"]
    found = []
    if tag != f"v{version}":
        found.append(f"the tag {tag} does not name version {version}: set __version__, or tag v{version}")
    if not re.search(rf"^## \[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no heading '## {version} - YYYY-MM-DD'")
    urls = [value.partition(", ")[2].rstrip("/") for value in about.get_all("Project-URL") or ()]
    if repository.rstrip("/") not in urls:
        found.append(f"[project.urls] in pyproject.toml does not name {repository}: the package index would link nowhere")
    return found


def main(words: list[str]) -> int:
    """Check one wheel."""
    if len(words) != 3:
        sys.stderr.write("usage: release.py WHEEL TAG REPOSITORY_URL\n")
        return 2
    with zipfile.ZipFile(words[0]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = wheel.read(name).decode()
    found = faults(metadata, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), *words[1:])
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
