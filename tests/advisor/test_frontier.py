"""The fit frontier: a grid around the recommended recipe that ends where nothing fits."""

from __future__ import annotations

import pytest

import ftadvise
from ftadvise.advisor.frontier import Frontier, fit_frontier
from ftadvise.estimator.estimate import estimate as price
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError

CASES = [
    ("Qwen-7B", "RTX 4090", {}),
    ("SmolLM2-135M-Instruct", "cpu", {}),
    ("Llama-3.1-8B", "2x A100-80GB", {"seq_len": 3000, "micro_batch": 3}),
    ("Qwen-7B", "RTX 3060 12GB", {"seq_len": 64}),
]


def _frontier(model: str, gpu: str, fields: dict[str, int]) -> tuple[Estimate, Frontier]:
    chosen = ftadvise.plan(model, gpu=gpu, **fields).estimate
    return chosen, fit_frontier(chosen, lambda recipe: price(chosen.model, chosen.hardware, recipe, chosen.stack))


@pytest.mark.parametrize(("model", "gpu", "fields"), CASES)
def test_the_grid_holds_the_recipe_and_fits_less_the_further_it_goes(model: str, gpu: str, fields: dict[str, int]) -> None:
    chosen, frontier = _frontier(model, gpu, fields)
    assert chosen.recipe.seq_len in frontier.seq_lens
    assert chosen.recipe.micro_batch in frontier.micro_batches
    assert len(frontier.seq_lens) <= 9
    assert len(frontier.micro_batches) <= 7
    assert list(frontier.seq_lens) == sorted(set(frontier.seq_lens))
    fits = [[cell is not None and cell.memory.fits for cell in row] for row in frontier.rows]
    assert fits[frontier.seq_lens.index(chosen.recipe.seq_len)][frontier.micro_batches.index(chosen.recipe.micro_batch)]
    for row in fits:
        assert row == sorted(row, reverse=True), "a larger micro batch fits where a smaller one does not"
    for column in zip(*fits, strict=True):
        assert list(column) == sorted(column, reverse=True), "longer sequences fit where shorter ones do not"


def test_no_length_is_beyond_the_model_s_positions() -> None:
    chosen, frontier = _frontier("SmolLM2-135M-Instruct", "A100-80GB", {})
    assert chosen.model.max_position is not None
    assert max(frontier.seq_lens) <= chosen.model.max_position


def test_the_batch_of_a_step_stays() -> None:
    chosen, frontier = _frontier("Qwen-7B", "RTX 4090", {})
    total = chosen.recipe.micro_batch * chosen.recipe.gradient_accumulation
    for row in frontier.rows:
        for cell, micro_batch in zip(row, frontier.micro_batches, strict=True):
            assert cell is not None
            assert cell.recipe.micro_batch == micro_batch
            assert cell.recipe.micro_batch * cell.recipe.gradient_accumulation == max(total, micro_batch)


def test_a_recipe_that_cannot_be_priced_is_a_hole() -> None:
    chosen = ftadvise.plan("Qwen-7B", gpu="RTX 4090").estimate

    def price_short(recipe: Recipe) -> Estimate:
        if recipe.seq_len > 2048:
            raise InputError("too long")
        return price(chosen.model, chosen.hardware, recipe, chosen.stack)

    frontier = fit_frontier(chosen, price_short)
    assert frontier.seq_lens[-1] == 4096
    assert all(cell is None for cell in frontier.rows[-1])
    assert all(cell is not None for cell in frontier.rows[0])
