"""`ftadvise data`, and the options that say how data is read, in every command that reads data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftadvise.estimator.plan_file import read_plan_file

Command = Callable[..., tuple[str, str]]
MODEL = ("--model", "Qwen-7B", "--gpu", "RTX 4090")


@pytest.fixture
def columns() -> int:
    """A usual terminal."""
    return 80


@pytest.fixture
def command(ftadvise: Callable[..., Any]) -> Command:
    """Run a command that must end with `code`; what it wrote on stdout and stderr."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        ended, out, err = ftadvise(*arguments)
        assert ended == code, err
        return out, err

    return run


def _write(name: str, *rows: object) -> str:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def test_what_was_found_is_shown_in_eighty_columns(command: Command) -> None:
    rows = [{"instruction": f"Say {number} " * 9, "output": "word " * number} for number in range(1, 60)]
    out, err = command("data", _write("my rows.jsonl", *rows, rows[0], {"instruction": "x", "output": ""}))
    assert "alpaca format, 61 rows  recognised by instruction, output" in out
    assert "60 to learn, 1 duplicates, kept" in out
    assert "1 with nothing to learn" in " ".join(out.split())
    assert "--seq-len 128 cuts nothing" in out
    assert "⟦word ⟧" in out
    assert "my rows.jsonl, line 60: says the same as my rows.jsonl, line 1" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert "next: ftadvise plan --data 'my rows.jsonl'" in err


def test_chinese(command: Command) -> None:
    out, err = command(
        "data", _write("a.jsonl", {"text": "甲"}, {"text": "甲"}), "--lang", "zh", "--eval-data", _write("b.jsonl", {"text": "乙"})
    )
    assert "2 行用于训练" in out
    assert "a.jsonl, line 2: 与 a.jsonl 第 1 行内容相同" in out
    assert "下一步" in err


def test_control_characters_of_the_data_never_reach_the_terminal(command: Command) -> None:
    hostile = "\x1b[31m\x07\u202e\x9b"
    rows = [{"id": hostile, "text": f"a{hostile}b"}, {"id": hostile, "text": "c"}, {"id": "x", f"col{hostile}": hostile}]
    out, err = command("data", _write("a.jsonl", *rows), code=2)
    assert "a\ufffd[31m" in out
    for character in hostile.replace("[31m", ""):
        assert character not in out + err


def test_a_run_that_would_stop_is_exit_code_2_after_everything_was_shown(command: Command) -> None:
    name = _write("a.jsonl", {"text": "fine"}, "{broken", {"text": "fine too"})
    out, err = command("data", name, code=2)
    assert "2 to learn, 1 broken" in out
    assert "error: a.jsonl, line 2: broken JSON" in err
    assert "--skip-broken" in err
    out, err = command("data", name, "--skip-broken")
    assert "next: ftadvise plan --data a.jsonl --skip-broken" in err
    document = json.loads(command("data", name, "--skip-broken", "--json")[0])
    assert (document["schema"], document["rows"], document["problems"]) == ("ftadvise.data/1", 2, {"broken": 1})


def test_the_settings_of_the_options_are_in_the_plan(command: Command) -> None:
    rows = [{"Frage": f"question {number}", "Antwort": f"answer {number}"} for number in range(40)]
    options = ("--columns", "instruction=Frage,output=Antwort", "--eval-share", "0.1", "--learn", "all", "--template", "chatml")
    name = _write("rows.jsonl", *rows, "{")
    _, err = command("data", name, *options, "--skip-broken", "--drop-duplicates")
    again = err.partition("next: ftadvise ")[2].split()
    assert again[:3] == ["plan", "--data", "rows.jsonl"]
    command(*again, *MODEL, "-o", "plan.yaml")
    settings = read_plan_file(Path("plan.yaml")).data
    assert settings.to_dict() == {
        "path": "rows.jsonl",
        "format": None,
        "columns": {"instruction": "Frage", "output": "Antwort"},
        "labels": [],
        "eval_share": 0.1,
        "eval_path": None,
        "learn": "all",
        "template": "chatml",
        "skip_broken": True,
        "drop_duplicates": True,
    }
    document = json.loads(command("plan", *MODEL, "--data", name, *options, "--skip-broken", "--json")[0])
    assert (document["data"]["examples"], document["request"]["data"]["path"]) == (36, "rows.jsonl")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("data", "a.jsonl", "--columns", "instruction"), "--columns 'instruction' is not ROLE=COLUMN"),
        (("data", "a.jsonl", "--format", "alpacca"), "'alpacca' is no data format"),
        (("data", "a.jsonl", "--eval-share", "2"), "eval_share must be at least 0"),
        (("data", "b.jsonl"), "no such data file"),
        (("plan", *MODEL, "--skip-broken"), "--skip-broken says how data is read, and there is none"),
        (("estimate", *MODEL, "--data", "a.jsonl", "--format", "messages"), "a.jsonl, line 1: columns are missing"),
    ],
)
def test_mistakes_are_one_line(command: Command, arguments: tuple[str, ...], wanted: str) -> None:
    _write("a.jsonl", {"text": "once"})
    assert wanted in command(*arguments, code=2)[1]


def test_a_plan_of_before_with_only_a_path_is_read_and_unknown_keys_are_named(command: Command) -> None:
    command("plan", *MODEL, "--data", _write("a.jsonl", {"text": "once"}), "-o", "plan.yaml")
    document = yaml.safe_load(Path("plan.yaml").read_text(encoding="utf-8"))
    document["data"] = {"path": "a.jsonl"}
    Path("old.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    assert read_plan_file(Path("old.yaml")).data.path == "a.jsonl"
    document["data"] = {"path": "a.jsonl", "eval_shair": 0.1}
    Path("odd.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    err = command("export", "odd.yaml", "--to", "python", code=2)[1]
    assert "unknown key 'data.eval_shair'" in err
    assert "did you mean eval_share" in err
    document["data"] = {"path": "a.jsonl", "columns": {"text": 5}}
    Path("odd.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    assert "columns and labels are names" in command("export", "odd.yaml", "--to", "python", code=2)[1]


def test_rows_can_be_written_for_other_trainers(command: Command) -> None:
    _, err = command("data", _write("a.jsonl", {"question": "q", "answer": "a"}), "--write", "out.jsonl")
    assert "wrote 1 rows to out.jsonl" in err
    row = json.loads(Path("out.jsonl").read_text(encoding="utf-8"))
    assert row == {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert "out.jsonl: exists already" in command("data", "a.jsonl", "--write", "out.jsonl", code=2)[1]


def test_it_starts_without_torch_and_its_like(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "once"}\n', encoding="utf-8")
    code = (
        "import sys\nfrom ftadvise.cli import main\nsys.argv = ['ftadvise', 'data', 'a.jsonl', '--model', 'SmolLM2-135M-Instruct']\n"
        "try:\n    main()\nfinally:\n"
        "    print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
