"""Fonts for letters that matplotlib's own font does not have: whichever installed ones have them."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from .canvas import FONT


def families(text: str) -> list[str]:
    """Names of fonts that between them have the letters of a text, as far as installed ones do; the usual one first."""
    from matplotlib import font_manager

    manager, found = font_manager.fontManager, [FONT]
    missing = {letter for letter in text if not letter.isspace()} - _letters(font_manager.findfont(FONT))
    if missing:
        known = {entry.fname for entry in manager.ttflist}
        for path in sorted(set(font_manager.findSystemFonts()) - known):  # installed since matplotlib last looked
            with suppress(Exception):  # fonts break in many ways
                manager.addfont(path)
    fonts = {entry.fname: entry.name for entry in manager.ttflist if "Last Resort" not in entry.name}
    while missing:
        best = max(fonts, key=lambda path: (len(missing & _letters(path)), "Sans" in fonts[path], path))
        if not missing & _letters(best):
            break
        found.append(fonts[best])
        missing -= _letters(best)
    return found


@cache
def _letters(path: str) -> frozenset[str]:
    """What a font can draw; nothing where it is made of pixels, as many an emoji font is, or cannot be read."""
    from matplotlib.ft2font import FT2Font

    with suppress(Exception):
        font = FT2Font(path)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    return frozenset()
