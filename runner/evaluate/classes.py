"""Accuracy of a classification: the class whose words the model finds likeliest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data import Row
from ftadvise.runner.evaluate.losses import Encoded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_CLASSES = 50
"""Every row is read once for each class."""


def classes_of(rows: Sequence[Row], labels: Sequence[str]) -> tuple[str, ...]:
    """The classes between which each row chooses.

    Raises:
        InputError: the data is no classification, or has too many classes; says so.
    """
    if not any(row.label is not None for row in rows):
        raise InputError("the data is no classification: its rows have no label")
    found = tuple(labels) or tuple(sorted({row.label for row in rows if row.label is not None}))
    if len(found) < 2:
        raise InputError("there is only one class")
    if len(found) > MOST_CLASSES:
        raise InputError(f"{len(found)} classes: each row would be read {len(found)} times (limit {MOST_CLASSES})")
    return found


def variants(row: Row, classes: Sequence[str]) -> list[Row]:
    """The row with each class as its answer."""
    return [dataclasses.replace(row, text=name, label=name) for name in classes]


def hits(losses: NDArray[np.float64], rows: Sequence[Row], classes: Sequence[str]) -> NDArray[np.float64]:
    """rows x 2: 1 where the class with the smallest loss is the row's own, and 1.

    A class is as likely as all its tokens and the end of the answer together: no length is favoured, because the end counts.

    Args:
        losses: (rows * classes) x 2, as of `row_losses`, the classes of one row after another.
    """
    import numpy as np

    chosen = losses[:, 0].reshape(len(rows), len(classes)).argmin(axis=1)
    return np.array([[float(classes[number] == row.label), 1.0] for number, row in zip(chosen, rows, strict=True)])


def most_frequent(rows: Sequence[Row]) -> float:
    """The accuracy, in per cent, of always naming the most frequent class."""
    counts: dict[str | None, int] = {}
    for row in rows:
        counts[row.label] = counts.get(row.label, 0) + 1
    return 100 * max(counts.values()) / len(rows)


def flattened(choices: Sequence[Sequence[Encoded]]) -> list[Encoded]:
    """One list of what stands in the rows."""
    return [each for choice in choices for each in choice]


def percent(sums: Any) -> float:
    """Hits in per cent, from the two sums."""
    return 100 * float(sums[0] / sums[1])
