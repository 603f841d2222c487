"""A hook of MkDocs: links to folders and files of the repository that are no pages."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Lead a folder's link to its README; leave of a link to what the site lacks the text alone."""
    folder = (ROOT / page.file.src_uri).parent

    def rewritten(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        place = (folder / target).resolve()
        if (place / "README.md").is_file():
            place, target = place / "README.md", f"{target.rstrip('/')}/README.md"
        if not place.exists():
            return link[0]  # MkDocs warns of it
        found = files.get_file_from_path(place.relative_to(ROOT).as_posix())
        if found is None or found.inclusion.is_excluded():
            return text
        return f"[{text}]({target}{anchor})"

    return LINK.sub(rewritten, markdown)
