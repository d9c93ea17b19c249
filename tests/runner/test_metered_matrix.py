"""Every method on every base quantisation, really trained on the CPU under the storage meter, against the trace of the same recipe."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.train
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)  # the benchmarks are scripts that import one another by their bare names
try:
    import cpu_compare
    import cpu_matrix
    import matrix
finally:
    sys.path.remove(BENCHMARKS)

LIMIT = 0.01
CASES = {case.name: case for case in matrix.ci_cases()}


@pytest.fixture(scope="module", autouse=True)
def garbage_collection() -> Iterator[None]:
    """Metering sets the imported libraries aside from garbage collection; undone for the tests that follow."""
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_the_trace_sees_what_really_happens(name: str) -> None:
    case = CASES[name]
    row: dict[str, Any] = cpu_matrix.row_of(case, cpu_matrix.meter_case(case), seconds=0.0)
    ((_, found),) = cpu_compare.errors([{key: str(value) for key, value in row.items()}])
    assert not isinstance(found, str), found
    left_out = ["optimizer_step"]
    if case.recipe.method == "adalora":  # the pruning is over when it is evaluated, and its averages are gone
        left_out.append("evaluation")
    assert {phase: error for phase, error in found.items() if abs(error) > LIMIT and phase not in left_out} == {}


def test_each_method_and_quantisation_is_there() -> None:
    pairs = {(case.recipe.method, case.recipe.quantization, case.recipe.double_quantization) for case in CASES.values()}
    assert len(pairs) == len(CASES) == (len(matrix.METHODS) - 1) * len(matrix.QUANTIZATIONS) + 1 - len(matrix.UNTRAINABLE_ON_CPU)
