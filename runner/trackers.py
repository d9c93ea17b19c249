"""Experiment trackers, only when asked for; their logs go into `<run folder>/logs`."""

from __future__ import annotations

import netrc
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ftadvise.profiles.errors import InputError, did_you_mean

TRACKERS = ("tensorboard", "trackio", "wandb")
LOGS = "logs"
_MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}
_WANDB_AT_HOME = ("offline", "dryrun", "disabled")
"""Values of WANDB_MODE with which wandb needs no account."""


def check_trackers(track: Sequence[str]) -> None:
    """Check, before anything is loaded, that each tracker can be used.

    Raises:
        InputError: an unknown name, a package that is not installed, or an account that is not logged in (the training could not ask).
    """
    for name in track:
        if name not in TRACKERS:
            raise InputError(f"unknown tracker {name!r}", hint=did_you_mean(name, TRACKERS) or f"known trackers: {', '.join(TRACKERS)}")
        if not any(find_spec(module) for module in _MODULES[name]):
            raise InputError(f"--track {name}: the package {name} is not installed", hint=f"pip install {name}")
    if "wandb" in track and os.environ.get("WANDB_MODE") not in _WANDB_AT_HOME and not _wandb_is_logged_in():
        raise InputError("--track wandb: not logged in", hint="wandb login, or set WANDB_MODE=offline to keep the log in the run folder")


def tracking_arguments(track: Sequence[str], out_dir: Path) -> dict[str, Any]:
    """The arguments of SFTConfig for these trackers; without any, nothing is reported anywhere.

    The trackers read from the environment where their logs go: it is set here, in the process that trains. What the user has set stays.
    """
    logs = out_dir / LOGS
    os.environ.setdefault("DISABLE_KUBEFLOW_INTEGRATION", "TRUE")  # transformers reports to a Kubeflow server that nobody asked for
    if not track:
        return {"report_to": "none"}
    settings = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(logs / "tensorboard")},
        "trackio": {"TRACKIO_DIR": str(logs / "trackio")},
        "wandb": {"WANDB_DIR": str(logs), "WANDB_PROJECT": "ftadvise"},
    }
    for name in track:
        for variable, value in settings[name].items():
            os.environ.setdefault(variable, value)
    logs.mkdir(parents=True, exist_ok=True)  # wandb falls back to the temporary folder when it is not there
    arguments: dict[str, Any] = {"report_to": list(dict.fromkeys(track)), "run_name": out_dir.name}
    if "trackio" in track:
        arguments |= {"project": "ftadvise", "trackio_static_space_id": False}  # no page on the hub unless the user's variables say so
    return arguments


def _wandb_is_logged_in() -> bool:
    """Whether there is a key in the environment or an entry in the netrc file; the key itself is not looked at."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    candidates = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(each).expanduser() for each in candidates if each):
        try:
            if host in netrc.netrc(path).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
