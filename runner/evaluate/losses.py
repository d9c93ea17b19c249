"""The loss of each row, with the tokens, labels and arithmetic of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ftadvise.runner.load_model import torch_dtype
from ftadvise.runner.tokens import IGNORED_LABEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOKENS_AT_ONCE = 1024
"""Tokens whose logits are held in fp32 at a time: 0.6 GiB for a vocabulary of 150,000."""

Encoded = dict[str, list[int]]
"""`input_ids` and `labels` of one row, of equal length."""


def row_losses(model: Any, rows: Sequence[Encoded], *, batch_size: int, compute_dtype: str) -> NDArray[np.float64]:
    """rows x 2: the sum of the negative log likelihoods (nats) of a row's learned tokens, and how many they are.

    The first token of a row is read, not predicted. As in the trainer's evaluation, products run in `compute_dtype` (autocast) and the loss
    in fp32. Rows are padded to the longest of `batch_size` rows of similar length.
    """
    import numpy as np
    import torch

    found = np.zeros((len(rows), 2))
    with torch.no_grad(), computing(model.device.type, compute_dtype):
        for numbers in _batches(rows, batch_size):
            inputs = _padded([rows[number]["input_ids"] for number in numbers], model.device)
            # prompt tuning puts its vectors in front of the text, so the text's logits are the last ones
            logits = model(**inputs).logits[:, -inputs["input_ids"].shape[1] :]
            for place, number in enumerate(numbers):
                found[number] = _loss(logits[place], rows[number]["labels"])
    return found


def computing(device: str, compute_dtype: str) -> AbstractContextManager[Any]:
    """Autocast to the recipe's compute dtype, as the trainer does; nothing for fp32."""
    import torch

    dtype = torch_dtype(compute_dtype)
    context: AbstractContextManager[Any] = torch.autocast(device, dtype, enabled=dtype != torch.float32)
    return context


def mean_loss(sums: Any) -> float:
    """Nats per learned token, from the two sums."""
    return float(sums[0] / sums[1]) if sums[1] else 0.0


def _batches(rows: Sequence[Encoded], batch_size: int) -> Iterator[list[int]]:
    by_length = sorted(
        range(len(rows)), key=lambda number: len(rows[number]["input_ids"]), reverse=True
    )  # memory runs out at once, or never
    yield from (by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size))


def _padded(ids: list[list[int]], device: Any) -> dict[str, Any]:
    import torch

    longest = max(map(len, ids))
    tokens = torch.zeros((len(ids), longest), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for place, row in enumerate(ids):
        tokens[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}


def _loss(logits: Any, labels: list[int]) -> tuple[float, int]:
    import torch

    wanted = torch.tensor(labels[1:], device=logits.device)
    places = (wanted != IGNORED_LABEL).nonzero().flatten()
    total = 0.0
    for part in places.split(_TOKENS_AT_ONCE):
        total += float(torch.nn.functional.cross_entropy(logits[part].float(), wanted[part], reduction="sum"))
    return total, len(places)
