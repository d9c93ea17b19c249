"""Real training on the CPU: what was predicted is what is measured, the adapter loads back, Ctrl-C loses nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rich.console import Console  # noqa: E402

from ftadvise.estimator.plan_file import PlanFile, write_plan_file  # noqa: E402
from ftadvise.profiles.errors import InputError  # noqa: E402
from ftadvise.profiles.hardware import Hardware  # noqa: E402
from ftadvise.runner import train  # noqa: E402
from ftadvise.runner.adapters import PEFT_WARNINGS  # noqa: E402
from ftadvise.runner.load_model import load_model, load_tokenizer, torch_dtype  # noqa: E402
from ftadvise.runner.quiet import ignoring  # noqa: E402
from ftadvise.runner.report import comparison_rows, read_report  # noqa: E402
from ftadvise.runner.run_lock import LOCK_FILES  # noqa: E402
from ftadvise.runner.supervisor import check_run  # noqa: E402

MakePlan = Callable[..., PlanFile]
RunHere = Callable[..., Any]
QLORA = {"quantization": "nf4", "double_quantization": True, "adapter_dtype": "bf16", "gradient_checkpointing": True}


def _silent() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight short rows, so that one epoch is two optimizer steps."""
    rows = [{"instruction": f"What is {n} plus one?", "output": f"The answer is {n + 1}, 答案是 {n + 1}."} for n in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in LOCK_FILES)


def _logits(model: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(10, 26).reshape(1, -1)).logits


@pytest.mark.train
@pytest.mark.parametrize(("name", "recipe"), [("lora", {}), ("qlora", QLORA)])
def test_a_run_learns_measures_what_was_predicted_and_saves_an_adapter_that_loads_back(
    tmp_path: Path,
    tiny_model: Path,
    data: Path,
    make_plan: MakePlan,
    run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    recipe: dict[str, Any],
) -> None:
    from peft import PeftModel

    trained: list[Any] = []
    save = train.save_trained

    def save_and_keep(trainer: Any, *rest: Any) -> None:
        trained.append(_logits(trainer.model))
        save(trainer, *rest)

    monkeypatch.setattr(train, "save_trained", save_and_keep)
    plan = make_plan(tiny_model, data, max_steps=8, **recipe)
    out = tmp_path / name
    report = run_here(plan, out)

    assert [step for step, _ in report.losses] == list(range(1, 9))
    assert (report.losses[-1][1] or 99) < (report.losses[0][1] or 0) - 0.1, "the loss falls"
    rows = {row.name: row for row in comparison_rows(report)}
    assert abs(rows["total allocated"].error_percent or 0) < 5
    assert abs(rows["weights"].error_percent or 99) < 1
    assert (rows["quantisation constants"].measured_bytes == 0) == (name == "lora")
    assert rows["adapters + optimizer"].error_bytes == 0
    assert rows["reserved"].measured_bytes is None
    assert report.tokens_per_second is not None
    assert report.batch["sequences"] == 2
    assert report.answer is not None
    assert read_report(out) == report
    assert _contents(out) == ["adapter", "attempts", "report.json", "run.json"], "no checkpoint and no half file is left"

    base = load_model(tiny_model, plan.recipe, "cpu")
    before = _logits(base)
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (4, str(tiny_model))
    with ignoring(*PEFT_WARNINGS):
        loaded = PeftModel.from_pretrained(base, out / "adapter")
    for parameter_name, parameter in loaded.named_parameters():
        if "lora_" in parameter_name:
            parameter.data = parameter.data.to(torch_dtype(plan.recipe.adapter_dtype))
    torch.testing.assert_close(_logits(loaded), trained[0], rtol=1e-4, atol=1e-4)
    assert (_logits(loaded) - before).abs().max() > 1e-3, "the adapter does something"
    assert load_tokenizer(out / "adapter").chat_template


@pytest.mark.train
@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        ({"adapter_dtype": "bf16"}, torch.bfloat16),
        ({"quantization": "nf4", "adapter_dtype": "fp32"}, torch.float32),
        ({"method": "full", "optimizer": "adafactor"}, torch.float32),
    ],
)
def test_what_is_trained_has_the_dtype_of_the_recipe(
    tmp_path: Path,
    tiny_model: Path,
    data: Path,
    make_plan: MakePlan,
    run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
    recipe: dict[str, Any],
    dtype: Any,
) -> None:
    seen: list[Any] = []
    save = train.save_trained

    def save_and_look(trainer: Any, *rest: Any) -> None:
        seen.extend(parameter for parameter in trainer.model.parameters() if parameter.requires_grad)
        save(trainer, *rest)

    monkeypatch.setattr(train, "save_trained", save_and_look)
    plan = make_plan(tiny_model, data, max_steps=2, gradient_accumulation=1, **recipe)
    report = run_here(plan, tmp_path / "run")
    assert {parameter.dtype for parameter in seen} == {dtype}
    assert report.saved == ("model" if recipe.get("method") == "full" else "adapter")
    assert (tmp_path / "run" / str(report.saved)).is_dir()


