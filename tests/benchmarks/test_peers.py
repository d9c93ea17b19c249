"""The comparison with public estimators: how rows are translated for each tool, how answers are read, and that one failure stops nothing.

No tool is installed and no network is used: the tools' modules are stood in for by what their functions return.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.peers import __main__ as bench  # noqa: E402
from benchmarks.peers import canifinetune, fitcheck, fitscout, ftuneai  # noqa: E402
from benchmarks.peers.case import Case, NoPredictionError, case_from_json, case_from_row, length_is_known, target_roles  # noqa: E402
from benchmarks.peers.prediction import Prediction  # noqa: E402
from benchmarks.peers.shapes import shape_of  # noqa: E402
from benchmarks.peers.summary import Errors, reasons, table  # noqa: E402
from benchmarks.peers.tools import Tool, ToolError, ask, install, read_tools  # noqa: E402
from benchmarks.peers.worker import answer, shorten  # noqa: E402

with (ROOT / "benchmarks" / "data" / "memory_measurements.csv").open(newline="", encoding="utf-8") as file:
    ROWS = {row["id"]: row for row in csv.DictReader(file)}
TOOL = Tool("some-tool", "1.0", "fitscout", "about", "source")
ADAPTERS = (fitcheck, fitscout, canifinetune, ftuneai)

QLORA = "fms-a100_80gb-24bdadb-56"  # Mistral-7B, NF4 with double quantisation, 4 x 4,096 packed
LITGPT = "litgpt-rt-Llama2-7B-lora-bnb.nf4-dq-mb1-x1"
FULL = "fms-a100_80gb-24bdadb-8"
QWEN = "qwen1-7B-lora-s512"
GPTQ = "qwen1-7B-q-lora-s512"


def _case(row_id: str) -> Case:
    return case_from_row(ROWS[row_id], shape_of(ROWS[row_id]["model"]))


def test_every_row_becomes_a_case_and_survives_the_way_to_the_worker() -> None:
    assert len(ROWS) == 348
    for row_id in ROWS:
        case = _case(row_id)
        assert case_from_json(json.loads(json.dumps(dataclasses.asdict(case)))) == case


def test_a_fully_published_run_is_read_without_remarks() -> None:
    case = _case(QLORA)
    assert (case.method, case.quantization, case.double_quant, case.precision) == ("qlora", "nf4", True, "bf16")
    assert (case.micro_batch, case.seq_len, case.rank, case.targets) == (4, 4096, 16, ("q", "k", "v", "o"))
    assert (case.attention, case.checkpointing, case.adapter_dtype, case.metric) == ("flash_attention_2", True, "fp32", "allocated")
    assert case.card_gib == 80
    assert case.remarks == ()
    assert case.plain


def test_litgpt_trains_16_bit_adapters_with_paged_states() -> None:
    case = _case(LITGPT)
    assert (case.adapter_dtype, case.optimizer, case.attention, case.checkpointing) == ("bf16", "paged_adamw_32bit", "sdpa", False)
    assert case.targets == ("q", "v")


def test_what_a_source_leaves_open_is_filled_in_and_said() -> None:
    case = _case("torchtune-lora-tutorial-all-r8")
    assert (case.seq_len, case.card, case.targets[-1]) == (1304, "A100-80GB", "head")
    assert any("Alpaca" in remark for remark in case.remarks)
    assert any("GPU not named" in remark for remark in case.remarks)
    case = _case("llamafactory-wiki-ctx-Unsloth+FA2-1024")
    assert case.double_quant
    assert case.checkpointing
    assert any("Unsloth" in remark for remark in case.remarks)
    assert not case.plain


def test_kernels_and_tricks_without_a_setting_make_a_row_special() -> None:
    special = [row["id"] for row in ROWS.values() if "foak" in row["acceleration"] or "padding-free" in row["acceleration"]]
    assert special
    assert not any(_case(row_id).plain for row_id in special)
    assert _case("swift-tuner-full+galore128").method == "full+galore128"
    assert _case("swift-tuner-full").method == "full"


@pytest.mark.parametrize(
    ("text", "family", "expected"),
    [
        ("", "llama", ()),
        ('["v_proj", "q_proj"]', "llama", ("q", "v")),
        ('["q_proj", "k_proj", "v_proj", "o_proj", "c_attn"]', "mistral", ("q", "k", "v", "o")),
        ('["c_attn", "c_proj", "w1", "w2"]', "qwen", ("q", "k", "v", "o", "gate", "up", "down")),
        ("ALL (all linear)", "qwen", ("q", "k", "v", "o", "gate", "up", "down")),
        ("DEFAULT (qkv / c_attn)", "qwen", ("q", "k", "v")),
        ('["query", "key", "value", "projection", "mlp", "head"]', "phi3", ("q", "k", "v", "o", "gate", "up", "down", "head")),
    ],
)
def test_targets_become_roles(text: str, family: str, expected: tuple[str, ...]) -> None:
    assert target_roles(text, family) == expected


def test_every_adapted_model_has_targets() -> None:
    cases = [_case(row_id) for row_id, row in ROWS.items() if row["method"] in ("lora", "qlora")]
    assert len(cases) == 188
    assert all(case.targets and case.rank for case in cases)


def test_limits_are_told_from_lengths() -> None:
    assert length_is_known(ROWS[QLORA])
    assert length_is_known(ROWS[LITGPT])
    assert not length_is_known(ROWS["swift-tuner-full"])


def test_fitcheck_settings() -> None:
    given = fitcheck.settings(_case(QLORA))
    assert given["lora_targets"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (given["quantization"], given["double_quant"], given["optimizer_dtype"], given["flash_attn"]) == ("nf4", True, "fp32", True)
    full = fitcheck.settings(_case(FULL))
    assert (full["lora_rank"], full["optimizer_dtype"], full["quantization"]) == (None, "bf16", "none")
    assert "lora_targets" not in full
    assert {fitcheck.gpu_name(_case(row_id).card) for row_id in ROWS} == {"l40s", "4090", "a10", "a100-40", "a100-80"}
    assert "num_local_experts" in fitcheck.config_json(shape_of("mistralai/Mixtral-8x7B-Instruct-v0.1"))
    assert "num_local_experts" not in fitcheck.config_json(shape_of("mistralai/Mistral-7B-v0.1"))


def test_fitscout_settings() -> None:
    given = fitscout.settings(_case(LITGPT))
    assert given == {
        "method": "qlora",
        "micro_batch": 1,
        "seq_len": 1304,
        "grad_ckpt": False,
        "opt_8bit": False,
        "grad_dtype_bytes": 2,
        "lora_rank": 8,
    }
    assert "lora_rank" not in fitscout.settings(_case(FULL))
    shape = fitscout.profile(shape_of("meta-llama/Llama-3.2-3B"), "bf16")
    assert (shape["params"], shape["tie_word_embeddings"], shape["dtype_bytes"]) == (3212749824, True, 2)


def test_canifinetune_settings() -> None:
    given = canifinetune.settings(_case(QLORA))
    assert (given["quantization"], given["lora_target_scope"], given["gpu_vram_gb"]) == ("nf4_double_quant", "attention", 80.0)
    assert given["override"]["total_params"] == 7241732096
    assert canifinetune.settings(_case(LITGPT))["lora_target_scope"] == "conservative"
    assert canifinetune.settings(_case(QWEN))["lora_target_scope"] == "all_linear"
    assert canifinetune.settings(_case("swift-lora-qwen-7b-chat-512"))["lora_target_scope"] == "attention"
    assert "lora_rank" not in canifinetune.settings(_case(FULL))


def test_ftuneai_settings() -> None:
    assert ftuneai.settings(_case(QLORA))["lora_target"] == "attention_all"
    assert ftuneai.settings(_case(GPTQ))["quantization"] == "4bit"
    assert ftuneai.settings(_case("swift-quant-qwen-7b-chat-int8-x"))["quantization"] == "8bit"
    assert ftuneai.model_entry(_case("llamafactory-wiki-ctx-Unsloth+FA2-100000"))["max_seq_length"] == 100000
    assert ftuneai.model_entry(_case("fms-a100_80gb-24bdadb-60"))["num_active_experts"] == 2


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
@pytest.mark.parametrize(
    ("row_id", "reason"),
    [
        ("peft-mmqa-ia3-llama-3.2-3B-all-attn-5k-lr0.005-2026-07-15", "method ia3"),
        ("swift-tuner-dora", "method dora"),
        ("swift-tuner-full+lisa_2", "method full\\+lisa_2"),
        ("swift-tuner-llama2-7b-aqlm-2bit-1x16", "aqlm-2bit"),
        ("torchtune-readme-may24-Llama-2-7b-full-RTX4090x1", "paged out"),
    ],
)
def test_what_no_tool_can_express_is_refused_with_a_reason(adapter: Any, row_id: str, reason: str) -> None:
    with pytest.raises(NoPredictionError, match=reason):
        adapter.settings(_case(row_id))


def test_trained_embeddings_and_foreign_formats_are_refused() -> None:
    embedding = next(row["id"] for row in ROWS.values() if row["modules_to_save"])
    with pytest.raises(NoPredictionError, match="wte and lm_head"):
        fitscout.settings(_case(embedding))
    for adapter in (fitcheck, fitscout, canifinetune):
        with pytest.raises(NoPredictionError, match="gptq-int4"):
            adapter.settings(_case(GPTQ))


def _module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_fitcheck_answer_is_split_into_tensors_cache_and_context(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = SimpleNamespace(hf_hub_download=None, _reported_param_count=None)
    reader.fetch_model_config = lambda model_id: json.loads(Path(reader.hf_hub_download()).read_text(encoding="utf-8"))
    found: list[Any] = []

    def estimate(config: dict[str, Any], training: dict[str, Any], gpu: str) -> Any:
        found.append((config, training, gpu))
        return SimpleNamespace(total_mib=20 * 1024, overhead_mib=3 * 1024)

    _module(
        monkeypatch,
        "fitcheck",
        TrainingConfig=dict,
        estimate=estimate,
        get_gpu=str,
        config_parser=reader,
        UnsupportedModelError=ValueError,
    )
    _module(monkeypatch, "fitcheck.overhead_db", get_overhead_profile=lambda *_: SimpleNamespace(base_context_mib=512))
    prediction = fitcheck.predict(_case(QLORA))
    assert (prediction.allocated_gib, prediction.reserved_gib, prediction.device_gib) == (17, 19.5, 20)
    assert found[0][0]["num_key_value_heads"] == 8
    assert found[0][2] == "a100-80"

    def refuse(model_id: str) -> None:
        raise ValueError("a mixture of experts. See the manual")

    reader.fetch_model_config = refuse
    with pytest.raises(NoPredictionError, match=r"refuses the model: a mixture of experts$"):
        fitcheck.predict(_case(QLORA))


def test_fitscout_answer_without_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    _module(monkeypatch, "fitscout", ModelProfile=dict)
    _module(monkeypatch, "fitscout.memory")
    _module(monkeypatch, "fitscout.memory.estimator", estimate_memory=lambda *_, **__: SimpleNamespace(total_gb=10.0, overhead_gb=1.5))
    prediction = fitscout.predict(_case(QLORA))
    assert (prediction.allocated_gib, prediction.reserved_gib, prediction.device_gib) == (8.5, 8.5, 10)
    assert prediction.remarks == ("targets priced as q, v",)


def test_canifinetune_answer_without_its_safety_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total_estimated_gb=30.0, safety_margin_gb=4.0, cuda_overhead_gb=6.0)
    _module(monkeypatch, "canifinetune")
    _module(monkeypatch, "canifinetune.estimator", EstimateRequest=lambda **_: None, estimate=lambda _: SimpleNamespace(memory=memory))
    prediction = canifinetune.predict(_case(QLORA))
    assert prediction == Prediction(allocated_gib=20, reserved_gib=26, device_gib=26, headline_gib=30)


def test_ftuneai_answer_and_its_model_table(monkeypatch: pytest.MonkeyPatch) -> None:
    models: dict[str, Any] = {}

    class Estimator:
        def __init__(self, model: str, **_: Any) -> None:
            assert models[model]["parameters"] == 7241732096

        def estimate_memory(self) -> Any:
            return SimpleNamespace(total_gb=12.0, overhead_gb=2.0)

    _module(monkeypatch, "ftuneai", Estimator=Estimator, ModelSpec=dict)
    _module(monkeypatch, "ftuneai.loader", load_models=lambda: models)
    prediction = ftuneai.predict(_case(QLORA))
    assert (prediction.like("allocated"), prediction.like("reserved"), prediction.like("unnamed")) == (10, 12, 12)


def test_the_worker_answers_whatever_the_tool_does() -> None:
    case = _case(QLORA)

    def refuse(_: Case) -> Prediction:
        raise NoPredictionError("not for this one")

    def fail(_: Case) -> Prediction:
        raise KeyError("a\nname")

    assert answer(refuse, case) == {"note": "not for this one"}
    assert answer(fail, case)["note"] == "KeyError: 'a\\nname'"
    given = answer(lambda _: Prediction(1.0, 2.0, 3.0, 4.0, ("a", "b")), case)
    assert given == {"predicted_gib": 1.0, "predicted_device_gib": 3.0, "headline_gib": 4.0, "note": "a; b"}
    assert len(shorten("long " * 100)) == 240


def _fake_python(folder: Path, body: str) -> Path:
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    python.chmod(0o755)
    return python


def test_a_tool_s_process_is_asked_offline_and_its_failure_is_one_line(tmp_path: Path) -> None:
    answering = _fake_python(tmp_path, """cat > /dev/null; printf '{"version": "%s", "answers": [{"note": "x"}]}' "$HF_HUB_OFFLINE" """)
    assert ask(TOOL, answering, [{}]) == {"version": "1", "answers": [{"note": "x"}]}
    with pytest.raises(ToolError, match="answered 1 of 2 rows"):
        ask(TOOL, answering, [{}, {}])
    with pytest.raises(ToolError, match=r"^some-tool failed: ImportError: gone$"):
        ask(TOOL, _fake_python(tmp_path, "echo Traceback >&2; echo 'ImportError: gone' >&2; exit 1"), [{}])


def test_an_installed_tool_is_not_installed_again(tmp_path: Path) -> None:
    folder = tmp_path / TOOL.package
    folder.mkdir()
    (folder / "installed.txt").write_text("some-tool==1.0", encoding="utf-8")
    assert install(TOOL, tmp_path) == folder / "bin" / "python"


def test_one_tool_s_failure_is_noted_in_its_rows_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(tool: Tool, cases: list[Case], environments: Path) -> list[dict[str, str]]:
        if tool.package == "fitscout":
            raise ToolError("no such package")
        figures = {"predicted_gib": 10.0, "predicted_device_gib": 11.0, "headline_gib": 12.0, "note": ""}
        return [bench.line(case.id, tool, tool.version, figures) for case in cases]

    monkeypatch.setattr(bench, "answer_rows", answers)
    out = tmp_path / "peers.csv"
    monkeypatch.setattr(sys, "argv", ["peers", "--out", str(out), "--tools", "fitscout", "ftuneai"])
    with pytest.raises(SystemExit) as stopped:
        bench.main()
    assert stopped.value.code == 0
    with out.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["note"] for line in lines if line["tool"] == "fitscout"} == {"no such package"}
    assert {line["predicted_gib"] for line in lines if line["tool"] == "ftuneai"} == {"10.000"}
    printed = capsys.readouterr().out
    assert "| fitscout | all rows | 0 |" in printed
    assert "fitscout: 348 rows: no such package" in printed


def test_errors_are_relative_to_what_was_measured() -> None:
    found = Errors.of([("11", 10.0), ("9", 10.0), ("8", 10.0), ("", 10.0)])
    assert found is not None
    assert (found.rows, found.predicted) == (4, 3)
    assert (found.mean, found.median, found.bias) == pytest.approx((40 / 3, 10, -20 / 3))
    assert found.too_low == pytest.approx(200 / 3)
    assert Errors.of([("", 10.0)]) is None


def test_table_and_reasons_of_a_few_rows() -> None:
    rows = [ROWS[QLORA], ROWS[FULL]]
    measured = float(ROWS[QLORA]["peak_mem_gib_norm"])
    figures = {"predicted_gib": 1.1 * measured, "predicted_device_gib": 30.0, "headline_gib": 30.0, "note": ""}
    answers = [bench.line(QLORA, TOOL, "1.0", figures), bench.line(FULL, TOOL, "1.0", {"note": "method full: no"})]
    lines = table(rows, answers, {QLORA}).splitlines()
    assert "| some-tool | plain rows | 1 of 1 | 10.0 % | 10.0 % | +10.0 % | 0 % |" in lines
    assert "| some-tool | full | 0 | - | - | - | - |" in lines
    assert reasons(answers) == "some-tool: 1 rows: method: no\n"


def test_the_published_result_holds_every_row_of_every_pinned_tool() -> None:
    with (ROOT / "benchmarks" / "results" / "peers.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ROWS) * len(read_tools())
    assert {(line["tool"], line["version"]) for line in lines} == {(tool.package, tool.version) for tool in read_tools()}
    assert {line["id"] for line in lines} == set(ROWS)
    assert all(line["note"] for line in lines if not line["predicted_gib"])
