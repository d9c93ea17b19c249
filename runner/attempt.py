"""One attempt of a run: what the supervisor asks of a worker, and what came of it. Files in `<run folder>/attempts/N/`.

plan.yaml       the plan as this attempt executes it (a fall-back changes the recipe)
request.json    how: resume, rehearse, what came before
steps.json      the optimizer steps from which and to which it got
outcome.json    what came of it; missing when the worker was killed (outcome-K.json of rank K where there are several)
report.json     the report of an attempt that got to the end
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ftadvise.estimator.calibration import RunKind
from ftadvise.estimator.plan_file import PlanFile, read_plan_file, write_plan_file, write_text_atomically
from ftadvise.profiles.errors import InputError

Status = Literal["done", "out_of_memory", "interrupted", "failed"]
ATTEMPTS = "attempts"


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker is to do. The plan, with the recipe to execute, lies beside it."""

    number: int
    out_dir: str
    resume: bool = False
    rehearse: bool = False
    trust_remote_code: bool = False
    allow_pickle: bool = False
    kind: RunKind = "run"
    record: bool = True
    """Whether the run is added to this machine's calibration."""
    changes: str = ""
    """What a fall-back changed in the recipe, in words."""
    track: tuple[str, ...] = ()
    lang: str = "en"

    @property
    def folder(self) -> Path:
        """`<run folder>/attempts/<number>`."""
        return Path(self.out_dir) / ATTEMPTS / str(self.number)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt. `message` and `hint` are empty when it is done."""

    status: Status
    message: str = ""
    hint: str | None = None
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One line of the report's list of attempts. `changes` maps each recipe field that was lowered to [before, now]."""

    number: int
    status: Status
    from_step: int
    to_step: int
    message: str = ""
    changes: dict[str, list[Any]] = dataclasses.field(default_factory=dict)


def write_request(request: Request, plan_file: PlanFile, folder: Path | None = None) -> Path:
    """Make the attempt's folder (or `folder`) with plan.yaml and request.json; returns the path of the latter.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = folder or request.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error})", hint="choose another folder with --out") from None
    write_plan_file(folder / "plan.yaml", plan_file)
    path = folder / "request.json"
    write_text_atomically(path, _json(dataclasses.asdict(request)))
    return path


def read_request(path: Path) -> tuple[Request, PlanFile]:
    """The request at `path` and the plan beside it.

    Raises:
        InputError: either is broken.
    """
    values = _document(path)
    try:
        request = Request(**{**values, "track": tuple(values.get("track", ()))})
    except TypeError as error:
        raise InputError(f"{path}: not a request of this version ({error})") from None
    return request, read_plan_file(path.with_name("plan.yaml"))


def write_outcome(folder: Path, outcome: Outcome, rank: int = 0) -> None:
    """Leave outcome.json in the attempt's folder; a disk that is full must not hide why the run ended."""
    with contextlib.suppress(InputError):
        write_text_atomically(folder / _outcome_name(rank), _json(dataclasses.asdict(outcome)))


def read_outcome(folder: Path, rank: int = 0) -> Outcome | None:
    """The outcome, or None when the worker left none (it was killed)."""
    try:
        outcome = Outcome(**_document(folder / _outcome_name(rank)))
    except (InputError, TypeError):
        return None
    return outcome if outcome.status in get_args(Status) else None


def _outcome_name(rank: int) -> str:
    return f"outcome-{rank}.json" if rank else "outcome.json"


def write_steps(folder: Path, first: int, last: int) -> None:
    """Remember that the attempt began after optimizer step `first` and has finished step `last`."""
    with contextlib.suppress(InputError):
        write_text_atomically(folder / "steps.json", _json({"from": first, "to": last}))


def read_steps(folder: Path) -> tuple[int, int]:
    """(began after step, finished step) of an attempt; (0, 0) for one that never began."""
    try:
        found = _document(folder / "steps.json")
        return int(found["from"]), int(found["to"])
    except (InputError, KeyError, TypeError, ValueError):
        return 0, 0


def attempts_so_far(out_dir: Path) -> list[tuple[Request, PlanFile]]:
    """The requests of earlier attempts in this run folder, first to last; unreadable ones are left out."""
    folder = out_dir / ATTEMPTS
    numbers = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []
    found = []
    for number in numbers:
        with contextlib.suppress(InputError):
            found.append(read_request(folder / str(number) / "request.json"))
    return found


def _document(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a mapping")
    return values


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
