"""Patches with the same owner as regions of a picture: which they are, their outlines, and colours for them.

A cell is (row, column); coordinates are in cells, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

Cell = tuple[int, int]
Segment = tuple[float, float, float, float]

BLANK = -2
"""Owner of a cell in which there is no patch: between the tiles of a mosaic."""

# Colours that stay apart for colour-blind eyes and on dark and bright pictures (after Okabe and Ito).
PALETTE = ("#56b4e9", "#e69f00", "#00b183", "#f0e442", "#e0619f", "#e8542a", "#9b7bff")


@dataclass(frozen=True)
class Regions:
    """The patches of a picture by what became of them.

    Args:
        kept: cells of patches that are a token of their own.
        merged: cells of each token that several patches share, the largest first.
        gone: cells of patches that no token stands for.
    """

    kept: tuple[Cell, ...]
    merged: tuple[tuple[Cell, ...], ...]
    gone: tuple[Cell, ...]

    @property
    def left(self) -> int:
        """Tokens that stand for patches."""
        return len(self.kept) + len(self.merged)

    @property
    def patches(self) -> int:
        """Patches that the model was given."""
        return len(self.kept) + sum(map(len, self.merged)) + len(self.gone)

    def counts(self) -> tuple[str, str, str]:
        """How many were kept, merged and dropped, in words."""
        patches = sum(map(len, self.merged))
        return f"{len(self.kept)} kept", f"{patches} merged into {len(self.merged)}", f"{len(self.gone)} gone"

    def __str__(self) -> str:
        """Those counts that are not 0."""
        return ", ".join(words for words in self.counts() if not words.startswith("0 "))


def regions(grid: tuple[int, int], owner: Sequence[int]) -> Regions:
    """Sort the patches by owner.

    Args:
        grid: rows and columns.
        owner: for each patch in raster order its token, or -1; :data:`BLANK` where there is no patch.
    """
    members: dict[int, list[Cell]] = {}
    for place, token in enumerate(owner):
        if token != BLANK:
            members.setdefault(token, []).append(divmod(place, grid[1]))
    gone = members.pop(-1, [])
    kept = [cells[0] for cells in members.values() if len(cells) == 1]
    merged = sorted((cells for cells in members.values() if len(cells) > 1), key=lambda cells: (-len(cells), cells))
    return Regions(tuple(kept), tuple(tuple(cells) for cells in merged), tuple(gone))


def outline(cells: Collection[Cell], inset: float = 0.0) -> list[Segment]:
    """The border of a region, ``inset`` cells inside it, as pieces (x0, y0, x1, y1).

    Pieces meet at the corners, so that the borders of neighbouring regions lie side by side.
    """
    inside = set(cells)
    pieces: list[Segment] = []
    for row, column in sorted(inside):
        for step in (-1, 1):
            for across in (False, True):
                if _shift((row, column), step, 0, across) in inside:
                    continue
                ends = []
                for side in (-1, 1):
                    if _shift((row, column), 0, side, across) not in inside:
                        move = -inset  # turns away: stop short
                    elif _shift((row, column), step, side, across) in inside:
                        move = inset  # turns towards: go on
                    else:
                        move = 0.0
                    ends.append((side > 0) + side * move)
                level = inset if step < 0 else 1 - inset
                if across:
                    pieces.append((column + level, row + ends[0], column + level, row + ends[1]))
                else:
                    pieces.append((column + ends[0], row + level, column + ends[1], row + level))
    return pieces


def _shift(cell: Cell, step: int, side: int, across: bool) -> Cell:
    """The cell one ``step`` over the border and ``side`` along it; ``across``: over a vertical border."""
    return (cell[0] + side, cell[1] + step) if across else (cell[0] + step, cell[1] + side)


def colours(groups: Sequence[Collection[Cell]], count: int = len(PALETTE)) -> list[int]:
    """A colour number for each region: neighbours differ where that is possible, and all are used about equally."""
    at = {cell: number for number, cells in enumerate(groups) for cell in cells}
    chosen: list[int] = []
    uses = [0] * count
    for number, cells in enumerate(groups):
        beside = {
            chosen[other]
            for row, column in cells
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if (other := at.get((row + down, column + right), number)) < number
        }
        free = [colour for colour in range(count) if colour not in beside] or list(range(count))
        best = min(free, key=lambda colour: (uses[colour], (colour - number) % count))
        uses[best] += 1
        chosen.append(best)
    return chosen
