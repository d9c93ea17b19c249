"""From a folder of weights and a recipe to a model on its device, as the recipe says. Imports torch inside functions only."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.json_objects import read_json_object
from ftadvise.runner.quiet import quiet_libraries

REMOTE_CODE_FLAG = "--trust-remote-code"


def torch_dtype(name: str) -> Any:
    """The torch dtype of a recipe's "fp32", "fp16" or "bf16"."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


def check_remote_code(folder: Path, *, trusted: bool) -> None:
    """Refuse a model whose code is not in transformers, unless the user trusts it.

    Raises:
        InputError: the model brings its own Python code and the flag was not given.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    config = read_json_object(folder / "config.json")
    if config.get("model_type") in CONFIG_MAPPING_NAMES or "auto_map" not in config or trusted:
        return
    raise InputError(
        f"{folder.name}: this model runs Python code that comes with its weights",
        hint=f"read that code; when you trust it, add {REMOTE_CODE_FLAG}",
    )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any | None:
    """The tokenizer in `folder` with a padding token set, or None when the folder has none."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return None
    with quiet_libraries():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: the tokenizer cannot be loaded ({' '.join(str(error).split())[:160]})") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, recipe: Recipe, device: str, *, trust_remote_code: bool = False) -> Any:
    """The base model in the recipe's dtype, quantisation and attention, on "cpu" or "cuda" (the first visible GPU).

    Raises:
        InputError: the folder is broken, or the attention implementation is not available here.
    """
    from transformers import AutoModelForCausalLM

    _check_attention(recipe, device)
    # the whole model on one device; on the CPU a map is only needed where bitsandbytes would otherwise look for a GPU
    device_map = {"": 0} if device == "cuda" else ({"": "cpu"} if recipe.quantization != "none" else None)
    with quiet_libraries():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch_dtype(recipe.compute_dtype),
                quantization_config=_quantization_config(folder, recipe, trust_remote_code),
                attn_implementation=recipe.attention,
                device_map=device_map,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                use_safetensors=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder}: the model cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    for module in model.modules():
        # on a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights when they answer and could not train them afterwards
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model.config.use_cache = False
    return model


def _check_attention(recipe: Recipe, device: str) -> None:
    if recipe.attention == "flash_attention_2" and (device != "cuda" or importlib.util.find_spec("flash_attn") is None):
        what = "needs a GPU" if device != "cuda" else "needs the package flash-attn, which is not installed"
        raise InputError(f"attention flash_attention_2 {what}", hint="use attention: sdpa")


def _quantization_config(folder: Path, recipe: Recipe, trust_remote_code: bool) -> Any | None:
    """What bitsandbytes does to the linear layers; the output head, and the modules the recipe names, stay as they are."""
    if recipe.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    keep = None
    if recipe.high_precision_modules:
        # naming modules switches off the default of leaving the head alone, so it is named as well
        keep = [*recipe.high_precision_modules, _head_name(folder, trust_remote_code)]
    if recipe.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recipe.quantization,
        bnb_4bit_use_double_quant=recipe.double_quantization,
        bnb_4bit_compute_dtype=torch_dtype(recipe.compute_dtype),
        llm_int8_skip_modules=keep,
    )


def _head_name(folder: Path, trust_remote_code: bool) -> str:
    from ftadvise.runner.rehearse import skeleton

    model = skeleton(folder, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "lm_head")
