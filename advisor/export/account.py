"""Account: what one target can and cannot say about one plan, collected while the target's files are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ftadvise.advisor.export.target import Exported
from ftadvise.advisor.export.words import say, value_words
from ftadvise.advisor.texts import Text
from ftadvise.estimator.plan_file import PlanFile

_Word = TypeVar("_Word")


class Account:
    """Begin with the plan, ask for words, end with `exported`. Nothing about a field is lost: it is said, or stands in `missing`.

    Args:
        plan_file: the plan being translated.
        trainer: how sentences name the target ("LLaMA-Factory").
    """

    def __init__(self, plan_file: PlanFile, trainer: str) -> None:
        self.plan_file = plan_file
        self.recipe = plan_file.recipe
        self.trainer = trainer
        self.missing: dict[str, Text] = {}
        self.notes: list[Text] = []

    def choose(self, field: str, words: Mapping[Any, _Word], otherwise: Any) -> _Word:
        """The target's word for the recipe's value of `field`; where it has none, its word for the value `otherwise`, accounted for."""
        value = getattr(self.recipe, field)
        if value not in words:
            self.cannot(field, say("no_such_value", trainer=self.trainer, value=value_words(value), instead=value_words(otherwise)))
        return words.get(value, words[otherwise])

    def only(self, field: str, value: Any) -> bool:
        """The target does `value` and has no setting for it. True where the recipe says the same, else it is accounted for."""
        wanted = getattr(self.recipe, field)
        if wanted == value:
            return True
        self.cannot(field, say("only", trainer=self.trainer, value=value_words(wanted), instead=value_words(value)))
        return False

    def adapter_dtype(self, made: str) -> None:
        """The trainer makes adapters `made` by itself. DeepSpeed holds all in the compute dtype, FSDP what is trained in fp32."""
        sharding = self.recipe.sharding
        if sharding.startswith("zero"):
            made = self.recipe.compute_dtype
        self.only("adapter_dtype", "fp32" if sharding == "fsdp" else made)

    def elsewhere(self, fields: Iterable[str], where: Text) -> None:
        """These fields are not this file's business: `where` says them."""
        for field in fields:
            self.cannot(field, say("not_here", where=where))

    def cannot(self, field: str, why: Text) -> None:
        """`field` is not said, or differently: why, and what happens instead."""
        self.missing[field] = why

    def note(self, text: Text | None) -> None:
        """Something else that the reader must know; None is nothing."""
        if text is not None:
            self.notes.append(text)

    @property
    def model(self) -> str:
        """What to load: the local folder where the plan names one, else the hub id."""
        path = self.plan_file.local_path
        if path is not None and path.lower().endswith(".gguf"):
            self.note(say("gguf", trainer=self.trainer))
        return path or self.plan_file.model_id

    @property
    def processes(self) -> int:
        """How many processes train: one per GPU of the plan when it shards or runs data-parallel, else one."""
        return max(1, self.plan_file.made_for.count) if self.recipe.sharding != "none" else 1

    def exported(self, files: Mapping[str, str], command: str) -> Exported:
        """The finished translation; `files` begins with the one that `command` starts with."""
        return Exported(dict(files), command, dict(self.missing), tuple(self.notes))
