"""Drawings for the pages: matplotlib lays them out, the page gives them colours and letters.

Text stays text and colours are names of the page's own, so that a drawing is at home in light and dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 400
"""In the units of the drawings, which grow and shrink with their place on the page."""
N_COLORS = 8
DASHES = ((1, 0), (5, 2), (1, 2), (7, 2, 1, 2))
"""Lines of all colours are solid first, then of the next dashes."""

# matplotlib knows colours by value alone; these stand for what the page's style sheet names.
INK, QUIET, LINE, PANEL, ACCENT = (f"#f1000{at}" for at in range(5))
_PAGE = dict(zip((INK, QUIET, LINE, PANEL, ACCENT), ("ink", "quiet", "line", "panel", "accent"), strict=True))
_PAGE |= {f"#f0000{at}": f"series-{at}" for at in range(N_COLORS)}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "triptych",
    "text.parse_math": False,
    "font.size": 12,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-5, 6),
    "axes.facecolor": "none",
    "grid.color": LINE,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


def color(at: int) -> str:
    """Name the colour of a series for matplotlib."""
    return f"#f0000{at % N_COLORS}"


def dashes(at: int) -> tuple[int, ...]:
    """Give the dashes of a series: lengths of line and gap in turn."""
    return DASHES[at // N_COLORS % len(DASHES)]


def draw_svg(name: str, title: str, says: str, draw: Callable[[Axes], None], height: int) -> str:
    """Draw something as an element of an HTML page; the same input gives the same text.

    Args:
        name: keeps its ids apart from those of other drawings.
        title: of the drawing.
        says: all of it in words, for those who do not see it.
        draw: fills the axes, in colours of this module.
        height: in the units of `WIDTH`.
    """
    return draw_figure_svg(name, title, says, lambda figure: draw(figure.add_subplot()), height)


def draw_figure_svg(name: str, title: str, says: str, draw: Callable[[Figure], None], height: int) -> str:
    """Draw several axes as one element; all else as `draw_svg`, `draw` making the axes it fills."""
    from matplotlib import style
    from matplotlib.figure import Figure

    file = io.StringIO()
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the page has fonts of its own
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = ElementTree.fromstring(file.getvalue())  # noqa: S314 (it is matplotlib's own)
    for element in svg.iter():
        for child in [child for child in element if child.tag.endswith(("metadata", "style"))]:
            element.remove(child)
        element.tag = _bare(element.tag)
        element.attrib = {_bare(key): _at_home(_bare(key), of, name) for key, of in element.attrib.items()}
    svg.attrib = {"class": "chart", "viewBox": svg.attrib["viewBox"], "role": "img",
                  "aria-labelledby": f"{name}-title {name}-desc"}  # fmt: skip
    for tag, text in (("desc", says), ("title", title)):
        words = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        words.text = text
        svg.insert(0, words)
    return ElementTree.tostring(svg, encoding="unicode")


def _bare(name: str) -> str:
    """Take off a namespace, of which HTML knows none."""
    return name.rpartition("}")[2]


def _at_home(attribute: str, value: str, name: str) -> str:
    """Put the page's colours in place of ours, and the drawing's name before its ids."""
    if attribute == "id":
        return f"{name}-{value}"
    if attribute == "href":
        return value.replace("#", f"#{name}-")
    value = value.replace("url(#", f"url(#{name}-")
    return re.sub("#f[01]000[0-9]", lambda found: f"var(--{_PAGE[found[0]]})", value)
