"""From a folder of weights and a recipe to a model on its device, as the recipe says. Imports torch inside functions only."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.json_objects import read_json_object
from ftadvise.runner.quiet import quiet_libraries
from ftadvise.runner.sharding_arguments import announce_zero3, device_map, quant_storage
from ftadvise.runner.stored_weights import check_finite, check_loaded, stored_quantization, stored_tensors

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
    """The tokenizer in `folder` with a padding token set, or None when the folder has none.

    Raises:
        InputError: its files are broken, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return None
    with quiet_libraries():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        except Exception as error:  # noqa: BLE001 - the tokenizers library raises nothing narrower for a broken file
            reason = " ".join(str(error).split())[:160]
            own_code = "trust_remote_code" in str(error)
            hint = f"read that code; when you trust it, add {REMOTE_CODE_FLAG}" if own_code else "download it again"
            raise InputError(f"{folder}: the tokenizer cannot be loaded ({reason})", hint=hint) from None
    if tokenizer.pad_token is None:
        # any token does, because the mask hides it
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def check_vocabulary(tokenizer: Any, rows: Sequence[Mapping[str, Sequence[int]]], embeddings: int, source: str) -> str | None:
    """Whether the model has an embedding for each token that will be read. Gives the padding an id that the model has.

    Args:
        rows: what will be read, as `input_ids`.
        embeddings: how many tokens the model knows.
        source: the model, for messages.

    Returns:
        A sentence to show when the tokenizer has tokens that the model lacks and the data does not use; else None.

    Raises:
        InputError: the data uses one: reading its embedding would fail, on a GPU with an assertion that names nothing.
    """
    for number, row in enumerate(rows, 1):
        highest = max(row["input_ids"], default=0)
        if highest >= embeddings:
            raise InputError(
                f"{source}: the tokenizer knows {len(tokenizer)} tokens, the model {embeddings}, and data row {number} uses "
                f"{tokenizer.convert_ids_to_tokens(highest)!r:.60} (id {highest})",
                hint="use the model's own tokenizer, or a model whose embeddings were resized (resize_token_embeddings) and trained",
            )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= embeddings:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    if len(tokenizer) <= embeddings:
        return None
    return f"{source}: the tokenizer knows {len(tokenizer)} tokens, the model {embeddings}; the data uses none of the others"


def load_model(folder: Path, recipe: Recipe, device: str, *, trust_remote_code: bool = False) -> Any:
    """The base model in the recipe's dtype, quantisation and attention, on "cpu" or "cuda" (this process's GPU).

    Raises:
        InputError: the folder is broken or does not hold what its configuration says, or the attention implementation is not available
            here.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _check_attention(recipe, device)
    config = read_json_object(folder / "config.json")
    stored = stored_tensors(folder)
    quantized = stored_quantization(config, recipe, stored, folder)
    announce_zero3(recipe)
    with quiet_libraries():
        try:
            named = recipe.high_precision_modules and recipe.quantization != "none"
            head = head_name(folder, trust_remote_code) if named else ""
            arguments = model_arguments(recipe, device, head=head, trust_remote_code=trust_remote_code)
            if quantized:
                arguments["config"] = _with_compute_dtype(folder, arguments, trust_remote_code)
            elif arguments["quantization_config"] is not None:
                arguments["quantization_config"] = BitsAndBytesConfig(**arguments["quantization_config"])
            model, info = AutoModelForCausalLM.from_pretrained(folder, **arguments, output_loading_info=True, ignore_mismatched_sizes=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, SafetensorError) as error:
            raise InputError(f"{folder}: the model cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    check_loaded(model, info, stored, folder)
    check_finite(model, folder, "fp16" if recipe.quantization == "int8" else recipe.compute_dtype)  # int8 is made of fp16
    for module in model.modules():
        # on a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights when they answer and could not train them afterwards
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model.config.use_cache = False
    return model


def _with_compute_dtype(folder: Path, arguments: dict[str, Any], trust_remote_code: bool) -> Any:
    """The configuration of a checkpoint that bitsandbytes has quantised already, computing in the recipe's dtype."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    wanted = arguments.pop("quantization_config")
    if "bnb_4bit_compute_dtype" in wanted:
        config.quantization_config["bnb_4bit_compute_dtype"] = str(wanted["bnb_4bit_compute_dtype"]).removeprefix("torch.")
    return config


def _check_attention(recipe: Recipe, device: str) -> None:
    if recipe.attention == "flash_attention_2" and (device != "cuda" or importlib.util.find_spec("flash_attn") is None):
        what = "needs a GPU" if device != "cuda" else "needs the package flash-attn, which is not installed"
        raise InputError(f"attention flash_attention_2 {what}", hint="use attention: sdpa")


def model_arguments(recipe: Recipe, device: str, *, head: str, trust_remote_code: bool = False) -> dict[str, Any]:
    """Every argument of `from_pretrained` but the folder; its `quantization_config` holds the arguments of BitsAndBytesConfig, or None.

    Args:
        head: the name of the output head, which is kept in full precision with the modules that the recipe names.
    """
    return {
        "dtype": torch_dtype(recipe.compute_dtype),
        "quantization_config": _quantization_arguments(recipe, head),
        "attn_implementation": recipe.attention,
        "device_map": device_map(recipe, device),
        "trust_remote_code": trust_remote_code,
        "local_files_only": True,
        "use_safetensors": True,
    }


def _quantization_arguments(recipe: Recipe, head: str) -> dict[str, Any] | None:
    """What bitsandbytes does to the linear layers; the output head, and the modules the recipe names, stay as they are."""
    if recipe.quantization == "none":
        return None
    # naming modules switches off the default of leaving the head alone, so it is named as well
    keep = {"llm_int8_skip_modules": [*recipe.high_precision_modules, head] if recipe.high_precision_modules else None}
    if recipe.quantization == "int8":
        return {"load_in_8bit": True, **keep}
    storage = quant_storage(recipe)
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": recipe.quantization,
        "bnb_4bit_use_double_quant": recipe.double_quantization,
        "bnb_4bit_compute_dtype": torch_dtype(recipe.compute_dtype),
        "bnb_4bit_quant_storage": torch_dtype(storage) if storage else None,
        **keep,
    }


def head_name(folder: Path, trust_remote_code: bool) -> str:
    """The name of the output head of the model that config.json in `folder` describes."""
    from ftadvise.runner.rehearse import skeleton

    model = skeleton(folder, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "lm_head")
