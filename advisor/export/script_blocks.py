"""Pieces of the Python scripts that exporters write. Values of a plan enter only through `literal`, as Python literals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftadvise.advisor.export.data import Data

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


def data_path(data: Data) -> str:
    """An expression for the data file; the demo set lies beside the script."""
    return f"Path(__file__).with_name({literal(data.path)})" if data.files else f"Path({literal(data.path)})"


def read_rows(data: Data) -> str:
    """A function that reads the file as ftadvise does (ftadvise/runner/data.py)."""
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
    """The standard module that `read_rows` needs."""
    return "import csv\n" if data.format == "csv" else "import json\n"


ENCODE = {
    "instruction": '''\
def encode(row, tokenizer):
    """Token ids and labels. Only the answer is learned: the labels of the prompt are -100."""
    prompt = row["instruction"] + ("\\n\\n" + row["input"] if (row.get("input") or "").strip() else "")
    answer = row["output"] or ""
    if not answer.strip():
        return {"input_ids": [], "labels": []}
    if tokenizer.chat_template:
        question = [{"role": "user", "content": prompt}]
        opening = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        text = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": answer}], tokenize=False)
    else:
        opening = f"### Instruction:\\n{prompt}\\n\\n### Response:\\n"
        text = opening + answer + (tokenizer.eos_token or "")
    special = not tokenizer.chat_template  # a chat template writes its own begin token
    ids = tokenizer(text, add_special_tokens=special)["input_ids"]
    opening_ids = tokenizer(opening, add_special_tokens=special)["input_ids"]
    # tokens may merge across the boundary: learning starts where the two first differ
    pairs = enumerate(zip(opening_ids, ids, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(len(opening_ids), len(ids)))
    return {"input_ids": ids, "labels": [-100] * start + ids[start:]}
''',
    "messages": '''\
def encode(row, tokenizer):
    """Token ids and labels; every token of the conversation is learned."""
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
        return {"input_ids": [], "labels": []}
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    else:
        text = "\\n\\n".join(f"### {turn['role']}:\\n{turn['content']}" for turn in turns) + (tokenizer.eos_token or "")
    ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    return {"input_ids": ids, "labels": list(ids)}
''',
    "text": '''\
def encode(row, tokenizer):
    """Token ids and labels; every token is learned."""
    if not (row["text"] or "").strip():
        return {"input_ids": [], "labels": []}
    ids = tokenizer(row["text"] + (tokenizer.eos_token or ""))["input_ids"]
    return {"input_ids": ids, "labels": list(ids)}
''',
}
"""By shape of the rows, as ftadvise/runner/tokens.py encodes them."""

ENCODE_ALL = """\
    examples = [encode(row, tokenizer) for row in read_rows(DATA)]
    # the first token is never predicted, and what lies beyond SEQ_LEN is cut off
    examples = [example for example in examples if any(label != -100 for label in example["labels"][1:SEQ_LEN])]
    dataset = Dataset.from_list(examples)
"""
