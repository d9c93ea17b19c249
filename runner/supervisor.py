"""`run_plan`: from a plan to a finished run, however many attempts it takes. Light: torch is the workers' business."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftadvise.estimator.calibration import RunKind
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.plan_file import PlanFile, check_made_for
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.calibrated import calibration_is_off
from ftadvise.profiles.errors import (
    FtadviseError,
    InputError,
    InterruptedRunError,
    NothingFitsError,
    OutOfMemoryError,
    SaveFailedError,
    TrainingDivergedError,
)
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.resolve_model import resolve_model
from ftadvise.runner.attempt import ATTEMPTS, Attempt, Outcome, Request, attempts_so_far, read_outcome, read_steps, write_request
from ftadvise.runner.checkpoints import all_checkpoints, damage, last_checkpoint
from ftadvise.runner.child_process import run_in_child
from ftadvise.runner.fallback import next_recipe
from ftadvise.runner.launch import Launch
from ftadvise.runner.report import RunReport, read_report, write_report
from ftadvise.runner.run_folder import check_run_folder, claim_run_folder, make_run_folder, release_run_folder
from ftadvise.runner.run_lock import lock_run_folder
from ftadvise.runner.supported import check_installed, check_supported
from ftadvise.runner.timeline_points import join_timelines, read_timeline
from ftadvise.runner.trackers import check_trackers

if TYPE_CHECKING:
    from rich.console import Console

REHEARSAL_STEPS = 4
"""One to warm up and three for the speed."""
Start = Callable[[Path, PlanFile], Outcome]
"""How an attempt is executed: given its request.json and its plan."""


def run_plan(
    plan_file: PlanFile,
    *,
    out_dir: Path,
    hardware: Hardware,
    resume: bool = False,
    rehearse: bool = False,
    max_steps: int | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    fallback: bool = True,
    force: bool = False,
    track: Sequence[str] = (),
    launch: Launch | None = None,
    lang: str = "en",
    console: Console | None = None,
    kind: RunKind = "run",
    start: Start | None = None,
) -> RunReport:
    """Execute the plan in worker processes; leave the trained weights and report.json in `out_dir`.

    An attempt that runs out of memory is followed by one with the next fall-back (`fallback.next_recipe`), in a fresh process and from the
    last checkpoint, until one gets to the end or nothing is left to lower.

    Args:
        hardware: this machine; the plan must have been made for it.
        resume: continue from the last checkpoint in `out_dir`, with the fall-backs that the run has taken so far.
        rehearse: random weights, a few steps, nothing saved but the report.
        max_steps: optimizer steps instead of the recipe's.
        fallback: whether a run that is out of memory goes on with less.
        force: run although the estimate says that it cannot fit.
        track: experiment trackers ("tensorboard", ...), none unless asked for.
        launch: how many processes on how many machines; default one for each GPU of a sharded recipe, else one.
        console: where progress goes; default stderr.
        kind: what the run is called in this machine's calibration, to which it is added unless `without_calibration()` holds.
        start: executes an attempt; default in a process of its own. `in_this_process` saves the start of one.

    Raises:
        InputError: plan, data, weights, folder or machine do not allow the run; nothing was trained.
        NothingFitsError: the estimate says that the recipe cannot fit, and `force` was not given.
        OutOfMemoryError: out of memory, and no fall-back is left or wanted.
        InterruptedRunError: told to stop; the state is saved.
        TrainingDivergedError, SaveFailedError: the last good state is kept.
    """
    if console is None:
        from rich.console import Console

        console = Console(stderr=True)
    say: Callable[[str], None] = lambda line: console.print(line, markup=False, highlight=False)  # noqa: E731
    launch = launch or Launch.of(plan_file.recipe, hardware)
    hardware = launch.together(hardware)
    check_trackers(track)
    recipe = check_run(plan_file, hardware=hardware, out_dir=out_dir, resume=resume, rehearse=rehearse, max_steps=max_steps, force=force)
    fallback = fallback and launch.nodes == 1  # the supervisors of several nodes do not speak with each other
    start = start or (lambda path, plan: run_in_child(path, plan.recipe, "cpu" if hardware.gpu is None else "cuda", launch))
    make_run_folder(out_dir)
    with lock_run_folder(out_dir):
        check_run_folder(out_dir, plan_file, resume=resume, rehearse=rehearse)  # another run may have ended since
        claim_run_folder(out_dir, plan_file, rehearse=rehearse)
        _name_damaged_checkpoints(out_dir, say)
        if not resume:
            shutil.rmtree(out_dir / ATTEMPTS, ignore_errors=True)
        recipe, changes = _as_far_as_lowered(out_dir, recipe), ""
        while True:
            number = len(attempts_so_far(out_dir)) + 1
            going_on = last_checkpoint(out_dir) is not None
            request = Request(
                number,
                str(out_dir),
                resume=resume or going_on,
                rehearse=rehearse,
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
                kind=kind,
                record=not calibration_is_off(),
                changes=changes,
                track=tuple(track),
                lang=lang,
            )
            plan = dataclasses.replace(plan_file, recipe=recipe)
            outcome = start(write_request(request, plan), plan)
            smaller = next_recipe(recipe) if outcome.status == "out_of_memory" and fallback and not rehearse else None
            if smaller is None:
                break
            recipe, changes = smaller.recipe, str(smaller)
            where = last_checkpoint(out_dir)
            say(f"attempt {number}: {outcome.message}; going on with {smaller} from {where.name if where else 'the beginning'}")
        if outcome.status != "done":
            release_run_folder(out_dir)
            raise error_of(outcome)
        report = _whole(read_report(request.folder), plan_file, out_dir)
        write_report(out_dir, report)
        shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)  # only an unfinished run needs them
    return report


def check_run(
    plan_file: PlanFile,
    *,
    hardware: Hardware,
    out_dir: Path,
    resume: bool = False,
    rehearse: bool = False,
    max_steps: int | None = None,
    force: bool = False,
) -> Recipe:
    """Everything that can be checked at once (the data is the worker's first business); changes nothing.

    Returns:
        The recipe as it will run, with its number of steps.

    Raises:
        InputError: the plan, the machine or the folder does not allow the run.
        NothingFitsError: the estimate says that the recipe cannot fit.
    """
    recipe = check_recipe(plan_file, hardware=hardware, rehearse=rehearse, max_steps=max_steps, force=force)
    check_run_folder(out_dir, plan_file, resume=resume, rehearse=rehearse)
    return recipe


def check_recipe(
    plan_file: PlanFile, *, hardware: Hardware, rehearse: bool = False, max_steps: int | None = None, force: bool = False
) -> Recipe:
    """The part of `check_run` that has nothing to do with a folder."""
    check_installed()
    check_made_for(plan_file, hardware)
    recipe = plan_file.recipe
    if rehearse or max_steps is not None:
        recipe = recipe.replace(max_steps=max_steps or REHEARSAL_STEPS)
    check_supported(recipe, hardware)
    if not force:
        check_fits(plan_file, recipe, hardware)
    return recipe


def check_fits(plan_file: PlanFile, recipe: Recipe, hardware: Hardware) -> None:
    """Refuse what cannot fit into the memory that is free now. A model that is not described anywhere here is let through.

    Raises:
        NothingFitsError: even the tensors alone, without the allocator's reserve, are more than what is free.
    """
    try:
        spec = resolve_model(plan_file.local_path or plan_file.model_id, offline=True)
    except InputError:
        return
    memory = estimate(spec, hardware, recipe).memory
    if memory.verdict == "does_not_fit":
        raise NothingFitsError(
            f"{recipe.label} of {plan_file.model_id} needs about {_gib(memory.device_used_bytes)}, {_gib(memory.available_bytes)} are free",
            hint="make a new plan with `ftadvise plan`, or run it all the same with --force",
        )


def error_of(outcome: Outcome) -> FtadviseError:
    """The error that an outcome other than "done" stands for."""
    kinds = (InputError, NothingFitsError, OutOfMemoryError, TrainingDivergedError, SaveFailedError, InterruptedRunError)
    kind = next((kind for kind in kinds if kind.exit_code == outcome.exit_code), FtadviseError)
    return kind(outcome.message, hint=outcome.hint)


def history(out_dir: Path) -> tuple[Attempt, ...]:
    """The attempts of the run in `out_dir` so far, from the files that they left."""
    found: list[Attempt] = []
    recipe: Recipe | None = None
    for request, plan in attempts_so_far(out_dir):
        outcome = read_outcome(request.folder) or Outcome("failed", "killed")
        before = recipe or plan.recipe
        changes = {
            field.name: [getattr(before, field.name), getattr(plan.recipe, field.name)]
            for field in dataclasses.fields(Recipe)
            if getattr(before, field.name) != getattr(plan.recipe, field.name)
        }
        recipe = plan.recipe
        found.append(Attempt(request.number, outcome.status, *read_steps(request.folder), outcome.message, changes))
    return tuple(found)


def _name_damaged_checkpoints(out_dir: Path, say: Callable[[str], None]) -> None:
    """Say which checkpoints are passed over when a run goes on, and why."""
    for checkpoint in all_checkpoints(out_dir):
        wrong = damage(checkpoint)
        if wrong is not None:
            say(f"{checkpoint.name} is damaged and passed over: {wrong}")


def _as_far_as_lowered(out_dir: Path, recipe: Recipe) -> Recipe:
    """The recipe with the fall-backs that earlier attempts of this run took."""
    earlier = attempts_so_far(out_dir)
    if not earlier:
        return recipe
    last = earlier[-1][1].recipe
    lowered = ("micro_batch", "gradient_accumulation", "gradient_checkpointing")
    return recipe.replace(**{name: getattr(last, name) for name in lowered})


def _whole(report: RunReport, plan_file: PlanFile, out_dir: Path) -> RunReport:
    """The last attempt's report with what came before it."""
    timelines = [read_timeline(request.folder / "timeline.json") for request, _ in attempts_so_far(out_dir)]
    attempts = tuple(dataclasses.asdict(attempt) for attempt in history(out_dir))
    return dataclasses.replace(report, plan=plan_file.to_dict(), attempts=attempts, timeline=join_timelines(timelines))


def in_this_process(hardware: Hardware, console: Console | None = None) -> Start:
    """For `run_plan(start=...)`: no process of its own. Out of memory then leaves this process as it is."""

    def start(path: Path, _plan: PlanFile) -> Outcome:
        from ftadvise.runner.worker import execute

        return execute(path, hardware, console)

    return start


def _gib(size_bytes: Any) -> str:
    return f"{size_bytes / (1 << 30):.2f} GiB"
