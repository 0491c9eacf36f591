"""What a plan would be like: counts of its blocks, without the blocks."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recipe import Recipe


@dataclass(frozen=True)
class Survey:
    """Counts of a plan: places of queries and keys, visited blocks, FULL ones among them."""

    recipe: "Recipe"
    s_q: int
    s_kv: int
    visited: int
    full: int

    @property
    def work(self) -> int:
        """Pairs that a kernel multiplies, padding included."""
        return self.visited * self.recipe.block_q * self.recipe.block_k

    @property
    def block_density(self) -> float:
        """Visited blocks over those of dense attention; padding counts. Far keys are extra, so that it may
        exceed 1; without any it is `BlockPlan.block_density`.
        """
        rows, keys = -(-self.s_q // self.recipe.block_q), self.s_kv - self.recipe.far
        return self.visited / (rows * -(-keys // self.recipe.block_k))

    @property
    def cost(self) -> float:
        """Visited blocks over those of dense attention over the tokens alone, without padding."""
        recipe, tokens = self.recipe, prod(self.recipe.grid) + self.recipe.text
        queries = tokens if recipe.text_rows else prod(recipe.grid)
        return self.visited / (-(-queries // recipe.block_q) * -(-tokens // recipe.block_k))

    @property
    def full_share(self) -> float:
        """As `BlockPlan.full_share`."""
        return self.full / max(self.visited, 1)
