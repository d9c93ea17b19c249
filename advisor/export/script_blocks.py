"""Pieces of the Python scripts that exporters write. Values of a plan enter only through `literal`, as Python literals."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftadvise.advisor.export.data import Data
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.yaml_store import load_yaml

TORCH_DTYPES = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}


def literal(value: Any) -> str:
    """`value` as an ASCII Python literal with double quotes where that is possible: inert whatever it holds, even unpaired surrogates."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    text = ascii(value)
    plain = isinstance(value, str) and not set(text[1:-1]) & set("\"'\\")
    return f'"{text[1:-1]}"' if plain else text


def call(name: str, arguments: Mapping[str, str], indent: int = 4) -> str:
    """A call with one keyword argument on each line. Values are Python expressions; a comment may follow one after two spaces."""
    space = " " * (indent + 4)
    lines = []
    for key, value in arguments.items():
        expression, separator, comment = (value, "", "") if "\n" in value else value.partition("  #")
        lines.append(f"{space}{key}={expression},{separator}{comment}\n")
    return f"{name}(\n{''.join(lines)}{' ' * indent})"


def optimizer_lines(recipe: Recipe) -> dict[str, str]:
    """What an SFTConfig is told of the optimizer and its schedule."""
    return {
        "optim": literal(recipe.optimizer),
        "learning_rate": literal(recipe.learning_rate),
        "lr_scheduler_type": literal(recipe.schedule),
        "warmup_steps": f"{recipe.warmup_ratio}  # below 1 it is a share of all steps",
        "max_grad_norm": literal(recipe.max_grad_norm),
    }


def length_lines(recipe: Recipe) -> dict[str, str]:
    """How long it trains, from which seed, in which number format."""
    return {
        "num_train_epochs": literal(recipe.epochs),
        "max_steps": f"{recipe.max_steps}" if recipe.max_steps else "-1  # the epochs decide",
        "seed": "SEED",
        "bf16": literal(recipe.compute_dtype == "bf16"),
        "fp16": literal(recipe.compute_dtype == "fp16"),
    }


def data_path(data: Data) -> str:
    """An expression for the data file; the demo set lies beside the script."""
    return f"Path(__file__).with_name({literal(data.path)})" if data.files else f"Path({literal(data.path)})"


def read_rows(data: Data) -> str:
    """A function that reads the file as ftadvise does (ftadvise/runner/data)."""
    if data.format == "csv":
        body = "        return list(csv.DictReader(file))\n"
        newline = ', newline=""'
    elif data.path.lower().endswith(".json"):
        body, newline = "        return json.load(file)\n", ""
    else:
        body, newline = "        return [json.loads(line) for line in file if line.strip()]\n", ', newline="\\n"'
    opened = f'    with path.open(encoding="utf-8-sig"{newline}) as file:\n'
    return f'def read_rows(path):\n    """The rows of the data file."""\n{opened}{body}'


def reading_imports(data: Data) -> str:
    """The standard modules that `read_rows` and `encode` need."""
    reading = "import csv\n" if data.format == "csv" else "import json\n"
    return reading if data.learns_all else f"{reading}import os\n"


def encode(data: Data) -> str:
    """A function that makes token ids and labels of a row, as ftadvise/runner/tokens.py does."""
    if data.shape == "text":
        return _TEXT
    template: str = load_yaml(Path(str(importlib.resources.files("ftadvise") / "runner" / "chat_templates.yaml")))["alpaca"]["template"]
    plain = f"# how a model without a chat template of its own is talked to\nPLAIN_TEMPLATE = {_lines(template)}\n\n\n"
    return plain + _TURNS[data.shape] + "\n\n" + _ENCODE.replace("LEARNED", _ALL if data.learns_all else _ANSWERS)


def _lines(text: str) -> str:
    return "(\n" + "".join(f"    {line!a}\n" for line in text.splitlines(keepends=True)) + ")"


_TURNS = {
    "instruction": '''\
def turns_of(row):
    """The row as a conversation."""
    question = row["instruction"] + ("\\n\\n" + row["input"] if (row.get("input") or "").strip() else "")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"] or ""}]
''',
    "messages": '''\
def turns_of(row):
    """The row as a conversation."""
    return [{"role": turn["role"], "content": turn["content"] or ""} for turn in row["messages"]]
''',
}
_ENCODE = '''\
def encode(row, tokenizer):
    """Token ids and labels; tokens with the label -100 are read, not learned."""
    turns = turns_of(row)
    answers = [at for at, turn in enumerate(turns) if turn["role"] == "assistant" and turn["content"].strip()]
    if not answers:
        return {"input_ids": [], "labels": []}
    template = tokenizer.chat_template or PLAIN_TEMPLATE
    special = not tokenizer.chat_template  # a model's own template writes its begin token itself
    text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids, places = encoded["input_ids"], encoded["offset_mapping"]
LEARNED'''
_ALL = """\
    return {"input_ids": ids, "labels": list(ids)}
"""
_ANSWERS = """\
    labels = [-100] * len(ids)
    marks = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special} | {tokenizer.eos_token_id}
    for at in answers:
        # an answer stands where the text changes when another takes its place
        other = [*turns[:at], {"role": "assistant", "content": "\\ue000"}, *turns[at + 1 :]]
        before, _, after = tokenizer.apply_chat_template(other, chat_template=template, tokenize=False).partition("\\ue000")
        start = len(os.path.commonprefix([text, before]))
        stop = len(text) - len(os.path.commonprefix([text[::-1], after[::-1]]))
        # the mark that ends it is learned too
        behind = [index for index, (first, _) in enumerate(places) if first >= stop]
        mark = next((index for index in behind if text[slice(*places[index])].strip()), None)
        if mark is not None and ids[mark] in marks:
            stop = places[mark][1]
        for index, (first, last) in enumerate(places):
            if last > start and first < stop and last > first:
                labels[index] = ids[index]
    return {"input_ids": ids, "labels": labels}
"""
_TEXT = '''\
def encode(row, tokenizer):
    """Token ids and labels; every token is learned."""
    if not (row["text"] or "").strip():
        return {"input_ids": [], "labels": []}
    ids = tokenizer(row["text"] + (tokenizer.eos_token or ""))["input_ids"]
    return {"input_ids": ids, "labels": list(ids)}
'''

ENCODE_ALL = """\
    examples = [encode(row, tokenizer) for row in read_rows(DATA)]
    # the first token is never predicted, and what lies beyond SEQ_LEN is cut off
    examples = [example for example in examples if any(label != -100 for label in example["labels"][1:SEQ_LEN])]
    dataset = Dataset.from_list(examples)
"""
