"""`ftadvise chat`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftadvise.commands.options import lang_option, language

if TYPE_CHECKING:
    from ftadvise.runner.chat import Chat


@click.command("chat")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--base", is_flag=True, help="Talk to the base model instead of the trained one.")
@click.option("--compare", is_flag=True, help="Let the base model and the trained one answer each prompt.")
@click.option("--system", metavar="TEXT", help="A system prompt.")
@click.option("--prompt", metavar="TEXT", help="Answer this and end; piped input is one prompt too.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens of an answer, at most.")
@click.option("--temperature", type=click.FloatRange(0, 10), default=0.0, show_default=True, help="0 always takes the likeliest token.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model. Off unless asked for.")
@lang_option
def command(
    run_dir: Path,
    base: bool,
    compare: bool,
    system: str | None,
    prompt: str | None,
    max_new_tokens: int,
    temperature: float,
    trust_remote_code: bool,
    lang: str | None,
) -> None:
    """Try the model that RUN trained: a conversation on a terminal, or one answer with --prompt or piped input.

    In the conversation, /reset forgets what was said, /quit or Ctrl-D ends it, and Ctrl-C stops an answer.
    """
    if base and compare:
        raise click.UsageError("--base and --compare exclude each other")
    from ftadvise.runner.cpu_process import share_cores
    from ftadvise.runner.finished_run import default_device, finished_run

    share_cores()
    chosen = language(lang)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise click.UsageError("the prompt is empty")
    from ftadvise.rendering.console import err_console
    from ftadvise.rendering.texts import text

    console = err_console()
    run = finished_run(run_dir, with_base=base or compare, say=lambda line: console.print(line, markup=False))
    console.print(text("chat.loading", chosen, label=run.recipe.label, model=run.base_id), style="dim", markup=False)
    from ftadvise.runner.chat import open_chats

    chats = open_chats(
        run,
        default_device(),
        base=base or compare,
        tuned=not base,
        trust_remote_code=trust_remote_code,
        system=system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    if prompt is not None:
        _answer(chats, prompt.strip(), chosen)
    else:
        _converse(chats, chosen)


def _converse(chats: dict[str, Chat], lang: str) -> None:
    """Read prompts from the terminal until the user ends it."""
    from ftadvise.profiles.errors import InputError
    from ftadvise.rendering.texts import text

    with contextlib.suppress(ImportError):  # arrow keys and history, where there is readline
        import readline  # noqa: F401
    click.echo(text("chat.help", lang), err=True)
    while True:
        try:
            prompt = input("> ").strip()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("\n" + text("chat.help", lang), err=True)
            continue
        if prompt == "/quit":
            return
        if prompt == "/reset":
            for chat in chats.values():
                chat.reset()
            click.echo(text("chat.reset", lang), err=True)
        elif prompt.startswith("/"):
            click.echo(text("chat.help", lang), err=True)
        elif prompt:
            try:
                _answer(chats, prompt, lang)
            except KeyboardInterrupt:
                click.echo("\n" + text("chat.stopped", lang), err=True)
            except InputError as error:  # too long, or refused by the template: the conversation goes on
                from ftadvise.cli import show_error

                show_error(error, error.hint, error.exit_code, ["--lang", lang])


def _answer(chats: dict[str, Chat], prompt: str, lang: str) -> None:
    """Print each model's answer as it comes."""
    from ftadvise.profiles.printable import printable
    from ftadvise.rendering.texts import text
    from ftadvise.runner.quiet import quiet_libraries

    for name, chat in chats.items():
        if len(chats) > 1:
            click.secho(text(f"chat.{name}", lang), bold=sys.stdout.isatty())
        with quiet_libraries(), contextlib.closing(chat.reply(prompt)) as pieces:
            for piece in pieces:
                click.echo(printable(piece), nl=False)
                sys.stdout.flush()
        click.echo()
