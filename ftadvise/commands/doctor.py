"""`ftadvise doctor`."""

from __future__ import annotations

import click

from ftadvise.commands.options import lang_option, language


@click.command("doctor")
@lang_option
def command(lang: str | None) -> int:
    """Check the installation and the machine; each problem comes with the command that mends it. Exit code 2 when there is one."""
    from ftadvise.doctor import checks
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.hardware_view import checks_view

    found = checks()
    out_console().print(checks_view(found, language(lang)))
    return 2 if any(not check.ok for check in found) else 0
