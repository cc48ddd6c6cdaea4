"""Draw the pictures of how-reduction-works.md: ``python docs/pictures/draw.py`` writes the SVG files beside it.

Each picture lies on a light card of its own, so that it reads alike on white and on dark pages.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
CARD, EDGE, INK, SOFT = "#f7f8fa", "#c9cdd4", "#1b1d22", "#555b66"
IMAGE, TEXT, PROTECTED, PADDING, ACCENT, PLAIN = "#cfe3fb", "#d9efd3", "#ffe3ae", "#e4e6ea", "#b3261e", "#ffffff"
BOX, GAP = 38, 6


def words(
    x: float, y: float, what: str, anchor: str = "start", color: str = INK, size: float = 14, more: str = ""
) -> str:
    """A line of text; ``y`` is its base line."""
    style = f'text-anchor="{anchor}" fill="{color}" font-size="{size:g}"{more}'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(what)}</text>'


def box(
    x: float, y: float, width: float, height: float, fill: str, *lines: str, edge: str = SOFT, dash: str = ""
) -> str:
    """A box with lines of text in its middle."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    shape = f'<rect {place} rx="5" fill="{fill}" stroke="{edge}"{dashed}/>'
    first = y + height / 2 + 5 - 9 * (len(lines) - 1)
    return shape + "".join(words(x + width / 2, first + 18 * i, line, "middle") for i, line in enumerate(lines))


def arrow(*points: tuple[float, float], color: str = SOFT) -> str:
    """A line through the points with a head at the last, which the line reaches straight."""
    (x0, y0), (x, y) = points[-2:]
    path = " ".join(f"{a:g},{b:g}" for a, b in points)
    if y == y0:
        step = 7 if x > x0 else -7
        head = f"{x:g},{y:g} {x - step:g},{y - 4:g} {x - step:g},{y + 4:g}"
    else:
        step = 7 if y > y0 else -7
        head = f"{x:g},{y:g} {x - 4:g},{y - step:g} {x + 4:g},{y - step:g}"
    line = f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    return line + f'<polygon points="{head}" fill="{color}"/>'


def token(x: float, y: float, name: str, size: int = 1) -> str:
    """One token: C is protected, _ is padding, letters are text, digits the image; its size where it is not 1."""
    kind = PROTECTED if name == "C" else PADDING if name == "_" else TEXT if name[0].isalpha() else IMAGE
    wide = " " not in name
    drawn = box(x, y, BOX, BOX, kind, "" if name == "_" else name if wide else "", dash="3 3" if name == "_" else "")
    if not wide:
        drawn += words(x + BOX / 2, y + BOX / 2 + 5, name.replace(" ", "+"), "middle")
    if size > 1:
        drawn += f'<circle cx="{x + BOX - 1:g}" cy="{y + 1:g}" r="9" fill="{ACCENT}"/>'
        drawn += words(x + BOX - 1, y + 5, str(size), "middle", "#ffffff", 12)
    return drawn


def row(x: float, y: float, names: list[str], sizes: bool = True) -> str:
    """Tokens side by side; ``"1 3"`` stands for both."""
    return "".join(token(x + i * (BOX + GAP), y, n, len(n.split()) if sizes else 1) for i, n in enumerate(names))


def picture(name: str, width: int, height: int, title: str, desc: str, *inside: str) -> None:
    """Write one file."""
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="t d" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">\n'
        f'<title id="t">{escape(title)}</title>\n<desc id="d">{escape(desc)}</desc>\n'
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" fill="{CARD}" stroke="{EDGE}"/>\n'
    )
    (HERE / f"{name}.svg").write_text(text + "\n".join(inside) + "\n</svg>\n", encoding="utf-8")


def site() -> None:
    """Where the site lies in a block, and the tokens on the way through the stack."""
    parts = [
        words(24, 34, "One block", more=' font-weight="bold"'),
        arrow((24, 80), (80, 80)),
        words(50, 70, "17", "middle", SOFT),
        box(80, 55, 190, 50, PLAIN, "attention", "and its residual"),
        arrow((270, 80), (322, 80)),
        words(296, 70, "17", "middle", SOFT),
        box(322, 55, 116, 50, "#fbdcd9", "site", "the reducer acts", edge=ACCENT),
        arrow((438, 80), (490, 80)),
        words(464, 70, "15", "middle", ACCENT),
        box(490, 55, 190, 50, PLAIN, "MLP", "and its residual"),
        arrow((680, 80), (736, 80)),
        words(708, 70, "15", "middle", ACCENT),
        words(24, 150, "Tokens in a stack of four blocks, two fewer at each site", more=' font-weight="bold"'),
    ]
    base, tall = 310, 7
    for block in range(4):
        before, after, x = 17 - 2 * block, 15 - 2 * block, 24 + 181 * block
        for count, left, fill, label in ((before, x, IMAGE, "attention"), (after, x + 82, "#fbdcd9", "MLP")):
            parts.append(box(left, base - tall * count, 76, tall * count, fill, edge=SOFT if fill == IMAGE else ACCENT))
            parts.append(words(left + 38, base - tall * count - 6, str(count), "middle"))
            parts.append(words(left + 38, base + 18, label, "middle", SOFT, 13))
        parts.append(words(x + 79, base + 40, f"block {block}", "middle"))
    desc = (
        "Above, a block: attention with its residual takes 17 tokens, then comes the site, where the reducer leaves "
        "15, and the MLP takes these 15. Below, four blocks: attention sees 17, 15, 13 and 11 tokens, the MLPs see "
        "15, 13, 11 and 9."
    )
    picture("site", 760, 370, "Where the site lies in a block", desc, *parts)


