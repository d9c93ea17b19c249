"""How a configuration divides the model: the DeepSpeed and accelerate files that it names, and FSDP's own keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ftadvise.advisor.importing.reader import Reader
from ftadvise.profiles.errors import InputError

WHOLE = {"sharding": "none", "offload": "none"}
_TRL_CONFIGS = {
    "single_gpu": "none",
    "multi_gpu": "ddp",
    "zero1": "zero1",
    "zero2": "zero2",
    "zero3": "zero3",
    "fsdp1": "fsdp",
    "fsdp2": "fsdp",
}


def deepspeed(reader: Reader, key: str = "deepspeed") -> dict[str, Any] | None:
    """The stage of the DeepSpeed configuration under `key`, a file or the document itself; None where the key is not set.

    Raises:
        InputError: the file is not there and its name does not tell.
    """
    said = reader.take(key)
    if said is None:
        return None
    document = said if isinstance(said, Mapping) else reader.file(key, str(said))
    if isinstance(document, Mapping):
        return _zero(document)
    name = str(said).rsplit("/", 1)[-1].lower()
    stage = re.search(r"z(?:ero)?[_-]?([0-3])|stage[_-]?([0-3])", name)
    if stage is None:
        raise InputError(
            f"{reader.path}: {key} {said!r}: no such file", hint="or say it with --sharding zero3 --offload none and leave the key out"
        )
    offload = "none" if "offload" not in name else "all" if stage[0].endswith("3") else "optimizer"
    found = {"sharding": _stage(int(stage[1] or stage[2])), "offload": offload}
    reader.assume("assume_stage", key=key, value=str(said), instead=found["sharding"])
    return found


def fsdp(reader: Reader) -> dict[str, Any] | None:
    """transformers' `fsdp` and `fsdp_config`; None where they are not set."""
    said, config = reader.take("fsdp"), reader.take("fsdp_config", {})
    reader.take("fsdp_version")
    if not said and not config:
        return None
    if not isinstance(config, Mapping):
        document = reader.file("fsdp_config", str(config))
        config = document if isinstance(document, Mapping) else {}
    return {"sharding": "fsdp", "offload": "all" if "offload" in str(said) or _fsdp_offloads(config) else "none"}


def accelerate(reader: Reader, key: str = "accelerate_config") -> dict[str, Any] | None:
    """The accelerate configuration under `key`, a file or the name of one of TRL's own; None where the key is not set.

    Raises:
        InputError: it is neither.
    """
    said = reader.text(key)
    if said is None:
        return None
    document = reader.file(key, said)
    if document is None and said in _TRL_CONFIGS:
        return {"sharding": _TRL_CONFIGS[said], "offload": "none"}
    if not isinstance(document, Mapping):
        raise InputError(f"{reader.path}: {key} {said!r}: no such file", hint="or say it with --sharding and leave the key out")
    kind = str(document.get("distributed_type", "NO"))
    if kind == "FSDP":
        return {"sharding": "fsdp", "offload": "all" if _fsdp_offloads(document.get("fsdp_config") or {}) else "none"}
    if kind != "DEEPSPEED":
        return {"sharding": "ddp" if kind == "MULTI_GPU" else "none", "offload": "none"}
    config = document.get("deepspeed_config") or {}
    if config.get("deepspeed_config_file"):
        return deepspeed(Reader({"deepspeed": config["deepspeed_config_file"]}, reader.path))
    on_host = {part: config.get(f"{part}_device") == "cpu" for part in ("offload_optimizer", "offload_param")}
    return {"sharding": _stage(config.get("zero_stage", 0)), "offload": _offload(on_host["offload_optimizer"], on_host["offload_param"])}


def _zero(document: Mapping[str, Any]) -> dict[str, Any]:
    zero = document.get("zero_optimization") or {}
    on_host = {part: (zero.get(part) or {}).get("device", "none") != "none" for part in ("offload_optimizer", "offload_param")}
    return {"sharding": _stage(zero.get("stage", 0)), "offload": _offload(on_host["offload_optimizer"], on_host["offload_param"])}


def _stage(stage: Any) -> str:
    return {1: "zero1", 2: "zero2", 3: "zero3"}.get(stage, "ddp")


def _offload(optimizer: bool, parameters: bool) -> str:
    return "all" if optimizer and parameters else "optimizer" if optimizer else "parameters" if parameters else "none"


def _fsdp_offloads(config: Mapping[str, Any]) -> bool:
    return any(config.get(key) is True for key in ("fsdp_offload_params", "offload_params", "cpu_offload"))
