"""A training of a few milliseconds per step, for what has to be trained, killed and resumed many times."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.runner.adapters import wrap_with_adapter
from ftadvise.runner.checkpoints import checkpoints_of, last_checkpoint, safe_trainer
from ftadvise.runner.quiet import ignoring, quiet_libraries
from ftadvise.runner.rehearse import synthetic_tokenizer
from ftadvise.runner.trainer import build_trainer

VOCABULARY = 199
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
RECIPE = {
    "compute_dtype": "fp32",
    "adapter_dtype": "fp32",
    "rank": 4,
    "alpha": 8,
    "dropout": 0.1,
    "micro_batch": 2,
    "gradient_accumulation": 3,
    "seq_len": 40,
    "gradient_checkpointing": False,
    "learning_rate": 5e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "max_steps": 7,
}
"""22 rows are 4 steps an epoch, the last one shorter: 7 steps end in the middle of the second."""


def tiny_rows() -> list[dict[str, list[int]]]:
    """22 rows of 6 to 29 tokens, all of them learned."""
    draw = random.Random(0)  # noqa: S311 - rows, not secrets
    rows = [[draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(6, 30))] for _ in range(22)]
    return [{"input_ids": row, "labels": list(row)} for row in rows]


def save_tiny_base(folder: Path) -> Path:
    """A two-layer Llama of random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=2, **_TINY)
    with quiet_libraries():
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_trainer(
    base: Path,
    out: Path,
    *callbacks: Any,
    save_steps: int = 1000,
    eval_rows: Any = None,
    **recipe: Any,
) -> Any:
    """The trainer of a run in `out`, which saves every `save_steps` steps and after the last one."""
    from trl import SFTTrainer

    from ftadvise.runner.load_model import load_model

    chosen = Recipe(**{**RECIPE, **recipe})
    with quiet_libraries():
        model = wrap_with_adapter(load_model(base, chosen, "cpu"), chosen, "base", total_steps=chosen.max_steps)
        trainer = build_trainer(
            model,
            synthetic_tokenizer(VOCABULARY),
            tiny_rows(),
            chosen,
            "cpu",
            checkpoints_of(out),
            save=True,
            eval_rows=eval_rows,
            trainer_class=safe_trainer(SFTTrainer),
            extra_arguments={"save_steps": save_steps, "eval_steps": 2},
        )
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def trained(trainer: Any, *, resume: bool = False) -> Any:
    """The trainer after training, from the last checkpoint of its run folder when `resume`."""
    checkpoint = last_checkpoint(Path(trainer.args.output_dir).parent) if resume else None
    assert checkpoint is not None or not resume
    with quiet_libraries(), ignoring("`is_gradient_checkpointing` is deprecated"):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def figures(trainer: Any) -> list[tuple[int, float, float]]:
    """(step, loss, gradient norm) of every step, as exact floats."""
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: Any) -> dict[str, tuple[str, bytes]]:
    """What was trained, bit for bit."""
    import torch

    found = {name: parameter.detach() for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    return {name: (str(tensor.dtype), tensor.contiguous().view(torch.uint8).numpy().tobytes()) for name, tensor in found.items()}


def stop_after(step: int | None = None, *, within: int | None = None) -> Any:
    """A callback that saves and stops after `step`, or after the first micro batch that follows step `within`, as Ctrl-C does."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._stop(control, state.global_step == step)

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._stop(control, state.global_step == within)

        def _stop(self, control: Any, now: bool) -> None:
            if now:
                control.should_save = control.should_training_stop = True

    return Stop()
