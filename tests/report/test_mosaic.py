"""A picture in several pieces as one: every token at its place."""

import pytest
import torch

from tokenreduce.errors import UnsupportedCallError
from tokenreduce.report.mosaic import mosaic
from tokenreduce.report.regions import BLANK, regions
from tokenreduce.tasks import Tile


def tile(shade, row, column, size=(8, 8)):
    return Tile(torch.full((3, *size), shade), row, column)


def test_every_token_is_at_its_place_and_between_the_pieces_there_is_none():
    tiles = [tile(0.25, 0, 1), tile(0.5, 0, 0, (8, 12))]  # the whole picture first, at the right; 2 x 3 cells of detail
    image, grid, owner = mosaic(tiles, [(1, 1), (2, 3)], [7, 0, -1, 1, 1, 2, 3])
    assert grid == (2, 5)
    assert owner == [0, -1, 1, BLANK, 7, 1, 2, 3, BLANK, BLANK]
    found = regions(grid, owner)
    assert (found.patches, len(found.kept), len(found.gone), found.left) == (7, 4, 1, 5)
    assert found.merged == (((0, 2), (1, 0)),)
    side = image.shape[1] // 2
    assert (image[:, :, : 3 * side] == 0.5).all() and (image[:, :side, 4 * side :] == 0.25).all()
    assert (image[:, :, 3 * side : 4 * side] == 1).all() and (image[:, side:, 4 * side :] == 1).all()


@pytest.mark.parametrize(("count", "grids"), [(1, [(1, 1), (2, 2)]), (2, [(1, 1), (2, 3)]), (0, [(1, 5)])])
def test_pieces_that_are_not_those_of_the_tokens_are_refused(count, grids):
    with pytest.raises(UnsupportedCallError, match=r"5 tokens in grids of .*no patch can be named"):
        mosaic([tile(0.5, 0, place) for place in range(count)], grids, [0, 1, 2, 3, 4])
