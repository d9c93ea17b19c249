"""Every target of `ftadvise export`: nothing of a recipe is lost, every file parses, nothing hostile escapes its quotes."""

from __future__ import annotations

import ast
import csv
import functools
import json
import re
import runpy
import shlex
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.exports.recipes import LORA, QLORA, VALUES, every_recipe, plan_file, variants  # noqa: E402
from ftadvise.advisor.export import TARGETS, export_plan  # noqa: E402
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported  # noqa: E402
from ftadvise.advisor.export.words import templates  # noqa: E402
from ftadvise.profiles.errors import InputError  # noqa: E402
from ftadvise.profiles.yaml_store import load_yaml  # noqa: E402

NAMES = sorted(TARGETS)


def parsed(exported: Exported) -> list[Any]:
    """What each file says, read by a parser of its kind."""
    return [parsed_file(Path(name).suffix, text) for name, text in exported.files.items()]


@functools.lru_cache(maxsize=512)
def parsed_file(kind: str, text: str) -> Any:
    if kind in (".yaml", ".yml"):
        return load_yaml_text(text)
    if kind == ".json":
        return json.loads(text)
    if kind == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line]
    if kind == ".py":
        return [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    return shlex.split(text, comments=True)


def load_yaml_text(text: str) -> Any:
    """By our own reader, which refuses aliases, tags and keys that are there twice."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return load_yaml(Path(file.name), cache=False)


def texts(value: Any) -> list[str]:
    """Every text inside."""
    if isinstance(value, dict):
        return [found for pair in value.items() for each in pair for found in texts(each)]
    if isinstance(value, list):
        return [found for each in value for found in texts(each)]
    return [value] if isinstance(value, str) else []


def test_the_plans_hold_every_field() -> None:
    assert VALUES.keys() == RECIPE_FIELDS


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown target 'lama-factory'") as raised:
        export_plan(plan_file(), "lama-factory")
    assert "llama-factory" in (raised.value.hint or "")


@pytest.mark.parametrize("name", NAMES)
def test_every_plan_is_exported_and_every_file_parses(name: str) -> None:
    target = TARGETS[name]
    assert target.translates <= RECIPE_FIELDS
    for recipe in every_recipe():
        exported = export_plan(plan_file(recipe), name)
        assert RECIPE_FIELDS - target.translates <= exported.missing.keys() <= RECIPE_FIELDS, recipe
        assert all(re.fullmatch(r"[\w.-]+", file) for file in exported.files)
        assert "\n" not in exported.command
        assert any(file in exported.command for file in exported.files)
        assert all(parsed(exported))


@pytest.mark.parametrize("field", sorted(VALUES))
@pytest.mark.parametrize("name", NAMES)
def test_two_values_that_are_not_reported_missing_are_said_differently(name: str, field: str) -> None:
    """A field that the target claims to translate changes its files, or the account says that it does not."""
    for group in variants(field):
        said = [exported for recipe in group if field not in (exported := export_plan(plan_file(recipe), name)).missing]
        assert len({(tuple(each.files.items()), each.command) for each in said}) == len(said), group[0]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_said_in_both_languages(name: str) -> None:
    for recipe in every_recipe():
        exported = export_plan(plan_file(recipe), name)
        for sentence in (*exported.missing.values(), *exported.notes):
            assert sentence.en
            assert re.search("[一-鿿]", sentence.zh), sentence


HOSTILE = (
    "a b",
    'double " quote',
    "single ' quote",
    "two\nlines: true",
    "$(touch owned) `touch owned` ; true",
    "{braces} %s %(x)s {{x}} \\ \\n",
    "- item: # comment",
    "模型 \u2028 é",
    "'''\"\"\"",
    "--flag",
    "null",
    "~",
    "0x1",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_and_paths_stay_values(name: str, hostile: str, tmp_path: Path) -> None:
    data = str(tmp_path / hostile / "rows.jsonl")
    for recipe in (LORA, QLORA, LORA.replace(sharding="zero3"), LORA.replace(target_modules=(hostile,), high_precision_modules=(hostile,))):
        exported = export_plan(plan_file(recipe, path=f"/models/{hostile}", data=data), name)
        words = [word for document in parsed(exported) for word in texts(document)]
        plain = export_plan(plan_file(recipe, path="/models/m", data="/data/rows.jsonl"), name)
        names_the_model = "/models/m" in [word for document in parsed(plain) for word in texts(document)]
        if names_the_model:
            assert f"/models/{hostile}" in words
        assert exported.missing.keys() == plain.missing.keys()
        keys = [sorted(each) for each in parsed(exported) if isinstance(each, dict)]
        assert keys == [sorted(each) for each in parsed(plain) if isinstance(each, dict)]
        command = shlex.split(exported.command)
        assert [word for word in command if "touch" in word and word.startswith(("$", "`", ";"))] == []


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()))
def test_any_module_name_survives(text: str) -> None:
    for name in NAMES:
        for file, content in export_plan(plan_file(LORA.replace(target_modules=(text, "x"))), name).files.items():
            if file.endswith((".yaml", ".yml")):
                yaml.safe_load(content)


def test_the_sentences_say_the_same_in_both_languages() -> None:
    for message_id, template in templates().items():
        assert template.keys() == {"en", "zh"}, message_id
        assert set(re.findall(r"{\w+}", template["en"])) == set(re.findall(r"{\w+}", template["zh"])), message_id
        assert re.search("[一-鿿]", template["zh"]), message_id


def test_data_is_described_by_its_first_row(tmp_path: Path) -> None:
    from ftadvise.advisor.export.data import data_of

    rows = {
        "chat.jsonl": '{"messages": [{"role": "user", "content": "a"}]}\n',
        "text.json": '[{"text": "a"}]',
        "pairs.csv": "instruction,input,output\na,,b\n",
    }
    for name, content in rows.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    found = {name: data_of(plan_file(data=str(tmp_path / name))) for name in rows}
    assert {name: (data.shape, data.format) for name, data in found.items()} == {
        "chat.jsonl": ("messages", "json"),
        "text.json": ("text", "json"),
        "pairs.csv": ("instruction", "csv"),
    }
    assert all(data.note is None and Path(data.path).is_absolute() for data in found.values())
    assert data_of(plan_file(data=str(tmp_path / "none.jsonl"))).note is not None
    assert data_of(plan_file()).files.keys() == {"ftadvise-demo.jsonl"}


@pytest.mark.parametrize("template", [None, "{{ messages }}"])
@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_trl_gets_instructions_as_prompt_and_completion(
    ending: str, template: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script that is exported along does what our runner does with such rows."""
    rows = [{"instruction": "Say \u2028 'hi'", "input": "", "output": "hi"}, {"instruction": "Add", "input": "1, 2", "output": "3"}]
    source = tmp_path / f"quote ' and space.{ending}"
    if ending == "csv":
        with source.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        source.write_text("[" + ",".join(lines) + "]" if ending == "json" else "\n".join(lines), encoding="utf-8")
    exported = export_plan(plan_file(data=str(source)), "trl")
    (tmp_path / "prepare_data.py").write_text(exported.files["prepare_data.py"], encoding="utf-8")
    tokenizer = SimpleNamespace(chat_template=template)
    stand_in = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=lambda name: tokenizer))
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("prepare_data.py")
    found = [json.loads(line) for line in (tmp_path / "trl_data.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert len(found) == 2
    if template:
        assert found[1] == {"prompt": [{"role": "user", "content": "Add\n\n1, 2"}], "completion": [{"role": "assistant", "content": "3"}]}
        assert found[0]["prompt"][0]["content"] == rows[0]["instruction"]
    else:
        assert found[1] == {"prompt": "### Instruction:\nAdd\n\n1, 2\n\n### Response:\n", "completion": "3"}
