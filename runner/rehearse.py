"""Rehearsal: the same model with random weights, so that memory and speed are measured before anything is downloaded.

The weights are written as an ordinary checkpoint and then loaded like a real one, so quantisation and placement take the very code
path of the real run. Values are drawn as for a fresh model (normal, 0.02), because all-zero weights would quantise and train
degenerately.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.json_objects import read_json_object
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.runner.durable import NEW
from ftadvise.runner.load_model import torch_dtype
from ftadvise.runner.quiet import quiet_libraries

_SHARD_BYTES = 1 << 30
_INITIALIZER_RANGE = 0.02


@contextmanager
def random_checkpoint(config_folder: Path, recipe: Recipe, work_dir: Path, *, trust_remote_code: bool = False) -> Iterator[Path]:
    """A temporary model folder inside `work_dir` with random weights for the config in `config_folder`; removed afterwards.

    Raises:
        InputError: the config is broken, or the disk is too small for the weights.
    """
    import torch
    from safetensors.torch import save_file

    dtype = torch_dtype(recipe.compute_dtype)
    model = skeleton(config_folder, trust_remote_code=trust_remote_code)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}  # tied ones appear once
    needed = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    free = shutil.disk_usage(work_dir).free
    if needed > free:
        raise InputError(f"{work_dir}: random weights for a rehearsal need {_gib(needed)} on disk, {_gib(free)} are free")
    folder = Path(tempfile.mkdtemp(dir=work_dir, prefix=NEW))
    generator = torch.Generator().manual_seed(recipe.seed)
    try:
        for source in config_folder.iterdir():
            if source.is_file() and source.suffix in (".json", ".py", ".jinja", ".model", ".txt") and ".index." not in source.name:
                shutil.copyfile(source, folder / source.name)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(_shards(shapes, dtype.itemsize), 1):
            file_name = f"model-{number:05d}.safetensors"
            shard = {name: _random_tensor(name, shapes[name], dtype, generator) for name in names}
            save_file(shard, folder / file_name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(names, file_name)
        index = {"metadata": {"total_size": needed}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def skeleton(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The model of a folder's config.json on the meta device: shapes and names, no memory.

    Raises:
        InputError: transformers cannot build a model from that config.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    # impossible numbers first: a model of a million layers would take hours to be built, even without memory
    spec_from_config(read_json_object(folder / "config.json"), source=str(folder / "config.json"))
    with quiet_libraries():
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RuntimeError, StrictDataclassError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder / 'config.json'}: no causal language model can be built from it ({reason})") from None
    model.tie_weights()
    return model


def write_config_from_spec(spec: ModelSpec, folder: Path) -> None:
    """Write the config.json of a model that is known only by its card, when transformers has its architecture.

    The result is checked: its parameter count must be the card's (to 1 in 1,000), else memory would be measured of another model.

    Raises:
        InputError: the architecture is not a plain decoder that a card describes completely.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    refusal = InputError(
        f"{spec.id}: its card does not describe it completely enough to rehearse",
        hint="give a local folder with its config.json: ftadvise plan --model FOLDER",
    )
    if spec.model_type not in CONFIG_MAPPING_NAMES or spec.kind != "causal_lm" or spec.experts is not None:
        raise refusal
    values = {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "attention_bias": spec.qkv_bias,
        "mlp_bias": spec.mlp_bias,
    }
    if spec.max_position is not None:
        values["max_position_embeddings"] = spec.max_position
    with quiet_libraries():
        known = AutoConfig.for_model(spec.model_type).to_dict()
        try:
            config = AutoConfig.for_model(spec.model_type, **{k: v for k, v in values.items() if k in known})
        except (ValueError, TypeError):
            raise refusal from None
        # token ids of the class's defaults may lie beyond a smaller vocabulary
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if isinstance(getattr(config, name, None), int) and getattr(config, name) >= spec.vocab_size:
                setattr(config, name, 0)
        config.save_pretrained(folder)
    built = sum(parameter.numel() for parameter in skeleton(folder).parameters())
    if abs(built - spec.total_params) * 1000 > spec.total_params:
        raise refusal


def synthetic_tokenizer(vocab_size: int) -> Any:
    """A tokenizer for rehearsals without one: it only has to know padding and the end."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = WordLevel({"<pad>": 0, "<end>": min(1, vocab_size - 1)}, unk_token="<pad>")  # noqa: S106 - a token of text, no password
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="<end>")  # noqa: S106


def synthetic_rows(vocab_size: int, seq_len: int, count: int, seed: int) -> list[dict[str, list[int]]]:
    """`count` rows of random token ids, each exactly `seq_len` long: the longest batch that the recipe allows."""
    import random

    draw = random.Random(seed)  # noqa: S311 - not for secrets
    rows = [[draw.randrange(vocab_size) for _ in range(seq_len)] for _ in range(count)]
    return [{"input_ids": ids, "labels": list(ids)} for ids in rows]


def _shards(shapes: dict[str, tuple[int, ...]], itemsize: int) -> Iterator[list[str]]:
    import math

    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        names.append(name)
        size += math.prod(shape) * itemsize
        if size >= _SHARD_BYTES:
            yield names
            names, size = [], 0
    if names:
        yield names


def _random_tensor(name: str, shape: tuple[int, ...], dtype: Any, generator: Any) -> Any:
    import torch

    if len(shape) == 1:  # norms scale by one, biases start at zero
        return torch.zeros(shape, dtype=dtype) if name.endswith("bias") else torch.ones(shape, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(0.0, _INITIALIZER_RANGE, generator=generator)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"
