"""What every drawing of this package shares: how matplotlib is set up, and a figure as SVG that a page can hold."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from ..errors import PluginError
from .formatting import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, RULE, PAPER = "#1b1d22", "#5d626d", "#d9dbe0", "#ffffff"
LINES = ("#0b62a8", "#c04a00", "#00795a", "#9a3d8d", "#8f6a00", "#b8324f", "#3a7f92", "#6150c4")
# Drawn in the colours of a bright page; in a page each one is a variable that a dark page sets otherwise.
VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--line", PAPER: "--paper"}
VARIABLES |= {colour: f"--c{place}" for place, colour in enumerate(LINES)}
FONT = "DejaVu Sans"  # comes with matplotlib
STYLE = {
    "figure.dpi": 72,  # a point is a pixel
    "font.family": [FONT],
    "font.size": 11.5,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.labelsize": 11.5,
    "axes.titlesize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "ytick.left": False,
    "path.simplify": False,
    "svg.fonttype": "none",
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
SAID = "said: "


@contextmanager
def look() -> Iterator[None]:
    """Matplotlib as every drawing here has it, whatever the user's own settings are.

    Raises:
        PluginError: matplotlib is not installed.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure  # noqa: F401  (half an installation is none)
    except ImportError as error:
        raise PluginError(f"drawing needs matplotlib ({error}): pip install 'tokenreduce[lab]'") from error
    with style.context(STYLE, after_reset=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that no font here has
        yield


def say(words: str) -> str:
    """A ``gid`` for an artist: these words show where the mouse rests on it."""
    return SAID + clean(words)


def inline_svg(figure: Figure, words: str, key: str, class_: str = "chart", image: str = "") -> str:
    """The figure as ``<svg>`` in a page: text as text, colours as CSS variables, no id that another drawing has.

    Args:
        words: what it shows, for those who do not see it; "" for an ornament.
        key: of this drawing, unique in the page.
        image: id of an image elsewhere in the page that lies beneath it.
    """
    from matplotlib import rc_context

    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": key}):
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    made = ET.fromstring(stream.getvalue())
    named = " ".join(value for part in made.iter() for name, value in part.items() if name != "id")
    used = set(re.findall(r"#([\w-]+)", named))
    seen = {"role": "img", "aria-label": clean(words)} if words else {"aria-hidden": "true"}
    root = ET.Element(f"{{{SVG}}}svg", {"class": class_, "viewBox": made.attrib["viewBox"], **seen})
    if image:
        ET.SubElement(root, f"{{{SVG}}}use", {"href": f"#{image}"})
    root.extend(list(made))
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata")]:
            parent.remove(child)
        _tidy(parent, used)
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    return ET.tostring(root, encoding="unicode")


def _tidy(element: ET.Element, used: set[str]) -> None:
    """Colours as variables, the page's font, numbers short, ids only where something refers to them."""
    element.text, element.tail = (element.text or "").strip() or None, None
    own = element.attrib.get("id", "")
    if own not in used:
        element.attrib.pop("id", None)
    if own.startswith(SAID):
        title = ET.Element(f"{{{SVG}}}title")
        title.text = own.removeprefix(SAID)
        element.insert(0, title)
    if "style" in element.attrib:
        style = element.attrib["style"].replace(f"'{FONT}'", "system-ui, sans-serif")
        element.attrib["style"] = re.sub("#[0-9a-f]{6}", lambda m: _variable(m[0]), style)
    for name in ("d", "x", "y", "transform"):
        if name in element.attrib:
            element.attrib[name] = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(element.attrib[name].split()))


def _variable(colour: str) -> str:
    return f"var({VARIABLES[colour]}, {colour})" if colour in VARIABLES else colour


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many pixels of a page."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72))