@pytest.mark.train
def test_a_rehearsal_measures_without_weights_and_saves_nothing_else(
    tmp_path: Path, tiny_model: Path, data: Path, make_plan: MakePlan, run_here: RunHere, hardware: Hardware
) -> None:
    config_only = tmp_path / "config-only"
    config_only.mkdir()
    (config_only / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    plan = make_plan(config_only, data, seq_len=24, **QLORA)
    with pytest.raises(InputError, match="looked for"):
        run_here(plan, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a run that never began leaves nothing"
    report = run_here(plan, tmp_path / "run", rehearse=True, max_steps=3)
    assert (report.rehearsal, report.model["weights"], report.steps, report.saved) == (True, "random", 3, None)
    assert report.batch == {"sequences": 2, "length": 24, "masked": False}, "without a tokenizer every row has the full length"
    assert abs({row.name: row for row in comparison_rows(report)}["total allocated"].error_percent or 0) < 5
    assert _contents(tmp_path / "run") == ["attempts", "report.json", "run.json"]


_SCRIPT = """
import sys
from pathlib import Path
from ftadvise.estimator.plan_file import read_plan_file
from ftadvise.profiles.errors import FtadviseError
from ftadvise.profiles.hardware import Cpu, Hardware
from ftadvise.runner.supervisor import run_plan
hardware = Hardware((), Cpu("some cpu", 2, 2, False, False), 16 << 30, 12 << 30, "probed")
try:
    run_plan(read_plan_file(Path(sys.argv[1])), out_dir=Path(sys.argv[2]), hardware=hardware)
except FtadviseError as error:
    print(error, "|", error.hint, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.train
@pytest.mark.skipif(os.name == "nt", reason="SIGINT to a child process is a POSIX matter")
def test_ctrl_c_saves_and_resume_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, tiny_model: Path, data: Path, make_plan: MakePlan, run_here: RunHere, hardware: Hardware
) -> None:
    plan = make_plan(tiny_model, data, max_steps=20, gradient_accumulation=1)
    write_plan_file(tmp_path / "plan.yaml", plan)
    out = tmp_path / "run"
    command = [sys.executable, "-W", "error", "-c", _SCRIPT, str(tmp_path / "plan.yaml"), str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("step 4/"):
                process.send_signal(signal.SIGINT)
        code = process.wait(timeout=120)
    assert code == 130, "".join(said)
    assert "Traceback" not in "".join(said)
    assert "--resume" in said[-1]
    assert not (out / "report.json").exists()
    with pytest.raises(InputError, match="unfinished"):
        check_run(plan, hardware=hardware, out_dir=out)

    resumed = run_here(plan, out, resume=True)
    assert 4 <= resumed.resumed_from_step < 20
    whole = run_here(plan, tmp_path / "whole")
    assert [step for step, _ in resumed.losses] == list(range(1, 21))
    assert resumed.losses == whole.losses, "bit for bit"
    assert [attempt["status"] for attempt in resumed.attempts] == ["interrupted", "done"]


def test_bad_input_is_refused_before_torch_does_anything(
    tmp_path: Path, make_plan: MakePlan, run_here: RunHere, hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "prepare", lambda _job: pytest.fail("went on to the weights"))
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    plans = {
        "holds no rows": make_plan("org/model", empty),
        "no such data file": make_plan("org/model", tmp_path / "gone.jsonl"),
        "cannot be trained on a CPU": make_plan("org/model", compute_dtype="fp16"),
    }
    for wanted, plan in plans.items():
        with pytest.raises(InputError, match=wanted):
            run_here(plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.train
def test_target_modules_the_model_has_not_are_named_and_nothing_is_left(
    tmp_path: Path, tiny_model: Path, data: Path, make_plan: MakePlan, run_here: RunHere, hardware: Hardware
) -> None:
    plan = make_plan(tiny_model, data, target_modules=("q_prj",))
    with pytest.raises(InputError, match="q_prj") as caught:
        run_here(plan, tmp_path / "run")
    assert "q_proj" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()
