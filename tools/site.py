"""The hooks by which MkDocs builds the site from pages that are written for GitHub; `mkdocs.yml` names this file.

They add the pages that lie outside of `docs/`, and turn a link to a file without a page into one to the
repository.
"""

from __future__ import annotations

import os.path
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

OUTSIDE = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmark.md",
}
"""The pages outside of `docs/`, and their names in the site."""

SOURCES = {name: source for source, name in OUTSIDE.items()}

LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")
"""A link to a file of the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of `docs/`."""
    for source, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_others: object) -> str:
    """Turn each link of a page into one that holds in the site."""
    name = page.file.src_uri
    source = SOURCES.get(name, f"docs/{name}")

    def adapted(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
        inside = OUTSIDE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if inside is None:
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            return f"{config.repo_url}/{kind}/main/{target}{link['anchor'] or ''}"
        return os.path.relpath(inside, posixpath.dirname(name) or ".") + (link["anchor"] or "")

    return LINK.sub(adapted, markdown)
