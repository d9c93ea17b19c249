"""What reading another trainer's configuration gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftadvise.advisor.export.words import say
from ftadvise.advisor.texts import Text


@dataclass(frozen=True, slots=True)
class Imported:
    """A configuration in our words.

    Args:
        trainer: whose it is.
        stack: that prices it.
        model: as the configuration names it; None where it does not.
        fields: of the recipe, with the trainer's own defaults for keys that are not there.
        assumed: what was not said, or not said in our words, and what was taken for it.
        unread: keys that were not understood, and so are not in the price.
    """

    trainer: str
    stack: str
    model: str | None
    fields: Mapping[str, Any]
    assumed: tuple[Text, ...] = ()
    unread: tuple[str, ...] = ()

    def on(self, gpus: int) -> tuple[dict[str, Any], tuple[Text, ...]]:
        """The fields on a machine with so many GPUs, and what was assumed for it: these trainers start one process on each GPU."""
        fields = dict(self.fields)
        compute = fields.get("compute_dtype")
        if fields["sharding"].startswith("zero") and compute and fields["method"] != "full":
            fields["adapter_dtype"] = compute  # DeepSpeed holds the whole model in it
        if gpus > 1 and fields["sharding"] == "none":
            return fields | {"sharding": "ddp"}, (*self.assumed, say("assume_ddp", count=gpus))
        return fields, self.assumed
