"""What is in a run folder whose run has not finished, and how to go on."""

from __future__ import annotations

from pathlib import Path

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.printable import one_line
from ftadvise.runner.attempt import attempts_so_far, read_outcome, read_steps
from ftadvise.runner.checkpoints import last_checkpoint
from ftadvise.runner.run_lock import check_unlocked


def why_no_report(run_dir: Path) -> InputError:
    """The error that says why `run_dir` has no report: no run, a run under way, or one that stopped, with the command that continues it."""
    if not (run_dir / "run.json").exists():
        return InputError(f"{run_dir}: there is no run (no report.json)")
    attempts = attempts_so_far(run_dir)
    number = attempts[-1][0].number if attempts else 1
    try:
        check_unlocked(run_dir)
    except InputError:
        return InputError(f"{run_dir}: the run there is under way, in attempt {number}", hint="wait for it")
    checkpoint = last_checkpoint(run_dir)
    hint = f"ftadvise run PLAN --out {run_dir}" + (" --resume" if checkpoint else "")
    if not attempts:
        return InputError(f"{run_dir}: the run there has not finished, and trained nothing (no report.json)", hint=hint)
    folder = attempts[-1][0].folder if attempts[-1][0].folder.is_dir() else run_dir / "attempts" / str(number)
    outcome, (_, step) = read_outcome(folder), read_steps(folder)
    reason = "killed" if outcome is None else outcome.message or outcome.status
    problem = one_line(reason)[:200]
    kept = f"the last checkpoint is that of step {checkpoint.name.rpartition('-')[2]}" if checkpoint else "there is no checkpoint"
    return InputError(f"{run_dir}: the run there has not finished: attempt {number} got to step {step} ({problem}); {kept}", hint=hint)
