"""Where the weights are: a folder, a GGUF file, the demo model, the Hugging Face cache, or the hub. Safetensors only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.errors import InputError
from ftadvise.runner.demo_model import DEMO_MODEL_ID, demo_gguf_path, demo_model_folder
from ftadvise.runner.gguf import converted_gguf_folder
from ftadvise.runner.pickle_weights import PATTERN, converted_pickle_folder, pickle_files, refused

_SHARD = re.compile(r"[\w.-]+\.safetensors")
"""One file name: with a folder in it, an index could name files anywhere; with another ending, transformers would unpickle it."""
_TEXT_FILES = ["*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken"]


class WeightsMissingError(InputError):
    """The weights are not here and cannot be fetched; the message lists what was looked for."""


def find_model_folder(
    plan_file: PlanFile,
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Path:
    """A folder with config.json, tokenizer and complete safetensors weights; downloads them when online.

    Args:
        allow_pickle: convert a model that has nothing but pickles (see `pickle_weights`); what was converted is found without.
        say: told before anything that takes long.

    Raises:
        WeightsMissingError: they are neither here nor reachable.
        InputError: `local_path` is wrong, the model is gated or unknown to the hub, or there as pickle only and that was not allowed.
    """
    if plan_file.local_path is not None:
        path = Path(plan_file.local_path).expanduser()
        if path.suffix.lower() == ".gguf":
            return converted_gguf_folder(path, say)
        if not path.is_dir():
            raise InputError(f"{path}: the model folder named in the plan is not there")
        missing = missing_files(path)
        if "model.safetensors" in missing and pickle_files(path):
            return converted_pickle_folder(path, allowed=allow_pickle, say=say)
        if missing:
            raise _not_there(plan_file, [str(path / name) for name in missing])
        return path
    if plan_file.model_id == DEMO_MODEL_ID and demo_gguf_path() is not None:
        return demo_model_folder(say)
    return _from_hub(plan_file, trust_remote_code, allow_pickle, say)


def base_model_name(plan_file: PlanFile, folder: Path) -> str:
    """How an adapter names its base: the hub id when the weights are the hub's, else the folder they were loaded from."""
    from huggingface_hub import constants

    return plan_file.model_id if Path(constants.HF_HUB_CACHE) in folder.parents else str(folder)


def find_config_folder(plan_file: PlanFile) -> Path | None:
    """A folder with at least config.json, without downloading anything: enough to rehearse with random weights."""
    if plan_file.local_path is not None:
        path = Path(plan_file.local_path).expanduser()
        return path if (path / "config.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(plan_file.model_id, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def missing_files(folder: Path) -> list[str]:
    """Names that a complete model folder would have and this one has not (each shard that the index names counts).

    Raises:
        InputError: the index names anything but safetensors files beside it.
    """
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if (folder / "model.safetensors").is_file():
        return missing
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [*missing, "model.safetensors"]
    try:
        shards = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [*missing, index.name]
    for name in sorted(shards):
        if not _SHARD.fullmatch(name):
            raise InputError(
                f"{index}: {name!r:.100} is not the name of a safetensors file in this folder", hint="download the model again"
            )
    return missing + sorted(name for name in shards if not (folder / name).is_file())


def _from_hub(plan_file: PlanFile, trust_remote_code: bool, allow_pickle: bool, say: Callable[[str], None]) -> Path:
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    name = plan_file.model_id
    patterns = ["*.safetensors", *_TEXT_FILES, *(["*.py"] if trust_remote_code else [])]
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        missing = missing_files(folder)
        if not missing:
            return folder
        if "model.safetensors" in missing and pickle_files(folder):
            return converted_pickle_folder(folder, allowed=allow_pickle, say=say)
    except HFValidationError:
        raise InputError(f"{name!r} is not a model name that the hub knows", hint="owner/name, or a local folder") from None
    except LocalEntryNotFoundError:
        pass
    say(f"{name} is not in the cache; asking the hub")
    enable_progress_bars()
    try:
        files = list_repo_files(name)
        if not any(file.endswith(".safetensors") for file in files) and any(fnmatch(file, PATTERN) for file in files):
            if not allow_pickle:
                raise refused(name)
            patterns.append(PATTERN)
        folder = Path(snapshot_download(name, allow_patterns=patterns))
    except GatedRepoError:
        raise InputError(f"{name} is gated: its licence must be accepted first", hint="accept it on the hub, then: hf auth login") from None
    except RepositoryNotFoundError:
        raise InputError(f"the hub knows no model {name!r} (or it is private)", hint="check the name, or: hf auth login") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise _not_there(plan_file, _looked_for(name)) from None
    finally:
        disable_progress_bars()
    missing = missing_files(folder)
    if "model.safetensors" in missing and pickle_files(folder):
        return converted_pickle_folder(folder, allowed=allow_pickle, say=say)
    if missing:
        raise _not_there(plan_file, [f"{name}/{file}" for file in missing])
    return folder


def _looked_for(model_id: str) -> list[str]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}"
    return [str(folder / "snapshots" / "*" / name) for name in ("config.json", "model.safetensors", "model.safetensors.index.json")]


def _not_there(plan_file: PlanFile, looked_for: list[str]) -> WeightsMissingError:
    shown = ", ".join(looked_for[:6]) + (f" and {len(looked_for) - 6} more" if len(looked_for) > 6 else "")
    where = "in its folder" if plan_file.local_path else "in the cache, and the hub cannot be reached"
    return WeightsMissingError(
        f"the weights of {plan_file.model_id} are not {where}; looked for {shown}",
        hint="`ftadvise run PLAN --rehearse` measures memory and speed with random weights, without downloading",
    )
