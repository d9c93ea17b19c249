"""What a deployment is asked for and what came of it; shared by all targets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftadvise.estimator.inference import InferenceMemory, Serving
from ftadvise.estimator.tenants import Adapter, Tenancy
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Gpu
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.runner.finished_run import FinishedRun


@dataclass(frozen=True, slots=True)
class Request:
    """One deployment. `folder` is where its files go; `say` is told before anything that takes long."""

    run: FinishedRun
    spec: ModelSpec
    adapter: Adapter | None
    folder: Path
    quantization: str | None
    serving: Serving
    tenants: int
    gpu: Gpu | None
    say: Callable[[str], None]

    @property
    def base(self) -> Path:
        """The folder of the base model, or of the fully fine-tuned one, which needs none."""
        return (self.run.base or self.run.trained).absolute()

    @property
    def merged(self) -> Path:
        """Where the lines to type put the merged model; the model itself after full fine-tuning."""
        return self.run.model or self.run.folder / "merged"

    @property
    def name(self) -> str:
        """A name for servers: of the run's folder, in letters, digits, dots and dashes."""
        return re.sub(r"[^A-Za-z0-9._]+", "-", self.run.folder.absolute().name).strip("-.") or "tuned"


@dataclass(frozen=True, slots=True)
class Command:
    """One line to type, and what it does."""

    what: str
    line: str


@dataclass(frozen=True, slots=True)
class Work:
    """What a target decided. `write` fills an empty folder, or is None when nothing can be made here; then `why` says why.

    `form` is the form of the weights that is served, `needs_bytes` what `write` puts on the disk at most beside a merged copy, `ram_bytes`
    what it holds at once beside the merging, which checks for itself.
    """

    form: str
    commands: tuple[Command, ...]
    write: Callable[[Path], None] | None = None
    why: str | None = None
    needs_bytes: int = 0
    ram_bytes: int = 0
    merges: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was made, what is left to type, and what serving will take."""

    target: str
    folder: Path | None
    files: dict[str, int]
    why: str | None
    commands: tuple[Command, ...]
    notes: tuple[str, ...]
    form: str
    serving: Serving
    memory: tuple[InferenceMemory, ...]
    tenants: tuple[Tenancy, ...] = field(default_factory=tuple)
    available_bytes: int | None = None
    gpu: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of `ftadvise deploy --json`."""
        return {
            "schema": "ftadvise.deploy/1",
            "target": self.target,
            "folder": None if self.folder is None else str(self.folder),
            "files": dict(self.files),
            "not_made": self.why,
            "commands": [{"what": each.what, "command": each.line} for each in self.commands],
            "notes": list(self.notes),
            "form": self.form,
            "serving": {"context_tokens": self.serving.context_tokens, "concurrent": self.serving.concurrent},
            "gpu": self.gpu,
            "available_bytes": self.available_bytes,
            "memory": [each.to_json() for each in self.memory],
            "tenants": [each.to_json() for each in self.tenants],
        }


def shell(*words: object) -> str:
    """The words as one command line, each quoted where the shell would read it otherwise."""
    return " ".join(shlex.quote(str(word)) for word in words)


def check_path(path: Path) -> None:
    """Refuse a path that cannot stand in a line to copy.

    Raises:
        InputError: it holds control characters.
    """
    if not str(path).isprintable():
        raise InputError(f"the path {str(path)[:100]!r} is not printable", hint="rename the folder")


def merge_command(request: Request) -> tuple[Command, ...]:
    """The line that merges the adapter, where there is one."""
    if request.run.adapter is None:
        return ()
    return (Command("merge the adapter into its 16-bit base", shell("ftadvise", "merge", request.run.folder, "-o", request.merged)),)
