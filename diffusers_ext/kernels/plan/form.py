"""Say how a kernel may check the blocks of a plan."""

from dataclasses import dataclass
from typing import Self

Sides = tuple[int, int]


@dataclass(frozen=True, slots=True)
class BlockForm:
    """A form says how a kernel may check PARTIAL blocks.

    `checked`: there are some. `computed`: the rule is a function of the first token of each block. A block of
    queries is then a box of `q_sides` tokens (rows, columns) in each of its frames, a block of keys one of
    `k_sides`, and the grid has `grid_sides`; for a band, blocks are runs of the raster. `irregular`: some
    PARTIAL block also holds text or padding that no rule hides, or a run that goes on in the next frame.
    """

    checked: bool = True
    computed: bool = False
    irregular: bool = False
    q_sides: Sides = (1, 1)
    k_sides: Sides = (1, 1)
    grid_sides: Sides = (1, 1)

    @property
    def looked_up(self) -> bool:
        """True if the coordinates of single tokens are read in some PARTIAL blocks."""
        return self.checked and (self.irregular or not self.computed)

    @property
    def numbers(self) -> list[int]:
        """The fields as integers, for an operator."""
        flags = self.checked, self.computed, self.irregular
        return [*map(int, flags), *self.q_sides, *self.k_sides, *self.grid_sides]

    @classmethod
    def of(cls, numbers: list[int]) -> Self:
        """Make a form from its `numbers`."""
        checked, computed, irregular, *sides = numbers
        pairs = zip(sides[::2], sides[1::2], strict=True)
        return cls(bool(checked), bool(computed), bool(irregular), *pairs)


LOOKED_UP = BlockForm()  # suits any plan
