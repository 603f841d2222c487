"""One self-contained HTML page: no request goes out of it, and no text of data becomes code."""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from topk_plugin.base.files import atomic_write

UPLOT_SCRIPT, UPLOT_STYLE = "uplot/uPlot.iife.min.js", "uplot/uPlot.min.css"

TOOLBAR = """<div class="toolbar" role="group" aria-label="How the curves are shown">
<label>smoothing
<input id="smoothing" type="range" min="0" max="0.99" step="0.01" value="0.6"></label>
<label>from step <input id="from" type="range" min="0" max="1000" value="0"></label>
<label>to step <input id="to" type="range" min="0" max="1000" value="1000"></label>
<span id="in-view"></span>
<label><input id="log" type="checkbox"> log scale</label>
<button id="reset" type="button">whole run</button>
</div>
<p class="faint">Dragging over a chart zooms all of them, a double click goes back. The faint
line is what was logged; smoothing is an exponential mean, as in TensorBoard.</p>
"""


@dataclass
class Section:
    """A part of the page.

    Attributes:
        key: of its anchor, and the group of the charts, heatmaps and sliders that belong here.
        title: its heading.
        html: what comes first, escaped already.
        charts, heatmaps, sliders: what page.js draws below, as it wants them.
    """

    key: str
    title: str
    html: str = ""
    charts: list[dict[str, Any]] = field(default_factory=list)
    heatmaps: list[dict[str, Any]] = field(default_factory=list)
    sliders: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.html or self.charts or self.heatmaps or self.sliders)


def write_page(path: Path, title: str, intro: str, sections: Sequence[Section]) -> int:
    """Write the page, atomically; returns its size in bytes.

    Args:
        path: of the HTML file.
        title: as text.
        intro: what stands under the title, as HTML, escaped already.
        sections: empty ones are left out.

    Raises:
        UserError: the file can't be written.
    """
    text = page(title, intro, [section for section in sections if not section.is_empty])
    content = text.encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def page(title: str, intro: str, sections: Sequence[Section]) -> str:
    """The page's HTML; see :func:`write_page`."""
    scripts = [_asset(UPLOT_SCRIPT), _asset("page.js")]
    style = _asset(UPLOT_STYLE) + "\n" + _asset("page.css")
    # nothing but what is written here may run, and nothing may be fetched
    allowed = " ".join(f"'{_digest(script)}'" for script in scripts)
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src {allowed}"
    )
    # the controls of all curves, above the first of them
    first = next((section for section in sections if section.charts), None)
    links = "".join(f'<a href="#{s.key}">{escape(s.title)}</a>' for s in sections)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # else a browser asks the server for an icon
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        intro,
        "<noscript><p>Curves and pictures need JavaScript, which this page brings itself.</p>"
        "</noscript>",
        f"<nav>{links}</nav>",
        *(_section(section, toolbar=section is first) for section in sections),
        f'<script type="application/json" id="data">{_data(sections)}</script>',
        *(f"<script>{script}</script>" for script in scripts),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(section: Section, *, toolbar: bool) -> str:
    kind = "" if section.sliders else ' class="charts"'
    drawn = section.charts or section.heatmaps or section.sliders
    place = f'<div{kind} data-group="{section.key}"></div>' if drawn else ""
    heading = f'<h2 id="{section.key}">{escape(section.title)}</h2>'
    # no element around it all: the toolbar stays in view for all sections that follow
    return f"{heading}\n{section.html}{TOOLBAR if toolbar else ''}{place}"


def _data(sections: Sequence[Section]) -> str:
    """What page.js reads, as JSON that no HTML can end."""
    content: dict[str, Any] = {
        name: [{"group": s.key, **each} for s in sections for each in getattr(s, name)]
        for name in ("charts", "heatmaps", "sliders")
    }
    steps = [x for c in content["charts"] for s in c["series"] for x in s["x"]]
    steps += [x for h in content["heatmaps"] for x in (*h["x"], h["end"])]
    content["steps"] = [min(steps, default=0), max(steps, default=1)]
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    text = resources.files("topk_plugin.report").joinpath("assets", name).read_text("utf-8")
    assert "</script" not in text
    assert "</style" not in text
    return text.strip()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# --- pieces that sections are made of ----------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, which are escaped here."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    inside = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def paragraph(text: str, *, faint: bool = False) -> str:
    """A text, escaped here."""
    kind = ' class="faint"' if faint else ""
    return f"<p{kind}>{escape(text)}</p>"


def folded(summary: str, html: str) -> str:
    """HTML that is shown on a click."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def numbers(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON: 5 significant digits, None for what is not finite."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]


def steps_of(values: Iterable[float]) -> list[int]:
    """Steps for JSON."""
    return [int(value) for value in values]


def data_uri(encoded: bytes) -> str:
    """A picture inside the page."""
    kind = "webp" if encoded[8:12] == b"WEBP" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
