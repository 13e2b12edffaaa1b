"""The hooks of ``mkdocs.yml``; mkdocs loads this file alone."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put all decisions into the last section of the navigation; called by mkdocs."""
    folder = Path(config.docs_dir)
    assert config.nav is not None
    (section,) = config.nav[-1].values()
    section.append(
        {"Decisions": [each.relative_to(folder).as_posix() for each in sorted(folder.glob("decisions/*.md"))]}
    )
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave the words of links to files outside of ``docs/``, which the site does not have; called by mkdocs."""
    folder = PurePosixPath(page.file.src_uri).parent

    def keep(link: re.Match[str]) -> str:
        inside = not posixpath.normpath(folder / link[2]).startswith("..")
        return link[0] if inside else link[1]

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)\)", keep, markdown)
