"""The model of a recipe on the meta device, loaded and wrapped under a recorder as the training code does it. Imports torch late."""

from __future__ import annotations

from typing import Any

from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.trace.model_config import config_of, skeleton
from ftadvise.estimator.trace.peft_config import wrap
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_spec import ModelSpec

VARLEN_ATTENTION = "ftadvise_varlen"
"""Our stand-in for the package flash-attn; a name with "flash" in it would make transformers look for the package."""


def torch_dtype(name: str) -> Any:
    """The torch dtype of a recipe's "fp32", "fp16" or "bf16"."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


def build_base(spec: ModelSpec, recipe: Recipe, notes: list[str], *, trust_remote_code: bool = False) -> Any:
    """The base model on meta: its dtype, quantisation and attention as the recipe says; nothing is trained yet.

    What had to be done otherwise is added to `notes`.

    Raises:
        InputError: transformers cannot build it.
    """
    from huggingface_hub.errors import StrictDataclassError

    from ftadvise.estimator.trace.quantize import quantize

    config = config_of(spec, trust_remote_code=trust_remote_code)
    attention = _attention(recipe)
    try:
        try:
            model = skeleton(config, dtype=torch_dtype(recipe.compute_dtype), attention=attention, trust_remote_code=trust_remote_code)
        except ValueError as error:
            if attention == "eager" or "attention implementation" not in str(error):
                raise
            notes.append(f"{type(config).__name__[:-6]} has no {recipe.attention} attention: traced with eager")
            model = skeleton(config, dtype=torch_dtype(recipe.compute_dtype), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RuntimeError, ImportError, StrictDataclassError) as error:
        raise InputError(
            f"{spec.id}: no causal language model can be built from its config ({' '.join(str(error).split())[:200]})"
        ) from None
    if recipe.quantization != "none":
        quantize(model, recipe, torch_dtype(recipe.compute_dtype))
    model.config.use_cache = False
    return model


def _attention(recipe: Recipe) -> str:
    if recipe.attention != "flash_attention_2":
        return recipe.attention
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    from ftadvise.estimator.trace.attention import flash_attention_layer

    AttentionInterface.register(VARLEN_ATTENTION, flash_attention_layer)
    AttentionMaskInterface.register(VARLEN_ATTENTION, _padding_mask)
    return VARLEN_ATTENTION


def _padding_mask(*_: Any, attention_mask: Any = None, **__: Any) -> Any:
    """FlashAttention needs the padding mask only where something is padded; the caller leaves it out otherwise."""
    return attention_mask


def load(model: Any, recipe: Recipe, recorder: Any) -> None:
    """Record how the weights come to the device: tensor by tensor; one that is quantised is there in full precision first."""
    from ftadvise.estimator.trace.quantize import constants_of

    itemsize = DTYPE_BYTES[recipe.compute_dtype]
    for name, parameter in model.named_parameters():
        recorder.module = name.rpartition(".")[0]
        kind = type(parameter).__name__
        if kind == "Params4bit":
            shape = parameter.quant_state.shape
            full = recorder.take(shape[0] * shape[1] * itemsize, "weights", "load")
        elif kind == "Int8Params":  # quantised on the host's copy, through fp16
            full = recorder.take(parameter.numel() * itemsize, "weights", "load")
        else:
            full = None
        recorder.adopt([parameter.data], "weights")
        recorder.adopt(constants_of(parameter), "quantization_constants")
        if full is not None:
            recorder.release(full)
    recorder.adopt(model.buffers(), "weights")
    recorder.module = ""


def prepare(model: Any, recipe: Recipe, stack: Stack, recorder: Any, *, like_cuda: bool) -> Any:
    """What the stack does to the loaded model, and the adapter around it; recorded."""
    import warnings

    import torch

    with recorder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if stack.kbit_upcast != "none" and recipe.quantization != "none":
            from peft import prepare_model_for_kbit_training

            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
            if stack.kbit_upcast == "norms":
                _cast_embeddings_back(model, torch_dtype(recipe.compute_dtype))
        model = wrap(model, recipe, like_cuda=like_cuda, constant_ranks=stack.constant_ranks)
        if recipe.method == "full" and stack.full_dtype == "fp32":
            for parameter in model.parameters():
                parameter.data = parameter.data.to(torch.float32)
    for name, parameter in model.named_parameters():
        trained_extra = recipe.method != "full" and parameter.requires_grad
        recorder.adopt([parameter.data], "adapters" if trained_extra or "lora_" in name else "weights")
    return model


def _cast_embeddings_back(model: Any, dtype: Any) -> None:
    """After the k-bit casts only the norms stay fp32 (TRL up to 0.25, trainer/utils.py, peft_module_casting_to_bf16)."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    for module in ends:
        if module is not None:
            module.to(dtype)
