"""Reader: the values of a configuration, checked, with a memory of which keys were asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftadvise.advisor.export.words import say
from ftadvise.advisor.importing.imported import Imported
from ftadvise.advisor.texts import Text
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.yaml_store import load_yaml

_OPTIMIZERS = {
    "adamw_torch": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adamw_torch_fused": "adamw_torch_fused",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_32bit": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "lion_32bit": "lion_32bit",
    "lion_8bit": "lion_8bit",
}


class Reader:
    """Each question names a key and what holds where it is missing or null.

    Args:
        values: the document.
        path: the file, for messages and for files that it names.
    """

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self.path = values, path
        self.assumed: list[Text] = []
        self._asked: set[str] = set()

    def take(self, key: str, default: Any = None) -> Any:
        """The value as it stands."""
        self._asked.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def number(self, key: str, default: float) -> float:
        """A number; `1e-4`, which YAML 1.1 reads as text, too."""
        value = self.take(key, default)
        try:
            number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.wrong(key, "a number")
        return number

    def whole(self, key: str, default: int) -> int:
        """A whole number."""
        number = self.number(key, default)
        if number != int(number):
            raise self.wrong(key, "a whole number")
        return int(number)

    def text(self, key: str, default: str | None = None) -> str | None:
        """A text."""
        value = self.take(key, default)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Names: a list, or one text with commas; empty where there are none."""
        value = self.take(key, [])
        found = value.split(",") if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise self.wrong(key, "names")
        return tuple(each.strip() for each in found if each.strip())

    def optimizer(self, key: str, default: str) -> str:
        """The optimizer; one that we do not price is taken for the default."""
        said = str(self.text(key, default))
        if said not in _OPTIMIZERS:
            self.assume("assume_value", key=key, value=said, instead=default)
        return _OPTIMIZERS.get(said, default)

    def schedule(self, key: str, default: str) -> str:
        """The schedule, by its first word; it costs nothing."""
        said = str(self.text(key, default))
        return next((each for each in ("cosine", "constant") if said.startswith(each)), "linear")

    def compute_dtype(self) -> dict[str, Any]:
        """From `bf16` and `fp16`; nothing where both are off or automatic: the hardware decides."""
        bf16, fp16 = self.take("bf16", False), self.take("fp16", False)
        if bf16 is True:
            return {"compute_dtype": "bf16"}
        return {"compute_dtype": "fp16"} if fp16 is True else {}

    def file(self, key: str, name: str) -> Any | None:
        """A document that the configuration names, beside it or in the current folder; None where there is none."""
        for folder in (self.path.parent, Path()):
            if (folder / name).is_file():
                return load_yaml(folder / name, cache=False)
        return None

    def assume(self, message_id: str, **values: Any) -> None:
        """Something was taken for what the configuration does not say in our words."""
        self.assumed.append(say(message_id, **values))

    def refuse(self, key: str, why: str, hint: str) -> InputError:
        """The error for training that cannot be priced."""
        return InputError(f"{self.path}: {key} {self.values.get(key)!r}: {why}", hint=hint)

    def wrong(self, key: str, wanted: str) -> InputError:
        """The error for a value of another kind."""
        return InputError(f"{self.path}: {key} must be {wanted}, not {str(self.values.get(key))[:60]!r}")

    def imported(self, trainer: str, stack: str, model: str | None, fields: Mapping[str, Any]) -> Imported:
        """What was read; every key that was neither asked for nor is known to cost nothing is named."""
        harmless = _harmless()
        unread = tuple(str(key) for key in self.values if key not in self._asked and key not in harmless["all"] + harmless[stack])
        return Imported(trainer, stack, model, fields, tuple(self.assumed), unread)


@lru_cache(maxsize=1)
def _harmless() -> dict[str, list[str]]:
    found: dict[str, list[str]] = load_yaml(Path(__file__).parent / "harmless.yaml")
    return found
