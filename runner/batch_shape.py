"""The size of a micro batch as the model sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BatchShape:
    """One micro batch: sequences, their padded length in tokens, and whether a part of it is padding."""

    sequences: int = 0
    length: int = 0
    masked: bool = False

    @classmethod
    def of(cls, batch: Any) -> BatchShape:
        """The shape of a collated batch with `input_ids` (sequences x length) and maybe `attention_mask`."""
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        return cls(ids.shape[0], ids.shape[1], masked=mask is not None and not bool(mask.all()))

    @property
    def tokens(self) -> int:
        """Padded tokens."""
        return self.sequences * self.length

    def at_mean_length(self, tokens: int, micro_batches: int) -> BatchShape:
        """As many sequences, at the mean padded length of so many micro batches that hold `tokens` together."""
        return BatchShape(self.sequences, max(1, round(tokens / (micro_batches * max(1, self.sequences)))), self.masked)
