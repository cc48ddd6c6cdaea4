"""Picture files as RGB with 8 bits, and what had to be done to them. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, PluginError

if TYPE_CHECKING:
    from PIL.Image import Image

DEEP = "more than 8 bits a pixel, scaled to 8"
CLEAR = "transparent parts, of which the colour beneath is taken"
MOVING = "several frames, of which the first is taken"


def open_image(path: str | Path) -> Image:
    """A picture in RGB, turned as its camera says; more than 8 bits a pixel are scaled to 8.

    Raises:
        OptionError: the file cannot be read as a picture.
        PluginError: pillow is not installed.
    """
    return read_image(path)[0]


def read_image(path: str | Path) -> tuple[Image, tuple[str, ...]]:
    """The same, and what was done to it: :data:`DEEP`, :data:`CLEAR`, :data:`MOVING`."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise PluginError("opening pictures needs pillow: pip install pillow") from error
    try:
        with Image.open(path) as file:
            if file.format == "EPS":
                raise ValueError("EPS is drawn by another program, which is not started here")
            moving = getattr(file, "n_frames", 1) > 1
            deep = any(
                ";16" in str(tile[-1]) for tile in file.tile
            )  # of a colour picture pillow takes the upper 8 bits
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(("I", "F")):
                return _eight_bits(image, file.format == "PNG"), (DEEP, *(MOVING,) * moving)
            image = image.convert("RGBA") if "transparency" in image.info else image
            clear = image.mode in ("RGBA", "LA", "PA") and min(image.getchannel("A").tobytes(), default=255) < 255
            return image.convert("RGB"), (*(DEEP,) * deep, *(CLEAR,) * clear, *(MOVING,) * moving)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OptionError(
            f"expected a picture at {path}, which cannot be read as one ({type(error).__name__}: {error}); "
            "replace the file or take its line out"
        ) from error


def _eight_bits(image: Image, sixteen: bool) -> Image:
    """One channel of whole or floating-point numbers as RGB.

    Whole numbers are of 16 bits where the file says so or one is above 255, floating-point numbers are of 0 to 1, or of
    0 to 255 where one is above 1.

    Raises:
        ValueError: numbers outside of these.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    least, most = float(values.min()), float(values.max())  # NaN, if there is one
    if image.mode.startswith("I"):
        full = 65535 if sixteen or image.mode.startswith("I;16") or most > 255 else 255
    else:
        full = 1 if most <= 1 else 255
    if not 0 <= least <= most <= full:
        raise ValueError(f"its numbers go from {least:g} to {most:g}; 0 to 1, 255 or 65535 can be told")
    return Image.fromarray((values * (255 / full)).round().astype(np.uint8)).convert("RGB")


def size_of(image: Any) -> str:
    """``"300x200 pixels"``."""
    return f"{image.width}x{image.height} pixels"
