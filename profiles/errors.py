"""The one error tree. It lives in the lowest room so that every room can raise it.

FtadviseError              exit code 1: something we did not foresee
+-- InputError             2: the user's command, file or name is wrong
+-- NothingFitsError       3: no recipe fits the hardware
+-- PredictionMissedError  4: measured and predicted differ by more than asked for
+-- OutOfMemoryError       5: the run itself ran out of memory
+-- TrainingDivergedError  6: the loss or the gradients are no longer numbers; the last good state is kept
+-- SaveFailedError        7: a state could not be written (disk full, folder gone or read-only); the last good one is kept
+-- InterruptedRunError  130: Ctrl-C during a run; its state is saved
"""

from __future__ import annotations

from collections.abc import Iterable

from ftadvise.profiles.secrets import without_secrets


class FtadviseError(Exception):
    """Base of all errors shown to a user as one line, in which no token is.

    Args:
        message: what is wrong and why, one sentence, no trailing newline.
        hint: the next command to type or the nearest valid name; shown on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(without_secrets(message))
        self.hint = hint and without_secrets(hint)


class InputError(FtadviseError):
    """Wrong usage or input: an unknown name, a broken file, a contradiction."""

    exit_code = 2


class NothingFitsError(FtadviseError):
    """No recipe fits the hardware."""

    exit_code = 3


class PredictionMissedError(FtadviseError):
    """Measured memory differs from the prediction by more than `--fail-on-miss` allows."""

    exit_code = 4


class OutOfMemoryError(FtadviseError):
    """The training run ran out of memory."""

    exit_code = 5


class TrainingDivergedError(FtadviseError):
    """The loss, the gradients or the weights are no longer numbers; the last good checkpoint is kept."""

    exit_code = 6


class SaveFailedError(FtadviseError):
    """The training state could not be written: the disk is full, or the folder is gone or read-only; the last checkpoint is kept."""

    exit_code = 7


class InterruptedRunError(FtadviseError):
    """The user stopped a training run; the hint says how to continue it."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str | None:
    """A hint naming the known names nearest to `name`, or None when none is near.

    Nearness ignores case; source: `difflib.get_close_matches` with its default cut-off of 0.6.
    """
    import difflib  # needed for a wrong name only

    by_folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), list(by_folded), n=limit)
    if not near:
        return None
    return "did you mean " + " or ".join(by_folded[match] for match in near) + "?"
