"""The command line: the group, how errors and exit codes come out. Each command is a file in `commands/`.

Exit codes: 0 ok, 1 a bug, 2 wrong usage or input, 3 nothing fits, 4 the prediction missed (--fail-on-miss), 5 out of memory while running,
6 the training diverged, 7 a state could not be saved, 130 interrupted.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from ftadvise import __version__
from ftadvise.profiles.errors import FtadviseError, did_you_mean
from ftadvise.profiles.secrets import without_secrets

# name: one line of help. Modules are imported when their command runs, so that --help starts fast.
COMMANDS = {
    "plan": "Recommend a recipe, say why, and write ftadvise-plan.yaml.",
    "estimate": "Price exactly one recipe: memory, time, whether it fits.",
    "data": "Show what a run would learn from a data file: format, samples, lengths, problems.",
    "run": "Execute a plan, then show predicted beside measured.",
    "report": "Show a finished run again.",
    "chat": "Try the model that a run trained.",
    "eval": "Measure the model that a run trained beside its base.",
    "merge": "Merge the adapter that a run trained into its base.",
    "deploy": "Make a finished run ready for a server, and say what serving takes.",
    "export": "Write a plan as the configuration of another trainer.",
    "calibrate": "Measure this machine, so that its plans are right about time.",
    "probe": "Show this machine: GPUs, memory, CPU.",
    "doctor": "Say what is wrong with the installation, and the command that mends it.",
    "explain": "Explain one rule: what it says, when it fires, its source.",
    "rules": "List the rules, or check rules of your own.",
    "gpus": "List the GPUs with a profile.",
    "models": "List the models with a card.",
}


_COLLECT_AFTER = 50_000
"""Objects made before the garbage collector looks for cycles. A command makes many that live as long as it does: looking after every 700
of them, and once more at the end, takes a tenth of a cold `ftadvise plan` and finds nothing."""


class _LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of a user's path."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"ftadvise.commands.{name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Name the nearest command when there is no such one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS) or "ftadvise --help lists the commands"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing their modules."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ftadvise")
def cli() -> None:
    """Which LoRA / QLoRA fine-tuning recipe fits your GPU, what it costs in memory and time, and a run that shows how right that was.

    \b
      ftadvise plan --model Qwen-7B --gpu "RTX 4090"
      ftadvise run ftadvise-plan.yaml
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `ftadvise` command: one line per error on stderr, and the documented exit codes."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if arguments is None:  # a process of its own
        gc.set_threshold(_COLLECT_AFTER, 20, 20)
    try:
        result = cli.main(args=arguments, prog_name="ftadvise", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except FtadviseError as error:
        code = show_error(error, error.hint, error.exit_code, arguments)
    except click.exceptions.Abort:
        code = show_error("interrupted", None, 130, arguments)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "ftadvise"
        code = show_error(error.format_message(), f"{command} --help", 2, arguments)
    except KeyboardInterrupt:
        code = show_error("interrupted", None, 130, arguments)
    except BrokenPipeError:  # the reader of our output left (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # the last resort: a bug of ours must not look like the user's fault
        if os.environ.get("FTADVISE_TRACEBACK"):
            raise
        line = without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        code = show_error(f"a bug in ftadvise: {line}", "set FTADVISE_TRACEBACK=1 to see where, and please report it", 1, arguments)
    if arguments is None:
        gc.freeze()
    sys.exit(code)


def show_error(error: FtadviseError | str, hint: str | None, code: int, arguments: Sequence[str] | None = None) -> int:
    """Print one error on stderr, in the language that the arguments or the locale ask for; returns the exit code."""
    message, head = str(error), "error: "
    from ftadvise.commands.options import language
    from ftadvise.profiles.printable import printable

    if language(_asked_language(sys.argv[1:] if arguments is None else arguments)) == "zh":
        from ftadvise.rendering.chinese import error_words

        head = "错误："
        message, hint = error_words(error, hint)
    color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    # names and contents of files are in it: they stay on one line and send the terminal nothing
    message = printable(" ".join(message.splitlines()))
    click.secho(f"{head}{message}", err=True, fg="red" if color else None, color=color)
    if hint:
        click.secho(f"  {printable(hint)}", err=True, color=color)
    return code


def _asked_language(arguments: Sequence[str]) -> str | None:
    """What follows the last --lang; the command line may be the very thing that is wrong, so it is not parsed."""
    found = None
    for index, argument in enumerate(arguments):
        if argument == "--lang":
            found = next(iter(arguments[index + 1 : index + 2]), None)
        elif argument.startswith("--lang="):
            found = argument.partition("=")[2]
    return found
