"""Deploying for Ollama, vLLM, GPTQ and ONNX: what is written, printed and refused; nothing half-written, nothing overwritten."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from made_runs import copy_of, make_run  # noqa: E402
from small_models import CHATML, byte_level_tokenizer, small_model  # noqa: E402

from ftadvise.profiles.errors import InputError  # noqa: E402
from ftadvise.profiles.probe import named_hardware  # noqa: E402
from ftadvise.runner.deploy import TARGETS, deploy_run, gguf  # noqa: E402
from ftadvise.runner.deploy.chat_layout import PLAIN, chat_layout  # noqa: E402
from ftadvise.runner.deploy.ollama import go_template  # noqa: E402
from ftadvise.runner.finished_run import FinishedRun  # noqa: E402


@pytest.fixture(autouse=True)
def _no_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "find_tool", lambda name: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("base") / "small base")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path) -> FinishedRun:
    return make_run(tmp_path_factory.mktemp("runs") / "my run; rm -rf $HOME", base)


def _line(deployment: Any, part: str) -> str:
    return next(command.line for command in deployment.commands if part in command.line)


def _after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


# vLLM


def test_vllm_serves_the_base_with_the_adapter_of_every_tenant(run: FinishedRun) -> None:
    made = deploy_run(run.folder, "vllm", tenants=3, concurrent=8, gpu=named_hardware("RTX 4090").gpu)
    assert made.folder is None
    assert not (run.folder / "deploy").exists(), "nothing is written"
    words = shlex.split(_line(made, "--enable-lora"))
    assert words[:3] == ["vllm", "serve", str(run.base)], "a name with spaces and a semicolon is one word to the shell"
    assert Path(_after(words, "--lora-modules").partition("=")[2]).is_absolute()
    assert _after(words, "--lora-modules") == f"my-run-rm-rf-HOME={run.adapter}"
    assert (_after(words, "--max-lora-rank"), _after(words, "--max-loras"), _after(words, "--max-cpu-loras")) == ("8", "3", "3")
    assert (_after(words, "--max-num-seqs"), _after(words, "--max-model-len")) == ("8", "256")
    body = json.loads(shlex.split(_line(made, "curl"))[-1])
    assert body["model"] == "my-run-rm-rf-HOME"
    assert [way.way for way in made.tenants] == ["merged", "peft", "vllm"]
    assert made.tenants[2].on_device == 3
    few = shlex.split(_line(deploy_run(run.folder, "vllm", tenants=30, concurrent=4), "--enable-lora"))
    assert (_after(few, "--max-loras"), _after(few, "--max-cpu-loras")) == ("4", "30"), "a batch holds no more adapters than sequences"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "trained biases"),
        ({"peft_type": "IA3"}, "is not LoRA"),
    ],
)
def test_what_vllm_refuses_is_merged_and_why_is_said(run: FinishedRun, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = copy_of(run, tmp_path / "run")
    config = folder / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    made = deploy_run(folder, "vllm")
    assert said in made.notes[0]
    assert not any("--enable-lora" in command.line for command in made.commands)
    assert shlex.split(_line(made, "vllm serve"))[2] == shlex.split(_line(made, "ftadvise merge"))[-1]


def test_a_quantised_base_is_served_quantised_when_asked(run: FinishedRun) -> None:
    made = deploy_run(run.folder, "vllm", quantization="nf4")
    assert "--quantization bitsandbytes" in _line(made, "--enable-lora")
    assert made.form == "nf4" == made.memory[0].form
    with pytest.raises(InputError, match="not 'q4_k_m'"):
        deploy_run(run.folder, "vllm", quantization="q4_k_m")


# Ollama


def test_ollama_gets_a_modelfile_beside_its_gguf_file(run: FinishedRun, tmp_path: Path) -> None:
    made = deploy_run(run.folder, "ollama", out_dir=tmp_path / "out")
    assert sorted(made.files) == ["Modelfile", "my-run-rm-rf-HOME-q8_0.gguf"]
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert "FROM ./my-run-rm-rf-HOME-q8_0.gguf\n" in text
    assert 'SYSTEM """Be brief."""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "PARAMETER num_ctx 256" in text
    assert shlex.split(_line(made, "ollama create"))[2:] == ["my-run-rm-rf-HOME", "-f", str(tmp_path / "out" / "Modelfile")]
    assert "ADAPTER ./" in _line(made, "Modelfile.adapter")


def test_ollama_itself_makes_the_mixtures_that_the_gguf_package_cannot(run: FinishedRun, tmp_path: Path) -> None:
    made = deploy_run(run.folder, "ollama", quantization="q4_k_m", out_dir=tmp_path / "out")
    assert "my-run-rm-rf-HOME-bf16.gguf" in made.files
    assert _after(shlex.split(_line(made, "ollama create")), "--quantize") == "Q4_K_M"
    assert made.form == "gguf:q4_k_m"


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [CHATML, LLAMA3, MISTRAL])
def test_the_layout_found_in_a_template_writes_conversations_as_the_template_does(template: str) -> None:
    tokenizer = byte_level_tokenizer(template=template, begins=True)
    layout = chat_layout(tokenizer)
    assert layout is not None
    turns = [("Hi {there}", "Hello"), ("And?", "So\nit is"), ("Bye", "")]
    messages = [{"role": role, "content": text} for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True) if text]
    for system in ("", "Speak plainly."):
        if system and not layout.takes_system:
            continue
        given = [{"role": "system", "content": system}, *messages] if system else messages
        expected = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
        assert layout.render(turns, system=system) in (expected, expected.removeprefix("<|endoftext|>"))


def test_the_template_in_ollama_s_words() -> None:
    layout = chat_layout(byte_level_tokenizer())
    assert layout is not None
    assert layout.default_system == "Be brief."
    assert go_template(layout) == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}",
        "{{ raise_exception('never') }}",
        "{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}",  # a begin token that the tokenizer does not add
        "{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}",
    ],
)
def test_a_template_that_does_more_is_left_to_the_file(template: str) -> None:
    assert chat_layout(byte_level_tokenizer(template=template)) is None


def test_a_model_without_a_template_gets_the_layout_it_was_trained_in() -> None:
    from ftadvise.runner.tokens import prompt_text

    tokenizer = byte_level_tokenizer(template=None)
    assert chat_layout(tokenizer) is PLAIN
    assert PLAIN.render([("Why?", "")]) == prompt_text("Why?", tokenizer)


# GPTQ


def test_gptq_writes_its_script_and_the_run_s_own_data(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    made = deploy_run(run.folder, "gptq", out_dir=tmp_path / "out")
    assert sorted(made.files) == ["calibration.jsonl", "quantize.py"]
    assert "not installed" in (made.why or "")
    rows = [json.loads(line) for line in (tmp_path / "out" / "calibration.jsonl").read_text().splitlines()]
    assert rows
    assert all(0 < len(row["input_ids"]) == len(row["attention_mask"]) <= run.recipe.seq_len for row in rows)
    words = shlex.split(_line(made, "quantize.py"))
    assert words[1:] == [str(tmp_path / "out" / "quantize.py"), str(run.folder / "merged"), str(tmp_path / "out" / "model")]


GPTQMODEL = """
    class QuantizeConfig:
        def __init__(self, bits, group_size): self.settings = (bits, group_size)
    class GPTQModel:
        @classmethod
        def load(cls, source, config):
            import pathlib
            assert (pathlib.Path(source) / "model.safetensors").is_file() and config.settings == (4, 128)
            return cls()
        def quantize(self, rows, batch_size): self.rows = len(rows)
        def save(self, target):
            import pathlib
            pathlib.Path(target).mkdir()
            (pathlib.Path(target) / "quantised").write_text(str(self.rows))
