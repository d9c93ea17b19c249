"""The plan file: one recipe, for one model, made for one machine, with what was predicted. YAML, schema `ftadvise.plan-file/1`.

It lives beside the recipe because both the advisor (which writes it) and the runner (which executes it) need it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from ftadvise.estimator.data_settings import KINDS, DataSettings, data_settings_from
from ftadvise.estimator.recipe import LATER_FIELDS, Recipe
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.yaml_store import load_yaml

PLAN_SCHEMA = "ftadvise.plan-file/1"
_COUNT = "a whole number, 0 or more"


@dataclass(frozen=True, slots=True)
class MadeFor:
    """The machine a plan was made for. `gpu` is None and `memory_bytes` 0 when it trains on the CPU."""

    device: Literal["cuda", "cpu"]
    gpu: str | None
    memory_bytes: int
    count: int
    ram_bytes: int

    @classmethod
    def of(cls, hardware: Hardware) -> MadeFor:
        """What a plan has to remember about `hardware`."""
        gpu = hardware.gpu
        if gpu is None:
            return cls("cpu", None, 0, 0, hardware.ram_bytes)
        return cls("cuda", gpu.name, gpu.memory_bytes, len(hardware.gpus), hardware.ram_bytes)


@dataclass(frozen=True, slots=True)
class PlanFile:
    """Everything `ftadvise run` needs. Data without a path is the demo set that comes with ftadvise.

    `predicted` is the `memory` and `throughput` part of the `ftadvise.estimate/1` document.
    """

    model_id: str
    parameters: int
    local_path: str | None
    made_for: MadeFor
    stack: dict[str, Any]
    recipe: Recipe
    data: DataSettings
    predicted: dict[str, Any]
    ftadvise_version: str
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """The document as it stands in the file."""
        return {
            "schema": PLAN_SCHEMA,
            "ftadvise": self.ftadvise_version,
            "created": self.created,
            "model": {"id": self.model_id, "local_path": self.local_path, "parameters": self.parameters},
            "made_for": dataclasses.asdict(self.made_for),
            "stack": {"name": self.stack.get("name", "trl"), "versions": dict(self.stack.get("versions", {}))},
            "recipe": self.recipe.to_dict(),
            "data": self.data.to_dict(),
            "predicted": self.predicted,
        }


_COMMENTS = {
    "schema": "Written by `ftadvise plan`; `ftadvise run FILE` executes exactly this. Edit the recipe freely: it is checked before.",
    "model": "Weights come from local_path when it is given, else from the Hugging Face cache or hub. parameters: how many.",
    "made_for": "The machine this plan was made for. Bytes.",
    "stack": "The training code whose memory was predicted.",
    "recipe": "Lengths are tokens; micro_batch is sequences per GPU and forward pass; max_steps 0 means that epochs decides.",
    "data": "path: file, folder, glob or hub id; null: the small set that comes with ftadvise. `ftadvise data` shows what they read.",
    "predicted": "What the estimator expects of this recipe at its full seq_len. Bytes and seconds. Not read by the training.",
}

_SECTIONS: dict[str, dict[str, tuple[tuple[type, ...], str]]] = {
    "model": {"id": ((str,), "text"), "local_path": ((str, type(None)), "a path or null"), "parameters": ((int,), _COUNT)},
    "made_for": {
        "device": ((str,), "cuda or cpu"),
        "gpu": ((str, type(None)), "a GPU name or null"),
        "memory_bytes": ((int,), _COUNT),
        "count": ((int,), _COUNT),
        "ram_bytes": ((int,), _COUNT),
    },
    "stack": {"name": ((str,), "text"), "versions": ((dict,), "a mapping of versions")},
}
_PLAIN = {"schema": str, "ftadvise": str, "created": str}


def write_plan_file(path: Path, plan_file: PlanFile) -> None:
    """Write the plan as commented YAML; the file is there completely or not at all.

    Raises:
        InputError: the folder is missing or not writable.
    """
    import yaml

    text = ""
    for key, value in plan_file.to_dict().items():
        if key in _COMMENTS:
            text += ("\n" if text else "") + f"# {_COMMENTS[key]}\n"
        text += yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=120)
    write_text_atomically(path, text)


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text through a temporary file in the same folder, so that a reader never sees half of it.

    Raises:
        InputError: the folder is missing, not writable or full.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror or error})", hint="choose another place with -o or --out") from None


def read_plan_file(path: Path) -> PlanFile:
    """Read and check a plan file that a person may have edited.

    Raises:
        InputError: missing, empty, not YAML, another schema version, an unknown or missing key, a wrong type; names the file,
            the line where there is one, the key and the nearest valid name.
    """
    document = load_yaml(path, cache=False)
    if document is None:
        raise InputError(f"{path}: the plan file is empty", hint="ftadvise plan -o " + str(path))
    if not isinstance(document, dict):
        raise InputError(f"{path}: a plan file is a mapping, this is a {type(document).__name__}", hint="ftadvise plan -o " + str(path))
    check = _Checker(path)
    schema = document.get("schema")
    if schema != PLAN_SCHEMA:
        found = "has no schema line" if schema is None else f"says schema {str(schema)[:60]!r}"
        raise InputError(
            f"{check.where('schema')}: the plan {found}; this version of ftadvise reads {PLAN_SCHEMA!r}",
            hint="make a new plan with `ftadvise plan`",
        )
    check.keys((), document, [*_PLAIN, "model", "made_for", "stack", "recipe", "data", "predicted"])
    for key in _PLAIN:
        check.type((key,), document[key], (str,), "text")
    for section, wanted in _SECTIONS.items():
        values = check.mapping((section,), document[section])
        check.keys((section,), values, wanted)
        for key, (types, meaning) in wanted.items():
            check.type((section, key), values[key], types, meaning)
    made_for = MadeFor(**document["made_for"])
    if made_for.device not in ("cuda", "cpu"):
        raise InputError(f"{check.where('made_for', 'device')}: device must be cuda or cpu, not {made_for.device!r}")
    return PlanFile(
        model_id=document["model"]["id"],
        parameters=document["model"]["parameters"],
        local_path=document["model"]["local_path"],
        made_for=made_for,
        stack=document["stack"],
        recipe=_read_recipe(check, document["recipe"]),
        data=_read_data(check, document["data"]),
        predicted=check.mapping(("predicted",), document["predicted"]),
        ftadvise_version=document["ftadvise"],
        created=document["created"],
    )


def check_made_for(plan_file: PlanFile, hardware: Hardware) -> None:
    """Refuse a plan made for another machine; the same GPU with more memory is fine.

    A driver shows up to an eighth less than the nominal memory (inline ECC alone takes a sixteenth), so only a larger difference
    counts as less.

    Raises:
        InputError: another GPU, fewer or more of them, less memory on it, or a GPU where the plan says CPU and the reverse.
    """
    planned, here = plan_file.made_for, MadeFor.of(hardware)
    same_cards = (planned.device, planned.count, _card_name(planned)) == (here.device, here.count, _card_name(here))
    if same_cards and here.memory_bytes * 8 >= planned.memory_bytes * 7:
        return
    raise InputError(
        f"the plan was made for {_describe(planned)}, this machine has {_describe(here)}",
        hint=f"make one for this machine: ftadvise plan --model {plan_file.local_path or plan_file.model_id}",
    )


def _card_name(machine: MadeFor) -> str | None:
    """The profile's name of the GPU, so that "RTX 4090" and what NVML calls it are the same card."""
    if machine.gpu is None:
        return None
    from ftadvise.profiles.resolve_gpu import match_nvml_name, resolve_gpus

    card = match_nvml_name(machine.gpu, machine.memory_bytes)
    if card is not None:
        return card.name
    try:
        return resolve_gpus(machine.gpu)[0].name
    except (InputError, IndexError):
        return machine.gpu


