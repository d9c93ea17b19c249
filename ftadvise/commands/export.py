"""`ftadvise export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("export")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("ftadvise-plan.yaml"))
@click.option("--to", "name", metavar="NAME", help="The target; --list shows them.")
@click.option(
    "--output", "-o", metavar="DIR", help="Folder for the files; - prints the first (default: - for one file, else ftadvise-NAME)."
)
@click.option("--list", "as_list", is_flag=True, help="List the targets.")
@json_option
@lang_option
def command(plan: Path, name: str | None, output: str | None, as_list: bool, as_json: bool, lang: str | None) -> None:
    """Write PLAN (default: ftadvise-plan.yaml) as the configuration of another trainer.

    What the target cannot express is listed on stderr, with what it does instead, and the command that starts it.
    """
    from ftadvise.advisor.export import TARGETS, export_plan, target_of
    from ftadvise.advisor.export.price import price_there
    from ftadvise.estimator.plan_file import read_plan_file
    from ftadvise.profiles.errors import InputError
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.export_view import show_account, show_price, show_start, targets_view

    chosen = language(lang)
    if as_list:
        if as_json:
            print_json({"schema": "ftadvise.targets/1", "targets": [_target(each) for each in TARGETS.values()]})
        else:
            out_console().print(targets_view(TARGETS.values(), chosen))
        return
    if name is None:
        raise InputError("--to names no target", hint=f"--to {' | '.join(TARGETS)}")
    target = target_of(name)
    plan_file = read_plan_file(plan)
    exported = export_plan(plan_file, name)
    folder = _folder(output, name, len(exported.files))
    if as_json and output is None:
        folder = None
    backups = _write(folder, exported.files) if folder else []
    there = price_there(plan_file, target, exported)
    if as_json:
        print_json(_document(target, exported, there))
        return
    if folder is None:
        click.echo(next(iter(exported.files.values())), nl=False)
    start = exported.command if folder is None else f"cd {shlex.quote(str(folder))} && {exported.command}"
    show_account(target, exported, folder, backups, plan_file.recipe, chosen)
    if there is not None:
        show_price(there, plan_file, chosen)
    show_start(start, chosen)


def _folder(output: str | None, name: str, files: int) -> Path | None:
    if output == "-" or (output is None and files == 1):
        return None
    return Path(output or f"ftadvise-{name}")


def _write(folder: Path, files: Any) -> list[Path]:
    """Write the files, each one whole or not at all. What was there with other content is kept; returns the copies.

    Raises:
        InputError: the folder cannot be made, or a file not be written.
    """
    from ftadvise.estimator.plan_file import write_text_atomically
    from ftadvise.profiles.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        changed = {folder / name: text for name, text in files.items() if _content(folder / name) != text.encode()}
        backups = [_keep(path) for path in changed if path.exists()]
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})", hint="choose another folder with -o") from None
    for path, text in reversed(changed.items()):  # the one that the others belong to comes last
        write_text_atomically(path, text)
    return backups


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _keep(path: Path) -> Path:
    """A copy under a name that is free, or holds the same already."""
    number, content = 0, path.read_bytes()
    while True:
        copy = path.with_name(f"{path.name}.bak{number or ''}")
        if not copy.exists() or copy.read_bytes() == content:
            copy.write_bytes(content)
            return copy
        number += 1


def _target(target: Any) -> dict[str, Any]:
    return {"name": target.name, "title": target.title, "stack": target.stack, "translates": sorted(target.translates)}


def _document(target: Any, exported: Any, there: Any) -> dict[str, Any]:
    return {
        "schema": "ftadvise.export/1",
        "target": target.name,
        "title": target.title,
        "command": exported.command,
        "files": dict(exported.files),
        "missing": [{"field": field, "reason": why.en, "reason_zh": why.zh} for field, why in exported.missing.items()],
        "notes": [{"note": note.en, "note_zh": note.zh} for note in exported.notes],
        "estimate": there.to_json() if there is not None else None,
    }