def reductions() -> None:
    """Drop, merge and fuse on one row of tokens."""
    left = 230
    before = ["C", "1", "2", "3", "4", "5", "_"]
    parts = [words(24, 58, "before"), row(left, 34, before)]
    parts += [
        words(570, 50, "C: protected", color=SOFT, size=13),
        words(570, 68, "dashed: padding", color=SOFT, size=13),
    ]
    rows = [
        ("drop", "two go: padding, and 2", ["C", "1", "3", "4", "5"], "random, DynamicViT, PuMer"),
        ("merge", "padding goes, 2 joins 1", ["C", "4", "1 2", "3", "5"], "ToMe, PuMer"),
        ("fuse", "2 and 3 make a new token", ["C", "4", "1", "5", "2 3"], "EViT"),
    ]
    for i, (name, how, after, who) in enumerate(rows):
        y = 110 + 76 * i
        parts += [words(24, y + 17, name, more=' font-weight="bold"'), words(24, y + 36, how, color=SOFT, size=13)]
        parts += [row(left, y, after), words(570, y + 24, who, color=SOFT, size=13)]
    desc = (
        "A row of a protected token C, image tokens 1 to 5 and one padding token. Drop removes the padding and token "
        "2. Merge removes the padding and folds 2 into 1, which then has size 2. Fuse removes the padding and makes "
        "one new token of size 2 from 2 and 3 at the end. C stays in front each time."
    )
    picture("reductions", 760, 340, "Drop, merge and fuse", desc, *parts)


def endings() -> None:
    """What the rest of the model is given, one row per output of a stack."""
    parts = [
        words(110, 34, "tokens at the start"),
        words(390, 34, "left at the end"),
        words(590, 34, "given to the rest of the model"),
    ]
    rows = [
        ("reduced", ["C", "1", "2", "3", "4"], ["C", "1 3", "4"], ["C", "1 3", "4"], "the head reads C only"),
        ("repeated", ["1", "2", "3", "4"], ["1 3", "2", "4"], ["1 3", "2", "1 3", "4"], "the head averages all tokens"),
        (
            "text",
            ["C", "a", "b", "1", "2", "3"],
            ["C", "a b", "1 3"],
            ["C", "a b", "a b", "1 3"],
            "the head reads text tokens",
        ),
        (
            "full",
            ["C", "1", "2", "3", "4"],
            ["C", "1 3", "4"],
            ["C", "1 3", "2", "1 3", "4"],
            "the head reads every token",
        ),
    ]
    for i, (name, first, left, given, why) in enumerate(rows):
        y = 54 + 84 * i
        parts += [words(24, y + 24, name, more=' font-weight="bold"'), row(110, y, first), row(390, y, left)]
        parts += [arrow((540, y + 19), (575, y + 19)), row(590, y, given, sizes=name == "reduced")]
        parts.append(words(590, y + 57, why, color=SOFT, size=13))
    desc = (
        "Four outputs of a stack. Reduced: the tokens that are left. Repeated: merged tokens once for each of their "
        "members. Text: text tokens restored to their original positions, then what is left of the image. Full: every "
        "token restored to its original position, merged ones with their common value, dropped ones with the last "
        "value that they had."
    )
    picture("endings", 840, 400, "What the rest of the model is given", desc, *parts)


def attach() -> None:
    """Attach, proof, detach."""
    parts = [
        words(24, 34, "attach", more=' font-weight="bold"'),
        box(24, 50, 150, 60, PLAIN, "adapter:", "stacks and views"),
        arrow((174, 80), (204, 80)),
        box(204, 50, 150, 60, PLAIN, "bind reducer:", "options and layers"),
        arrow((354, 80), (384, 80)),
        box(384, 50, 150, 60, "#fff1d3", "proof: view", "equals block?"),
        arrow((534, 80), (584, 80)),
        words(558, 72, "yes", "middle", SOFT, 13),
        box(584, 50, 152, 60, "#fbdcd9", "replace forward", "on this instance", edge=ACCENT),
        arrow((459, 110), (459, 150)),
        words(467, 135, "no", color=SOFT, size=13),
        box(354, 150, 210, 44, PLAIN, "an error; model untouched"),
        arrow((660, 110), (660, 226)),
        words(24, 218, "while attached", more=' font-weight="bold"'),
        box(
            204,
            226,
            532,
            60,
            IMAGE,
            "model(...): each pass makes its own state,",
            "blocks are called as usual, the engine computes them",
        ),
        arrow((660, 286), (660, 330)),
        words(24, 322, "detach", more=' font-weight="bold"'),
        box(204, 330, 532, 44, PLAIN, "delete the replacements: the class's forward is in force again"),
    ]
    desc = (
        "Attach finds an adapter, which gives stacks and views, binds the reducer to a stack and layers, and proves "
        "that each view computes what its block computes. If not, it raises an error and the model is untouched. If "
        "so, it replaces forward on this instance. Each pass then makes its own state. Detach deletes the replacements."
    )
    picture("attach", 760, 396, "Attach, proof, detach", desc, *parts)


if __name__ == "__main__":
    site()
    reductions()
    endings()
    attach()
