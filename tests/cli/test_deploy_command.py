"""`ftadvise deploy`, as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "runner"))

from made_runs import make_run  # noqa: E402
from small_models import small_model  # noqa: E402


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    return make_run(folder / "run", small_model(folder / "base")).folder


def test_a_gguf_file_and_a_table_of_memory(ftadvise: Any, run_folder: Path) -> None:
    outcome = ftadvise("deploy", str(run_folder), "--to", "gguf", "-o", "out", "--gpu", "RTX 4090", "--concurrent", "4", "--lang", "en")
    assert outcome.code == 0, outcome.err
    assert Path("out/run-q8_0.gguf").stat().st_size > 10_000
    assert "merging" in outcome.err
    assert "merging" not in outcome.out, "progress goes to stderr"
    assert "4 × 256 tokens" in outcome.out
    assert "RTX 4090" in outcome.out
    assert "> gguf:q8_0" in outcome.out
    assert "tenants that fit" in outcome.out
    again = ftadvise("deploy", str(run_folder), "--to", "gguf", "-o", "out", "--lang", "en")
    assert again.code == 2
    assert "already there" in again.err
    assert "--force" in again.err


def test_lines_to_type_are_never_broken(ftadvise: Any, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    outcome = ftadvise("deploy", str(run_folder), "--to", "vllm", "--tenants", "2", "--lang", "zh")
    assert outcome.code == 0, outcome.err
    serve = [line for line in outcome.out.splitlines() if line.startswith("vllm serve")]
    assert any("--enable-lora" in line and line.endswith("--max-cpu-loras 2") for line in serve)
    assert "多个" not in outcome.out
    assert "2 个租户" in outcome.out
    assert "合并" in outcome.out


def test_one_json_document_and_nothing_else(ftadvise: Any, run_folder: Path) -> None:
    outcome = ftadvise("deploy", str(run_folder), "--to", "vllm", "--json", "--context", "128", "--gpu", "A100 80GB")
    document = json.loads(outcome.out)
    assert document["schema"] == "ftadvise.deploy/1"
    assert document["serving"] == {"context_tokens": 128, "concurrent": 1}
    assert document["available_bytes"] > 70 << 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "gguff"), "did you mean gguf"),
        (("--to", "gguf", "--quantization", "q4_km"), "q4_k_m"),
        (("--to", "vllm", "--gpu", "no such card"), "no such card"),
        (("--to", "vllm", "--tenants", "0"), "0 is not in the range"),
        ((), "--to"),
    ],
)
def test_mistakes_are_one_line_with_what_to_do(ftadvise: Any, run_folder: Path, arguments: tuple[str, ...], said: str) -> None:
    outcome = ftadvise("deploy", str(run_folder), *arguments, "--lang", "en")
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert not (run_folder / "deploy").exists()


def test_a_folder_without_a_run_says_so(ftadvise: Any, tmp_path: Path) -> None:
    outcome = ftadvise("deploy", str(tmp_path), "--to", "gguf", "--lang", "en")
    assert outcome.code == 2
    assert "there is no run" in outcome.err