def _describe(machine: MadeFor) -> str:
    if machine.device == "cpu":
        return "the CPU alone"
    return f"{machine.count} x {machine.gpu} ({machine.memory_bytes / (1 << 30):.1f} GiB)"


def _read_recipe(check: _Checker, document: Any) -> Recipe:
    values = check.mapping(("recipe",), document)
    check.keys(("recipe",), values, [f.name for f in dataclasses.fields(Recipe)], optional=LATER_FIELDS)
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{check.where('recipe', key)}: {key} must be a finite number, not {value}")
    try:
        return Recipe.from_dict(values, where=str(check.path))
    except InputError as error:
        # the recipe's own checks name the field first; say on which line of the file it stands
        text = str(error).removeprefix(f"{check.path}: ")
        named = next((word for word in text.replace(",", " ").split() if word in values), None)
        where = check.where("recipe", named) if named else str(check.path)
        raise InputError(f"{where}: {text}", hint=error.hint) from None


def _read_data(check: _Checker, document: Any) -> DataSettings:
    values = check.mapping(("data",), document)
    check.keys(("data",), values, KINDS, optional=KINDS)  # plans of the first version hold the path alone
    for key, value in values.items():
        check.type(("data", key), value, *KINDS[key])
    try:
        return data_settings_from(values)
    except InputError as error:
        raise InputError(f"{check.where('data')}: {error}", hint=error.hint) from None


class _Checker:
    """Raises errors that name the file, the line and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def where(self, *keys: str) -> str:
        line = _line_of(self.path, keys)
        return f"{self.path}, line {line}" if line else str(self.path)

    def mapping(self, keys: tuple[str, ...], value: Any) -> dict[str, Any]:
        self.type(keys, value, (dict,), "a mapping")
        return dict(value)

    def type(self, keys: tuple[str, ...], value: Any, types: tuple[type, ...], meaning: str) -> None:
        wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
        if wrong or (meaning == _COUNT and value < 0):
            raise InputError(f"{self.where(*keys)}: {'.'.join(keys)} must be {meaning}, not {str(value)[:60]!r}")

    def keys(self, section: tuple[str, ...], values: dict[str, Any], known: Iterable[str], *, optional: Collection[str] = ()) -> None:
        known = list(known)
        prefix = ".".join(section) + "." if section else ""
        for key in values:
            if key not in known:
                hint = did_you_mean(key, known) or f"known keys: {', '.join(known)}"
                raise InputError(f"{self.where(*section, key)}: unknown key {prefix + key!r}", hint=hint)
        missing = [key for key in known if key not in values and key not in optional]
        if missing:
            raise InputError(f"{self.where(*section)}: {prefix}{missing[0]} is missing", hint="make a new plan with `ftadvise plan`")


def _line_of(path: Path, keys: tuple[str, ...]) -> int | None:
    """The line (from 1) on which the key path stands, read again from the file: errors are rare, so this may be slow."""
    import yaml

    node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    line = None
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        pair = next(((k, v) for k, v in node.value if k.value == key), None)
        if pair is None:
            break
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line
