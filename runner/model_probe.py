"""What only a forward pass tells: whether this model keeps packed sequences apart, and whether it takes a prefix. Imports torch late."""

from __future__ import annotations

import inspect
from typing import Any

from ftadvise.profiles.errors import InputError

PACKS = frozenset(
    {"llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "glm", "phi", "phi3"}
)
"""Architectures known to keep packed sequences apart, for where parameters are sharded and no forward pass can be tried."""

_NOISE = 0.02
"""Of the largest logit: LLM.int8 rounds each token a little differently beside other tokens; attention to them changes far more."""


def check_packing(model: Any, *, whole: bool) -> None:
    """Check that the second of two packed sequences does not see the first.

    TRL packs without a mask; positions that begin again are all that tells sequences apart, and not every model makes a mask from them.

    Args:
        whole: the parameters are in one piece in this process, so that a forward pass can be tried.

    Raises:
        InputError: the sequences would attend to one another.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes_positions = "position_ids" in inspect.signature(type(base).forward).parameters
    if not takes_positions or (not _apart(model) if whole else base.config.model_type not in PACKS):
        raise InputError(f"packing: {type(base).__name__} does not keep packed sequences apart", hint="use packing: false")


def check_prefix(model: Any) -> None:
    """Check that keys and values of the prefix have the shape of the model's own.

    Raises:
        InputError: they have not: PEFT reckons with as many heads as the config names, which is not what every model caches; and the
            balance of experts is counted over tokens and prefix, which experts never see.
    """
    balanced = hasattr(model.config.get_text_config(), "output_router_logits")
    try:
        _logits(model, [1, 2], **({"output_router_logits": True, "labels": [1, 2], "attention_mask": [1, 1]} if balanced else {}))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        name = type(model.get_base_model()).__name__
        raise InputError(f"prefix tuning does not fit {name}: {reason}", hint="use method prompt, or lora") from None


def _apart(model: Any) -> bool:
    positions = [0, 1, 2, 0, 1, 2]
    one, other = (_logits(model, [*first, 1, 2, 3], position_ids=positions)[3:] for first in ([1, 2, 3], [3, 1, 1]))
    return float((one - other).abs().max()) <= _NOISE * float(one.abs().max())


def _logits(model: Any, ids: list[int], **more: Any) -> Any:
    """(tokens, vocabulary) of one short row, without dropout. Lists among the arguments are rows as well."""
    import torch

    device, was_training = model.get_input_embeddings().weight.device, model.training
    inputs = {name: torch.tensor([row], device=device) if isinstance(row, list) else row for name, row in more.items()}
    model.eval()
    try:
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids], device=device), **inputs).logits[0]
    finally:
        model.train(was_training)
