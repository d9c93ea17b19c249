"""Finished runs made by hand: a tiny model with an adapter that was trained for a few steps, and a report. No trainer is needed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from made_reports import FIELDS, made_report

from ftadvise.estimator.peft_settings import peft_config
from ftadvise.estimator.recipe import Recipe
from ftadvise.runner.finished_run import FinishedRun, finished_run
from ftadvise.runner.load_model import load_model, load_tokenizer
from ftadvise.runner.report import write_report
from ftadvise.runner.tokens import tokenize_rows

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_run(folder: Path, base: Path, rows: Any = (), *, steps: int = 0, learning_rate: float = 2e-2, **fields: Any) -> FinishedRun:
    """A run whose adapter was trained on `rows` for `steps`, or filled with random numbers where there are none; opened again."""
    import torch
    from peft import get_peft_model

    from ftadvise.runner.quiet import ignoring, quiet_libraries

    recipe = Recipe(**{**FIELDS, **fields})
    folder.mkdir()
    torch.manual_seed(1)
    model, tokenizer = load_model(base, recipe, "cpu"), load_tokenizer(base)
    assert tokenizer is not None
    if recipe.method != "full":
        with quiet_libraries(), ignoring(r"`is_gradient_checkpointing` is deprecated"):
            model = get_peft_model(model, peft_config(recipe, total_steps=10))
        if not steps:
            _fill(model)
    if steps:
        _train(model, tokenize_rows(rows, tokenizer, recipe.seq_len)[0], steps, learning_rate)
    saved = "model" if recipe.method == "full" else "adapter"
    with quiet_libraries():
        model.save_pretrained(folder / saved)
        tokenizer.save_pretrained(folder / saved)
    write_report(folder, made_report(base, saved=saved, **fields))
    return finished_run(folder)


def small_base(folder: Path, **config: Any) -> Path:
    """A two-layer Llama of random weights that reads and writes bytes: it learns a sentence by heart in a second."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ftadvise.runner.quiet import quiet_libraries

    words = ["<|im_start|>", "<|im_end|>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    special = dict(zip(("bos_token", "eos_token", "pad_token"), words, strict=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = CHATML
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    shape |= {"head_dim": 16, "max_position_embeddings": 256, "tie_word_embeddings": False}
    shape |= {"initializer_range": 0.1}  # with the usual 0.02 the frozen head could not be sure of any byte
    torch.manual_seed(0)
    with quiet_libraries():
        llama = LlamaConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=2, **{**shape, **config})
        LlamaForCausalLM(llama).save_pretrained(folder)
        fast.save_pretrained(folder)
    return folder


def copy_of(run: FinishedRun, folder: Path) -> Path:
    """A copy of a run's folder to damage."""
    return Path(shutil.copytree(run.folder, folder))


def _fill(model: Any) -> None:
    """Adapters begin as nothing; these change the answers."""
    import torch

    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_magnitude_vector" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)


def _train(model: Any, rows: list[dict[str, list[int]]], steps: int, learning_rate: float) -> None:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    model.train()
    longest = max(len(row["input_ids"]) for row in rows)
    ids, labels = (
        torch.tensor([row[key] + [filler] * (longest - len(row[key])) for row in rows])
        for key, filler in (("input_ids", 0), ("labels", -100))
    )
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
