"""Regions of a grid: sorting, outlines, colours."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce.report.regions import colours, outline, regions

LAWS = settings(deadline=None, database=None, derandomize=True, max_examples=60)
GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda grid: st.tuples(
        st.just(grid), st.lists(st.integers(-1, 6), min_size=grid[0] * grid[1], max_size=grid[0] * grid[1])
    )
)


@LAWS
@given(GRIDS)
def test_every_patch_is_in_one_place(drawn):
    grid, owner = drawn
    found = regions(grid, owner)
    cells = [*found.kept, *found.gone, *(cell for cells in found.merged for cell in cells)]
    assert sorted(cells) == [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    assert found.left == len(set(owner) - {-1})
    assert all(len(cells) > 1 for cells in found.merged)


@LAWS
@given(GRIDS)
def test_an_outline_has_the_length_of_the_border(drawn):
    grid, owner = drawn
    for cells in regions(grid, owner).merged:
        inside = set(cells)
        sides = sum((r + a, c + b) not in inside for r, c in cells for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        pieces = outline(cells)
        assert len(pieces) == sides and all(abs(x1 - x0) + abs(y1 - y0) == 1 for x0, y0, x1, y1 in pieces)


@LAWS
@given(GRIDS)
def test_an_inset_outline_is_closed(drawn):
    grid, owner = drawn
    for cells in regions(grid, owner).merged:
        ends = [(round(x, 6), round(y, 6)) for x0, y0, x1, y1 in outline(cells, 0.1) for x, y in ((x0, y0), (x1, y1))]
        assert all(ends.count(end) % 2 == 0 for end in ends)


@LAWS
@given(GRIDS)
def test_neighbours_differ_in_colour_where_there_are_enough(drawn):
    grid, owner = drawn
    groups = regions(grid, owner).merged
    chosen = colours(groups)
    at = {cell: number for number, cells in enumerate(groups) for cell in cells}
    for (row, column), number in at.items():
        for other in ((row, column + 1), (row + 1, column), (row + 1, column + 1), (row + 1, column - 1)):
            if other in at and at[other] != number:
                assert chosen[at[other]] != chosen[number]


def test_counts_in_words():
    found = regions((2, 3), [-1, 4, 4, 4, 7, -1])
    assert found.counts() == ("1 kept", "3 merged into 1", "2 gone")
    assert str(regions((1, 2), [0, 1])) == "2 kept"
