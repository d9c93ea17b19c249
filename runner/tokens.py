"""Rows as tokens: what the model reads, and which tokens it learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ftadvise.estimator.data_settings import Learn
from ftadvise.profiles.errors import InputError
from ftadvise.runner.chat_template import DEFAULT_TEMPLATE, Span, builtin_templates, compiled, default_template, use_template
from ftadvise.runner.data.rows import Row
from ftadvise.runner.rendered import Layout, Rendered

IGNORED_LABEL = -100
"""The label of a token that is read but not learned (the value that PyTorch's cross entropy skips)."""
LISTED = 20
"""How many rows are listed that are cut or left out; all are counted."""
_BATCH = 256
"""Rows encoded at a time: enough to keep all cores busy, without holding every row as text and as tokens."""

LONGEST_TEXT = 1 << 20
"""Characters of a row that are encoded, unless seq_len needs more: tokens of a book of 100 MB would take gigabytes to be thrown away."""
_LONGEST_TOKEN = 256
"""Characters; vocabularies have tokens of up to 128 spaces."""

Example = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Lengths in tokens of the rows before truncation; `truncated` rows are longer than the recipe's seq_len, `unlearnable` ones have
    nothing to learn within it and are left out. `learned` counts the tokens with a label within seq_len. Rows are named as in the data, the
    first `LISTED` of each.
    """

    rows: int
    mean: float
    p95: int
    max: int
    total: int
    truncated: int
    unlearnable: int = 0
    learned: int = 0
    p50: int = 0
    truncated_rows: tuple[str, ...] = ()
    unlearnable_rows: tuple[str, ...] = ()


def tokenize_rows(
    rows: Sequence[Row], tokenizer: Any, seq_len: int, *, learn: Learn = "answers", template: str | None = None
) -> tuple[list[Example], TokenStats]:
    """Rows as `input_ids` and `labels`, not yet truncated (the trainer does that), and their length statistics.

    With `learn` "answers" what the assistant says is learned, each answer with the mark that ends it; the other tokens carry
    `IGNORED_LABEL`. Of a text every token is learned. The tokenizer keeps `template` (see `use_template`).

    Raises:
        InputError: the template refuses a row or does not exist, or no row has a token to learn within `seq_len`.
    """
    use_template(tokenizer, template)
    kept: list[Example] = []
    lengths: list[int] = []
    truncated: list[str] = []
    unlearnable: list[str] = []
    learned = 0
    longest = max(LONGEST_TEXT, _LONGEST_TOKEN * seq_len)
    encoded = encode_rows(rows, tokenizer, learn=learn, longest=longest)
    for number, (row, (example, length)) in enumerate(zip(rows, encoded, strict=True), 1):
        # the first token is never predicted, so a row whose only label is there teaches nothing
        count = sum(label != IGNORED_LABEL for label in example["labels"][1:seq_len])
        lengths.append(length)
        if length > seq_len:
            truncated.append(row.source or f"data row {number}")
        if count:
            kept.append(example)
            learned += count
        else:
            unlearnable.append(row.source or f"data row {number}")
    lengths.sort()
    if not kept:
        longest = lengths[-1] if lengths else 0
        if longest < 2:
            raise InputError("the data tokenises to nothing: no row has two tokens")
        raise InputError(
            f"the data tokenises to nothing to learn: within seq_len {seq_len} every row is still in its prompt",
            hint=f"raise seq_len; the longest row has {longest} tokens",
        )
    stats = TokenStats(
        rows=len(lengths),
        mean=round(sum(lengths) / len(lengths), 1),
        p95=lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))],
        max=lengths[-1],
        total=sum(lengths),
        truncated=len(truncated),
        unlearnable=len(unlearnable),
        learned=learned,
        p50=lengths[len(lengths) // 2],
        truncated_rows=tuple(truncated[:LISTED]),
        unlearnable_rows=tuple(unlearnable[:LISTED]),
    )
    return kept, stats


def encode_rows(rows: Sequence[Row], tokenizer: Any, *, learn: Learn, longest: int) -> Iterator[tuple[Example, int]]:
    """`input_ids` and `labels` of the first `longest` characters of each row, and how many tokens the whole row has.

    Raises:
        InputError: the chat template refuses a row.
    """
    layout = Layout(tokenizer)
    for start in range(0, len(rows), _BATCH):
        rendered = []
        for number, row in enumerate(rows[start : start + _BATCH], start + 1):
            where = row.source or f"data row {number}"
            if learn == "answers":
                rendered.append(layout.row(row, where=where))
            else:
                rendered.append(Rendered(*layout.text(row, where=where), None))
        wholes = [len(each.text) for each in rendered]
        cut = [each if len(each.text) <= longest else Rendered(each.text[:longest], each.special, each.learned) for each in rendered]
        for example, each, whole in zip(_encoded(cut, tokenizer), cut, wholes, strict=True):
            yield example, at_full_length(len(example["input_ids"]), len(each.text), whole)


def at_full_length(tokens: int, characters: int, whole: int) -> int:
    """Tokens of a text of `whole` characters of which the first `characters` have so many: the same, or in proportion."""
    return tokens if characters == whole else round(tokens * whole / characters)


def prompt_text(prompt: str, tokenizer: Any) -> str:
    """The prompt as the model sees it before it answers."""
    if has_chat_template(tokenizer):
        return Layout(tokenizer).conversation([("user", prompt)], where="the prompt", open_answer=True)
    template = compiled(builtin_templates()[DEFAULT_TEMPLATE]["template"])
    return template.render([{"role": "user", "content": prompt}], {}, add_generation_prompt=True)[0]


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how its model wants a conversation written."""
    return default_template(tokenizer) is not None


def token_spans(rendered: Rendered, tokenizer: Any) -> tuple[list[Span], list[int]]:
    """The characters that each token stands for, and its labels; for tokenizers that know where a token comes from."""
    encoded = tokenizer(rendered.text, add_special_tokens=rendered.special, return_offsets_mapping=True, verbose=False)
    spans = [(start, end) for start, end in encoded["offset_mapping"]]
    return spans, _labels(encoded["input_ids"], spans, rendered.learned)


def _encoded(rendered: Sequence[Rendered], tokenizer: Any) -> Iterator[Example]:
    found: dict[int, Example] = {}
    fast = bool(getattr(tokenizer, "is_fast", False))
    for special in {each.special for each in rendered}:
        places = [at for at, each in enumerate(rendered) if each.special == special]
        texts = [rendered[at].text for at in places]
        options = {"return_offsets_mapping": True} if fast else {}
        encoded = tokenizer(texts, add_special_tokens=special, verbose=False, **options)
        for position, at in enumerate(places):
            ids = list(encoded["input_ids"][position])
            learned = rendered[at].learned
            labels = _labels(ids, encoded["offset_mapping"][position], learned) if fast else _slow_labels(ids, rendered[at], tokenizer)
            found[at] = {"input_ids": ids, "labels": labels}
    return (found[at] for at in range(len(rendered)))


def _labels(ids: list[int], spans: Sequence[Span], learned: Sequence[Span] | None) -> list[int]:
    """A token is learned when any of its characters is: tokens may merge across a boundary."""
    if learned is None:
        return list(ids)
    labels = [IGNORED_LABEL] * len(ids)
    pending = iter([*learned, (1 << 62, 1 << 62)])
    start, end = next(pending)
    for at, (first, last) in enumerate(spans):
        while first >= end:
            start, end = next(pending)
        if last > start and last > first:
            labels[at] = ids[at]
    return labels


def _slow_labels(ids: list[int], rendered: Rendered, tokenizer: Any) -> list[int]:
    """The same by comparing with the tokens of the text up to each boundary, for tokenizers that do not say where a token comes from."""
    if rendered.learned is None:
        return list(ids)
    labels = [IGNORED_LABEL] * len(ids)
    for start, end in rendered.learned:
        first, last = (_shared(ids, rendered.text[:at], rendered.special, tokenizer) for at in (start, end))
        labels[first:last] = ids[first:last]
    return labels


def _shared(ids: list[int], text: str, special: bool, tokenizer: Any) -> int:
    """How many tokens the text shares with those of the whole."""
    own = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return next((at for at, (one, other) in enumerate(zip(own, ids, strict=False)) if one != other), min(len(own), len(ids)))
