"""Models in GGUF files, converted once into a folder that transformers can train from.

Stored as bf16 safetensors in the user's cache: most models are published in bf16, the file's 4-bit values are rounded far less by bf16
(1 part in 256) than they were by quantising (1 part in 15 of each block's range), and it takes half the disk and half the loading time
of fp32. Training in fp32 casts on loading.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.gguf_header import read_gguf_header, spec_from_gguf
from ftadvise.runner.converted import conversion_folder, converted_once
from ftadvise.runner.quiet import quiet_libraries


def converted_gguf_folder(source: Path, say: Callable[[str], None] = lambda _line: None) -> Path:
    """The folder with the converted model of `source`; converts on the first call (half a minute for 135M parameters).

    Two processes may call this at once: one converts, the other waits. The folder appears complete or not at all.
    `say` is told before the wait.

    Raises:
        InputError: the file is missing or broken, or the cache folder cannot be written.
    """
    try:
        folder = gguf_conversion_folder(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from None
    if not folder.is_dir():
        spec_from_gguf(source)  # refuses a broken header in one line
    before = f"converting {source.name} for training; once, it takes about half a minute"
    return converted_once(source, folder, lambda target: _convert(source, target), lambda: say(before))


def gguf_conversion_folder(source: Path) -> Path:
    """Where the conversion of `source` is or would be; the name changes with the file.

    Raises:
        OSError: the file cannot be read.
    """
    facts = source.stat()
    return conversion_folder(source.stem, facts.st_size, facts.st_mtime)


def load_gguf_tokenizer(source: Path) -> Any:
    """The tokenizer that a GGUF file carries, chat template included."""
    from transformers import AutoTokenizer

    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    if read_gguf_header(source).metadata.get("tokenizer.ggml.pre") == "smollm":  # which transformers has no rule for: each digit alone
        from tokenizers import pre_tokenizers

        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer])
    return tokenizer


def _convert(source: Path, folder: Path) -> None:
    """Write the model as bf16 safetensors, with its tokenizer, into `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    # the reader's progress bar has no switch, so it goes into an empty stream
    with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            str(source.parent),
            gguf_file=source.name,
            dtype=torch.float32,  # add scale and minimum exactly, round once
            quantization_config=GgufConfig(dequantize=True),
        )
        # the weights are plain now; save_pretrained would still refuse a model that says it is a GGUF one
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
        model.to(torch.bfloat16).save_pretrained(folder)
        load_gguf_tokenizer(source).save_pretrained(folder)
