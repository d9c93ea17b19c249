"""The trained weights in their final place: the adapter in PEFT's format, or the whole model, with tokenizer and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftadvise.runner.model_card import write_model_card
from ftadvise.runner.quiet import ignoring
from ftadvise.runner.ranks import is_main
from ftadvise.runner.report import RunReport
from ftadvise.runner.run_folder import write_folder_atomically
from ftadvise.runner.save_failures import explaining_failed_save

_HARMLESS = (r"Adapter '.*': \d+ LoRA tensor\(s\) have invalid shape",)
"""PEFT takes layers that AdaLoRA has pruned to rank zero for shards that were not gathered; they load and answer as trained."""


def save_trained(trainer: Any, tokenizer: Any, report: RunReport, folder: Path) -> None:
    """Write `folder` completely or not at all, as safetensors. Every rank calls it: sharded weights are gathered from all.

    Raises:
        SaveFailedError: the disk is full, or the folder cannot be written.
    """
    weights = _whole_weights(trainer)

    def write(temporary: Path) -> None:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.config.use_cache = True  # off for training
        with ignoring(*_HARMLESS):
            model.save_pretrained(str(temporary), state_dict=weights)
        if weights is not None and not hasattr(model, "peft_config"):
            model.config.dtype = next(iter(weights.values())).dtype  # save_pretrained writes that of the parts in memory
            model.config.save_pretrained(str(temporary))
        tokenizer.save_pretrained(str(temporary))
        write_model_card(temporary, report)

    if is_main():
        with explaining_failed_save(folder.parent, folder.parent, "the trained weights"):
            write_folder_atomically(folder, write)
    trainer.accelerator.wait_for_everyone()


def _whole_weights(trainer: Any) -> dict[str, Any] | None:
    """What the ranks hold parts of, in one piece in the first one's host memory; None where the model is whole already.

    Of a model with an adapter only what was trained travels. Full fine-tuning under FSDP holds fp32 copies: they are saved in the dtype
    that the model computes in, as on one GPU.
    """
    if trainer.is_deepspeed_enabled:
        found: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        return found
    if not trainer.is_fsdp_enabled:
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    adapter = hasattr(trainer.model, "peft_config")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter)
    weights = get_model_state_dict(trainer.model_wrapped, options=options)
    for name, same in getattr(trainer.model, "all_tied_weights_keys", {}).items():
        if same in weights:
            weights.pop(name, None)  # one tensor under two names was gathered twice
    mixed = trainer.accelerator.state.fsdp_plugin.mixed_precision_policy
    if adapter or mixed is None:
        return dict(weights)
    return {name: weight.to(mixed.param_dtype) if weight.is_floating_point() else weight for name, weight in weights.items()}
