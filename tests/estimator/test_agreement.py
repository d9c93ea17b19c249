"""The analytic model against the trace, over random recipes (benchmarks/agreement.py): hundreds of them, the same every time."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)  # the benchmarks are scripts that import one another by their bare names
try:
    import agreement
    import agreement_recipes
finally:
    sys.path.remove(BENCHMARKS)

WORST, MEDIAN = 0.02, 0.005
ARCHITECTURES = list(agreement_recipes.ARCHITECTURES)

pytestmark = pytest.mark.train


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestAgreement:
    """A class, so that every architecture is a unit of its own for workers that share by scope."""

    def test_peaks_are_those_of_the_trace(self, architecture: str, tmp_path: Path) -> None:
        """Worst and median of one architecture's share of the draws."""
        numbers = range(ARCHITECTURES.index(architecture), agreement.CI_COUNT, len(ARCHITECTURES))
        found = [agreement.compare(agreement_recipes.draw(number, agreement.SEED), tmp_path) for number in numbers]
        assert [agreement.describe(each) for each in found if abs(each.error()) > WORST] == []
        assert statistics.median(abs(each.error()) for each in found) <= MEDIAN


def test_there_are_enough_of_them() -> None:
    draws = [agreement_recipes.draw(number, agreement.SEED) for number in range(agreement.CI_COUNT)]
    assert len(draws) >= 400
    assert len({each.architecture for each in draws}) >= 14
    assert {each.recipe.method for each in draws} == {"lora", "dora", "adalora", "ia3", "prompt", "prefix", "full"}
    assert {each.base for each in draws} == {"none", "nf4", "nf4-double", "fp4", "int8"}
    assert {each.device for each in draws} == {"cuda", "cpu"}
    assert draws == [agreement_recipes.draw(number, agreement.SEED) for number in range(agreement.CI_COUNT)]
