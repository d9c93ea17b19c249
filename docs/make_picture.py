"""Makes docs/picture.svg, the terminal picture of the README: a real plan, and the report of a real run, as the commands print them.

Run: python docs/make_picture.py RUN_DIR (`make picture` takes the run that `make demo` left).
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ftadvise import api
from ftadvise.rendering.plan_view import plan_view
from ftadvise.rendering.report_view import report_view
from ftadvise.runner.report import read_report

PICTURE = Path(__file__).parent / "picture.svg"
COLUMNS = 100
MODEL, GPU = "Qwen-7B", "RTX 3060 12GB"


def main(run_dir: Path) -> None:
    """Print both commands with their answers into a recording console, and save what it shows."""
    console = Console(record=True, width=COLUMNS, force_terminal=True, color_system="truecolor", file=io.StringIO(), highlight=False)
    console.print(_prompt(f'ftadvise plan --model {MODEL} --gpu "{GPU}"'))
    console.print(plan_view(api.plan(MODEL, gpu=GPU), "en"))
    console.print()
    console.print(_prompt("ftadvise run ftadvise-runs/demo/plan.yaml   # the embedded SmolLM2-135M, on a CPU"))
    console.print(report_view(read_report(run_dir), "en"))
    svg = console.export_svg(title="ftadvise")
    # rich points to web fonts on somebody's server; a picture should load nothing
    PICTURE.write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")


def _prompt(command: str) -> Text:
    return Text.assemble(("$ ", "bold green"), (command, "bold"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
