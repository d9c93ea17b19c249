"""Rule files: what is wrong is named with file, line, rule and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftadvise.advisor.rule_set import load_rules
from ftadvise.profiles.errors import InputError

RULE = """\
table: {en: Test, zh: 测试}
rules:
- id: a.first
  when: has_gpu
  effect:
  - prefer: lora
  weight: 1
  sentence: {en: yes, zh: 是}
  source: D0
- id: a.rule
  when: gpu_count > 1
  premise: lora_headroom < 0.5
  effect:
  - prefer: [lora, qlora]
  - set: {rank: 8, alpha_per_rank: 2}
    for: lora
  - note: {en: a note, zh: 提示}
  weight: 2
  sentence: {en: because, zh: 因为}
  source: D0 §1
  comment: {en: but, zh: 但是}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder_with(tmp_path: Path, text: str, name: str = "a.yaml") -> Path:
    folder = tmp_path / "rules"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text.replace("{en: yes,", '{en: "yes",'), encoding="utf-8")
    return folder


def test_a_rule_is_read_whole(tmp_path: Path) -> None:
    rule = load_rules(folder_with(tmp_path, RULE))[1]
    assert (rule.id, rule.weight, rule.source, rule.file) == ("a.rule", 2, "D0 §1", "a.yaml")
    assert rule.when.text == "gpu_count > 1"
    assert rule.premise is not None
    assert rule.comment is not None
    assert (rule.sentence.en, rule.sentence.zh, rule.table.zh) == ("because", "因为", "测试")
    assert rule.effect_words == "prefer lora, qlora; set rank = 8, alpha_per_rank = 2 (lora); note"


@pytest.mark.parametrize(
    ("old", "new", "line", "message", "hint"),
    [
        ("gpu_count > 1", "gpu_cuont > 1", 11, "key 'when': unknown fact 'gpu_cuont'", "gpu_count"),
        ("gpu_count > 1", "7", 11, "when must be text", None),
        ("lora_headroom < 0.5", "rank < 8", 12, "premise cannot depend on rank (known with the rank) unless `when` does", None),
        ("prefer: [lora, qlora]", "prefre: lora", 14, "unknown effect 'prefre'", "prefer"),
        ("prefer: [lora, qlora]", "prefer: [lora, qlroa]", 14, "unknown approach 'qlroa'", "qlora"),
        ("rank: 8,", "rnak: 8,", 15, "unknown key 'rnak'", "rank"),
        ("rank: 8,", "rank: many,", 15, "rank must be a whole number", None),
        (
            "- set: {rank: 8, alpha_per_rank: 2}\n    for: lora",
            "- set: {quantization: nf4}",
            15,
            "quantization belongs to an approach",
            None,
        ),
        ("rank: 8,", "quantization: nf5,", 15, "quantization must be one of", "nf4"),
        ("alpha_per_rank: 2", "alpha_per_rank: two", 15, "needs a number", None),
        ("    for: lora", "    for: peft", 16, "unknown approach 'peft'", None),
        ("- note: {en: a note, zh: 提示}", "- note: {en: a note}", 17, "note lacks zh", None),
        ("weight: 2", "weight: heavy", 18, "weight must be a whole number", None),
        ("weight: 2", "weight: 0", 18, "weight must be a whole number", None),
        ("sentence: {en: because, zh: 因为}", "sentence: because", 19, "sentence must be a mapping", None),
        ("comment:", "coment:", 21, "unknown key 'coment'", "comment"),
        ("id: a.rule", "id: a.first", 10, "the id 'a.first' is already used in a.yaml", None),
        ("weight: 2", "weight: true", 18, "weight must be a whole number", None),
        ("weight: 2", "weight: 99999", 18, "weight must be a whole number from 1 to 1000", None),
        ("  weight: 2", "  wieght: 2", 18, "unknown key 'wieght'", "weight"),
        ("  weight: 2", "  weight: 2\n  requires: [7]", 19, "requires lists ids of rules, not 7", None),
        ("gpu_count > 1", "seq_len > 1", 14, "prefer cannot depend on seq_len (known with the recipe)", None),
        ("gpu_count > 1", '"gpu_count >"', 11, "is not a condition", None),
        ("gpu_count > 1", "gpu_name > 1", 11, "is a text, where a number is needed", None),
        ("set: {rank: 8,", "at_most: {rank: 0.5,", 15, "rank must be a whole number", None),
        ("set: {rank: 8,", "at_most: {rank: 0,", 15, "rank must be at least 1", None),
        ("set: {rank: 8,", "at_least: {learning_rate: .nan,", 15, "at_least learning_rate needs a number", None),
        ("set: {rank: 8,", "at_least: {optimizer: sgd,", 15, "at_least optimizer needs a number", None),
        ("alpha_per_rank: 2", "alpha_per_rank: -2", 15, "needs a number above 0", None),
        ("id: a.rule", "id: A rule", 10, "id must be lower-case words", None),
        ("en: because", 'en: "be\\ecause"', 19, "control character", None),
        ("en: because", "en: " + 3000 * "x", 19, "sentence.en has at most 2000 characters", None),
        ("prefer: [lora, qlora]", "prefer: [[lora]]", 14, "unknown approach ['lora']", None),
        (
            "- note: {en: a note, zh: 提示}",
            "- {note: {en: a, zh: 一}, for: lora}",
            17,
            "`for` belongs to set, at_least, at_most only",
            None,
        ),
        ("id: a.rule", "id: planner.rule", 10, "not begin with planner.", None),
    ],
)
def test_a_broken_rule_is_named(tmp_path: Path, old: str, new: str, line: int, message: str, hint: str | None) -> None:
    assert old in RULE
    with pytest.raises(InputError) as raised:
        load_rules(folder_with(tmp_path, RULE.replace(old, new)))
    assert f"a.yaml, line {line}, rule " in str(raised.value)
    assert message in str(raised.value)
    assert hint is None or hint in str(raised.value.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file must be a mapping"),
        ("- 1", "the file must be a mapping"),
        ("table: {en: T, zh: 表}", "lacks rules"),
        ("table: {en: T, zh: 表}\nrules: 3", "rules must be a list"),
        ("table: {en: T, zh: 表}\nrules: [3]", "a rule must be a mapping"),
        ("table: {en: T, zh: 表}\nrules: [{id: x}]", "a rule lacks when, effect, weight, sentence, source"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"a\.yaml") as raised:
        load_rules(folder_with(tmp_path, text))
    assert message in str(raised.value)


def test_a_preference_cannot_depend_on_the_approach_it_decides(tmp_path: Path) -> None:
    text = RULE.replace("gpu_count > 1", "rank > 8").replace("  premise: lora_headroom < 0.5\n", "")
    with pytest.raises(InputError, match="prefer cannot depend on rank"):
        load_rules(folder_with(tmp_path, text))


def test_an_id_is_unique_over_all_files(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE)
    with pytest.raises(InputError, match=r"b.yaml, line 3, rule a.first, key 'id': the id 'a.first' is already used in a.yaml"):
        load_rules(folder_with(tmp_path, RULE, "b.yaml"))
