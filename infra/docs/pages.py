"""A hook of mkdocs: add the pages that are made from the code, and write llms.txt.

`docs/` holds what people write. What follows from the code (commands, files, presets, the Python
API, the changelog) is made here at each build, so that it cannot differ from the code.
"""

import re
from pathlib import Path
from typing import Any

import command_pages
import llms
import settings_pages
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
_OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)\)")  # a link to a file of the repository


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code, and the files outside docs/ that pages link to."""
    made = {
        "reference/commands.md": command_pages.commands(),
        "reference/python.md": command_pages.python(),
        "reference/analysis.md": settings_pages.analysis(),
        "reference/training.md": settings_pages.training(),
        "reference/presets.md": settings_pages.presets(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text("utf-8").replace("](docs/", "]("),
    }
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    pages = sorted(Path(config.docs_dir).glob("*.md"))
    for name in sorted({name for page in pages for name in _OUTSIDE.findall(page.read_text())}):
        if (path := ROOT / name).is_file():  # mkdocs warns of the others
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files outside docs/ lead to their copies in the site."""
    made_in_a_folder = "/" in page.file.src_uri  # whose links to docs/ begin with ../
    return markdown if made_in_a_folder else _OUTSIDE.sub(r"](\1)", markdown)


def on_nav(nav: Any, **_: Any) -> Any:
    """Keep the navigation for llms.txt."""
    llms.remember(nav)
    return nav


def on_post_build(config: Any) -> None:
    """Write llms.txt, and beside each page its Markdown, which llms.txt links to."""
    llms.write(Path(config.site_dir), config.site_name, config.site_description)
