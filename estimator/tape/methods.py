"""Fine-tuning methods: how each wraps a linear layer. One file per method that needs one; prompt and prefix tuning (virtual_tokens.py)
change what goes in, not the layers.
"""

from __future__ import annotations

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.tape.adalora import adalora_linear
from ftadvise.estimator.tape.bottleneck import bottleneck_linear
from ftadvise.estimator.tape.context import AdapterForward
from ftadvise.estimator.tape.dora import dora_linear
from ftadvise.estimator.tape.ia3 import ia3_linear
from ftadvise.estimator.tape.litgpt import lora_linear as litgpt_lora_linear
from ftadvise.estimator.tape.lora import lora_linear

_ADAPTERS: dict[str, AdapterForward] = {
    "lora": lora_linear,
    "dora": dora_linear,
    "adalora": adalora_linear,
    "ia3": ia3_linear,
    "adapter": bottleneck_linear,
}


def adapter_of(recipe: Recipe, model_code: str = "transformers") -> AdapterForward | None:
    """What stands in for a targeted linear layer; None when the method leaves linear layers alone."""
    if model_code == "litgpt" and recipe.method == "lora":
        return litgpt_lora_linear
    return _ADAPTERS.get(recipe.method)
