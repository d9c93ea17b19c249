"""A tokenizer as GGUF metadata: tokens, merges or scores, kinds, special ids, chat template.

llama.cpp splits text by the name under tokenizer.ggml.pre, not by the rules of tokenizer.json, so a tokenizer whose rules it has no name
for would answer wrongly without a word: such a one is refused by what it does. Names and rules: pretokenizers.yaml.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.yaml_store import load_yaml

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""gguf.TokenType."""


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """What stands under tokenizer.ggml. Of `merges` and `scores` one is empty."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float]
    add_space_prefix: bool


class NotConvertibleError(InputError):
    """Our own writer does not know this; llama.cpp's converter may."""


def gguf_vocabulary(tokenizer: Any, vocabulary_size: int) -> GgufVocabulary:
    """The vocabulary of a fast tokenizer, padded to the rows of the model's embedding.

    Raises:
        NotConvertibleError: llama.cpp has no name for what this tokenizer does, or it has more tokens than the model.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise NotConvertibleError("the tokenizer has no tokenizer.json, which is what is converted")
    document = json.loads(backend.to_str())
    model = document.get("model") or {}
    if model.get("type") != "BPE":
        raise NotConvertibleError(f"a tokenizer of type {model.get('type')!r} is not converted here, only BPE is")
    tokens, kinds = _tokens(document, model, vocabulary_size)
    if model.get("byte_fallback"):
        prefix = _adds_space(document)
        return GgufVocabulary("llama", "default", tokens, kinds, [], _scores(model, kinds), prefix)
    pre = _pre_tokenizer(document)
    merges = [" ".join(pair) if isinstance(pair, list) else str(pair) for pair in model.get("merges") or []]
    return GgufVocabulary("gpt2", pre, tokens, kinds, merges, [], False)


def add_vocabulary(writer: Any, tokenizer: Any, vocabulary: GgufVocabulary) -> None:
    """Put the vocabulary, the special tokens and the chat template into a gguf.GGUFWriter."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None and 0 <= number < len(vocabulary.tokens):
            add(number)
    ids = list(tokenizer("a", verbose=False)["input_ids"])
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id is not None)
    writer.add_add_eos_token(len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)
    if isinstance(getattr(tokenizer, "chat_template", None), str):
        writer.add_chat_template(tokenizer.chat_template)


def _tokens(document: dict[str, Any], model: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    by_id = {int(number): (str(text), NORMAL) for text, number in (model.get("vocab") or {}).items()}
    if model.get("byte_fallback"):
        by_id |= {number: (text, BYTE) for number, (text, _) in by_id.items() if len(text) == 6 and text.startswith("<0x")}
    for token in document.get("added_tokens") or []:
        by_id[int(token["id"])] = (str(token["content"]), CONTROL if token.get("special") else USER_DEFINED)
    unknown = model.get("unk_token")
    by_id |= {number: (text, UNKNOWN) for number, (text, _) in by_id.items() if unknown is not None and text == unknown}
    largest = max(by_id, default=-1)
    if largest >= size:
        raise NotConvertibleError(f"the tokenizer has {largest + 1} tokens, the model's embedding {size} rows")
    rows = [by_id.get(number, (f"[PAD{number}]", UNUSED)) for number in range(size)]
    return [text for text, _ in rows], [kind for _, kind in rows]


def _scores(model: dict[str, Any], kinds: list[int]) -> list[float]:
    """Scores of a SentencePiece BPE vocabulary: minus the place among the pieces, which is the order in which they merge.

    tokenizer.json keeps that order as the list of merges; where ids do not follow it, the scores cannot be told from it.
    """
    vocabulary = model.get("vocab") or {}
    made = [vocabulary.get("".join(pair if isinstance(pair, list) else str(pair).split(" ")), -1) for pair in model.get("merges") or []]
    if -1 in made or made != sorted(made):
        raise NotConvertibleError("the order of the tokenizer's merges is not that of its tokens, so they have no scores")
    scores: list[float] = []
    place = 0
    for kind in kinds:
        scores.append(float(-place) if kind == NORMAL else 0.0)
        place += kind == NORMAL
    return scores


def _adds_space(document: dict[str, Any]) -> bool:
    found = [part for part in _parts(document.get("normalizer"), "normalizers") if part.get("type") == "Prepend"]
    spaced = [part for part in _parts(document.get("pre_tokenizer"), "pretokenizers") if part.get("type") == "Metaspace"]
    return bool(found) or any(part.get("prepend_scheme") != "never" for part in spaced)


def _pre_tokenizer(document: dict[str, Any]) -> str:
    """llama.cpp's name for how this byte-level tokenizer splits text before it merges."""
    if document.get("normalizer") not in (None, {"type": "NFC"}):
        raise NotConvertibleError(f"the tokenizer's normalizer {document['normalizer'].get('type')} is not converted here")
    parts = _parts(document.get("pre_tokenizer"), "pretokenizers")
    rules = []
    for part in parts:
        if part.get("type") == "Split":
            pattern = part.get("pattern") or {}
            rules.append(f"split {pattern.get('Regex', pattern.get('String'))}")
        elif part.get("type") == "Digits":
            rules.append("digits" if part.get("individual_digits") else "numbers")
        elif part.get("type") == "ByteLevel":
            rules += ["gpt2"] if part.get("use_regex", True) else []
        else:
            rules.append(str(part.get("type")))
    if not any(part.get("type") == "ByteLevel" for part in parts):
        raise NotConvertibleError("the tokenizer is neither byte-level nor SentencePiece with bytes")
    for name, known in load_yaml(Path(__file__).parent / "pretokenizers.yaml")["names"].items():
        if rules == known:
            return str(name)
    raise NotConvertibleError(f"llama.cpp's name for this tokenizer's splitting is not known here: {'; '.join(rules)[:200]}")


def _parts(node: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(node, dict):
        return []
    return list(node.get(key) or []) if node.get("type") == "Sequence" else [node]
