"""Picture files of every depth: right, or refused by name; and what is said of them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tokenreduce.errors import OptionError
from tokenreduce.tasks.batches import open_image
from tokenreduce.tasks.pictures import CLEAR, DEEP, MOVING, read_image

RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)


def check_ramp(path):
    pixels = np.asarray(open_image(path))
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels[..., 0] / 255 - RAMP).max() <= 0.5 / 255 + 1e-4 and (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("r.png", (RAMP * 65535).round().astype(np.uint16)),
        ("r.tif", (RAMP * 65535).round().astype(np.uint16)),
        ("i.tif", (RAMP * 65535).round().astype(np.int32)),
        ("b.tif", (RAMP * 255).round().astype(np.int32)),
        ("f.tif", RAMP.astype(np.float32)),
        ("g.tif", (RAMP * 255).astype(np.float32)),
        ("r.pgm", (RAMP * 65535).round().astype(np.int32)),
    ],
)
def test_more_than_eight_bits_are_scaled(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    check_ramp(tmp_path / name)
    assert read_image(tmp_path / name)[1] == (DEEP,)


def test_sixteen_bits_a_colour(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0x8000, 0xFFFF) for _ in range(2))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "c.png").write_bytes(png)
    image, done = read_image(tmp_path / "c.png")
    assert (
        done == (DEEP,) and image.getpixel((0, 0)) == (0x12, 0x56, 0x9A) and image.getpixel((1, 0)) == (0, 0x80, 0xFF)
    )


def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert np.asarray(open_image(tmp_path / "dark.png")).max() == 1


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 4), -1.0, dtype=np.float32),
        np.full((4, 4), np.nan, dtype=np.float32),
        np.full((4, 4), np.inf, dtype=np.float32),
        np.full((4, 4), 3000.0, dtype=np.float32),
        np.full((4, 4), 100_000, dtype=np.int32),
        np.full((4, 4), -5, dtype=np.int32),
    ],
)
def test_numbers_of_no_known_range_are_refused_by_name(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(OptionError, match=r"x\.tif.*its numbers go from"):
        open_image(tmp_path / "x.tif")


def test_transparency_and_frames_are_told(tmp_path):
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 255))
    image.save(tmp_path / "opaque.png")
    image.putpixel((0, 0), (1, 2, 3, 0))
    image.save(tmp_path / "clear.png")
    frames = [Image.new("L", (4, 4), value) for value in (0, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "opaque.png")[1] == ()
    assert read_image(tmp_path / "clear.png")[1] == (CLEAR,)
    assert read_image(tmp_path / "moving.gif")[1] == (MOVING,)


def test_no_other_program_is_started_to_draw_a_picture(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(OptionError, match="drawn by another program"):
        open_image(tmp_path / "x.png")
