"""A model on the hub: its config.json and the totals of its safetensors headers, never weights.

huggingface_hub does the talking, so HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and HF_TOKEN work as everywhere.
The local hub cache is asked first.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftadvise.profiles.errors import FtadviseError, InputError
from ftadvise.profiles.json_objects import MAX_CONFIG_BYTES, read_json_object
from ftadvise.profiles.local_model import FULL_WIDTH, stored_parameters
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

TIMEOUT_S = 5.0


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id, organisation/name; the rules are huggingface_hub's own (validate_repo_id)."""
    part = r"\w(?:[\w.-]*\w)?"
    return len(name) <= 96 and bool(re.fullmatch(f"{part}/{part}", name, re.ASCII)) and ".." not in name and "--" not in name


def spec_from_hub(repo_id: str, *, offline: bool | None = None) -> ModelSpec:
    """The ModelSpec of a hub repository.

    Args:
        repo_id: organisation/name.
        offline: True: the local cache only; False: the network may be used; None: what HF_HUB_OFFLINE says.

    Raises:
        InputError: not in the cache while offline, not found, gated, not reachable within a few seconds, or without a usable config.json.
    """
    if not is_hub_id(repo_id):
        raise InputError(f"{repo_id[:100]!r} is not a hub id of the form organisation/name")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(int(TIMEOUT_S)))
    import huggingface_hub
    from huggingface_hub import constants

    cached = huggingface_hub.try_to_load_from_cache(repo_id, "config.json")
    if isinstance(cached, str):
        snapshot = Path(cached).parent
        stored = stored_parameters(snapshot)
        source = f"{repo_id}/config.json (hub cache)"
        return spec_from_config(
            read_json_object(Path(cached), source),
            source=source,
            model_id=repo_id,
            stored_params=stored,
            origin="hub",
            local_path=str(snapshot) if stored else None,
        )
    if constants.HF_HUB_OFFLINE if offline is None else offline:
        raise InputError(
            f"{repo_id!r} is neither among the known models nor in the hub cache, and the hub is not asked (offline)",
            hint="unset HF_HUB_OFFLINE, or name a local folder that holds config.json",
        )
    return _ask(repo_id)


def _ask(repo_id: str) -> ModelSpec:
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().model_info(repo_id, timeout=TIMEOUT_S)
        url = huggingface_hub.hf_hub_url(repo_id, "config.json")
        size = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT_S).size
        if size is not None and size > MAX_CONFIG_BYTES:
            raise InputError(f"{repo_id}/config.json: {size} bytes, larger than any config.json")
        path = huggingface_hub.hf_hub_download(repo_id, "config.json", etag_timeout=TIMEOUT_S)
    except FtadviseError:
        raise
    except Exception as error:  # noqa: BLE001 (huggingface_hub has used three HTTP libraries, each with its own errors)
        raise _explained(repo_id, error) from None
    source = f"{repo_id}/config.json (hub)"
    spec = spec_from_config(
        read_json_object(Path(path), source),
        source=source,
        model_id=repo_id,
        stored_params=_total(info),
        origin="hub",
    )
    return _with_licence(spec, info)


def _explained(repo_id: str, error: Exception) -> InputError:
    """The error for a user. Only the kind of failure is told: messages of the HTTP layer may hold addresses and headers."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return InputError(f"{repo_id!r} is gated on the hub", hint="ask for access on its page, then set HF_TOKEN or run `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(f"{repo_id!r} is not on the hub, or is private", hint="check the spelling; for a private model set HF_TOKEN")
    if isinstance(error, errors.EntryNotFoundError):
        return InputError(f"{repo_id!r} has no config.json on the hub", hint="name the base model it was made from")
    if status in (401, 403):
        return InputError(f"the hub refuses access to {repo_id!r} (HTTP {status})", hint="set HF_TOKEN or run `hf auth login`")
    if status is not None:
        return InputError(f"the hub answered HTTP {status} for {repo_id!r}", hint="try again later, or name a local folder")
    kind = type(error).__name__
    return InputError(
        f"{repo_id!r} is not among the known models, and the hub cannot be reached ({kind})",
        hint="check the network and HF_ENDPOINT, or name a local folder that holds config.json",
    )


def _total(info: ModelInfo) -> int | None:
    """Elements in the checkpoint as the hub counted them from the safetensors headers; None when unknown or packed."""
    by_type: Any = getattr(getattr(info, "safetensors", None), "parameters", None)
    if not isinstance(by_type, dict) or not by_type or not set(by_type) <= FULL_WIDTH:
        return None
    counts = [count for count in by_type.values() if isinstance(count, int) and 0 < count < 10**15]
    return sum(counts) if len(counts) == len(by_type) else None


def _with_licence(spec: ModelSpec, info: ModelInfo) -> ModelSpec:
    from dataclasses import replace

    card: Any = getattr(info, "card_data", None)
    name = card.get("license") if card is not None and hasattr(card, "get") else None
    gated = getattr(info, "gated", None)
    return replace(spec, license=name if isinstance(name, str) else None, gated=None if gated is None else bool(gated))