"""


def test_gptqmodel_runs_where_it_is_installed(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gptqmodel.py").write_text(textwrap.dedent(GPTQMODEL))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = deploy_run(run.folder, "gptq", out_dir=tmp_path / "out")
    assert made.why is None
    assert "model/quantised" in made.files
    assert not any(name.startswith("merged") for name in made.files), "the merged copy was scratch"


# ONNX


def test_onnx_without_its_packages_comes_as_lines(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in ("onnx", "onnxscript") else find(name, *rest))
    made = deploy_run(run.folder, "onnx")
    assert made.why == "not installed: onnx, onnxscript"
    assert made.folder is None
    assert 'pip install "ftadvise[onnx]"' in [command.line for command in made.commands]
    assert "--task text-generation-with-past" in _line(made, "optimum-cli")


@pytest.mark.long
def test_an_onnx_graph_answers_like_the_model(run: FinishedRun, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import numpy as np
    import onnxruntime

    from ftadvise.runner.finished_run import load_tuned

    made = deploy_run(run.folder, "onnx", out_dir=tmp_path / "out")
    assert made.folder is not None
    assert "model.onnx" in made.files
    assert "tokenizer.json" in made.files
    ids = np.array([[5, 77, 300, 100]])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    (logits,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    with torch.no_grad():
        expected = load_tuned(run, "cpu")(torch.from_numpy(ids)).logits
    assert np.allclose(logits, expected.numpy(), atol=1e-4)


# for all of them


@pytest.mark.parametrize(
    ("target", "quantization", "said"),
    [
        ("gguf", "q4", "unknown GGUF quantisation"),
        ("gptq", "q8_0", "4 bits"),
        ("onnx", "q8_0", "fp32 or int8"),
        ("ggfu", None, "unknown target"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_written(run: FinishedRun, target: str, quantization: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        deploy_run(run.folder, target, quantization=quantization)
    assert not (run.folder / "deploy").exists()


def test_an_output_is_replaced_only_when_asked(run: FinishedRun, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="already there") as caught:
        deploy_run(run.folder, "ollama", out_dir=folder)
    assert "--force" in (caught.value.hint or "")
    assert (folder / "mine.txt").read_text() == "keep"
    made = deploy_run(run.folder, "ollama", out_dir=folder, force=True)
    assert "Modelfile" in made.files
    assert not (folder / "mine.txt").exists()


def test_a_full_disk_is_found_before_anything_is_written(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="not enough disk"):
        deploy_run(run.folder, "gguf", out_dir=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_too_little_ram_is_found_before_anything_is_written(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from ftadvise.runner.deploy import deploy

    monkeypatch.setattr(deploy, "probe_ram", lambda limits: SimpleNamespace(available_bytes=1000))
    with pytest.raises(InputError, match="of RAM"):
        deploy_run(run.folder, "gguf", out_dir=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf, "write_gguf", full)
    with pytest.raises(InputError, match="No space left on device"):
        deploy_run(run.folder, "gguf", out_dir=tmp_path / "deep" / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "deep" / "out").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_during_the_export_leaves_nothing_under_the_final_name(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = make_run(tmp_path / "run", base, method="full"), tmp_path / "place" / "out"

    def killed(_folder: Path, path: Path, *_rest: Any, **_named: Any) -> None:
        path.write_bytes(b"GGUF, half of it")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(gguf, "write_gguf", killed)
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads: the child only reads files
        child = os.fork()
        if child == 0:
            signal.alarm(120)
            try:
                deploy_run(run.folder, "gguf", out_dir=out)
            finally:
                os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    left = [path.name for path in out.parent.iterdir()]
    assert not out.exists()
    assert any((out.parent / name).is_dir() for name in left), "the half of it lies under another name"
    made = deploy_run(run.folder, "gguf", out_dir=out)
    assert (made.folder, list(made.files)) == (out, ["run-q8_0.gguf"])
    assert [path.name for path in out.parent.iterdir()] == ["out"], "what the killed one left is swept away"


def test_two_at_once_into_one_folder_are_not_let(run: FinishedRun, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".ftadvise-out.lock"), pytest.raises(InputError, match="another ftadvise deploy is writing there"):
        deploy_run(run.folder, "gguf", out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_path_with_control_characters_is_refused(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not printable"):
        deploy_run(run.folder, "vllm", out_dir=tmp_path / "a\x1b[31mb")


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_virtual_tokens_cannot_be_merged_and_so_not_deployed(method: str, base: Path, tmp_path: Path) -> None:
    virtual = make_run(tmp_path / "run", base, method=method)
    for target in TARGETS:
        with pytest.raises(InputError, match="merged"):
            deploy_run(virtual.folder, target)
    assert not (virtual.folder / "deploy").exists()


def test_a_fully_fine_tuned_model_needs_no_merging(base: Path, tmp_path: Path) -> None:
    full = make_run(tmp_path / "run", base, method="full")
    made = deploy_run(full.folder, "gguf", quantization="f16")
    assert list(made.files) == ["run-f16.gguf"]
    assert made.tenants == ()
    words = shlex.split(_line(deploy_run(full.folder, "vllm"), "vllm serve"))
    assert words[2] == str(full.model)


def test_the_json_document_says_everything_once(run: FinishedRun) -> None:
    document = deploy_run(run.folder, "vllm", tenants=2, gpu=named_hardware("RTX 4090").gpu).to_json()
    assert document["schema"] == "ftadvise.deploy/1"
    assert json.loads(json.dumps(document)) == document
    forms = [entry["form"] for entry in document["memory"]]
    assert len(forms) == len(set(forms))
    assert {"bf16", "nf4", "gptq", "gguf:q4_k_m", "onnx-int8"} <= set(forms)
    assert [way["tenants"] for way in document["tenants"]] == [2, 2, 2]
