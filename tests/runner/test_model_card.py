"""The card of trained weights: what it states, and that nothing in it can be anything but text."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("huggingface_hub")
from made_reports import made_report

from ftadvise.runner.model_card import CARD_NAME, model_card, write_model_card

BASE = Path("models/tiny")


def _parts(card: str) -> tuple[dict[str, Any], str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_it_states_base_data_recipe_memory_and_losses() -> None:
    report = made_report(BASE, method="dora", rank=7, quantization="nf4")
    front, body = _parts(model_card(dataclasses.replace(report, evaluations=((2, 1.25),))))
    assert front["library_name"] == "peft"
    assert {"dora", "nf4", "ftadvise"} <= set(front["tags"])
    assert "| rank | 7 |" in body
    assert "0" * 64 in body
    assert "2.5000" in body
    assert "1.2500" in body
    assert "| total allocated |" in body
    assert "tensors that torch holds" in body
    assert "quantised to nf4" in body
    assert "PeftModel.from_pretrained" in body
    assert "torch" in body.partition("## Versions")[2]


def test_the_base_is_named_for_the_hub_only_when_it_came_from_there() -> None:
    report = made_report(BASE)
    assert "base_model" not in _parts(model_card(report))[0]
    hub = dataclasses.replace(report, model={"id": "org/name"}, plan={"model": {"id": "org/name", "local_path": None}})
    front, body = _parts(model_card(hub))
    assert front["base_model"] == "org/name"
    assert 'from_pretrained("org/name")' in body


def test_no_path_of_the_machine_is_in_it() -> None:
    report = made_report(Path("somebody/secret/tiny"), data=Path("somebody/secret/rows.jsonl"))
    card = model_card(report)
    assert "secret" not in card
    assert "rows.jsonl" in card
    several = dataclasses.replace(report, data=report.data | {"files": [{"path": "secret\\a.csv"}, {"path": "secret/b.csv"}]})
    assert "a.csv, b.csv" in model_card(several)
    assert "secret" not in model_card(several)


@pytest.mark.parametrize(
    "name",
    [
        "</td><script>alert(1)</script>",
        "a](http://x) ![i](http://y)",
        "a\n---\nlicense: mit\n---\n# Title",
        "x\x1b[2J\u202ey",
        "```\nimport os",
        "a | b | c",
        "*a* _b_ `c` $d$ ~e~ www.example.org me@example.org",
    ],
)
def test_hostile_names_stay_text(name: str) -> None:
    report = made_report(BASE, data=Path(f"{name}.jsonl"))
    hostile = dataclasses.replace(report, model={"id": name}, plan={"model": {"id": name}}, versions={name: name})
    card = model_card(hostile)
    front, body = _parts(card)
    assert set(front) == {"library_name", "pipeline_tag", "tags"}
    assert "<" not in body
    assert "](" not in body
    for mark in ("*", "`", "$", "~", "@", "www", " _"):
        assert mark not in re.sub(r"\\.|```|www\\\.", "", body), mark
    assert "\x1b" not in card
    assert "\u202e" not in card
    assert body.count("```") == 2
    assert sum(line.startswith("# ") for line in body.splitlines()) == 1
    for line in body.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in (3, 4), line


@pytest.mark.parametrize(
    ("form", "words"), [("adapter", "needs its base model"), ("merged", "merged into its weights (bf16)"), ("model", "all weights")]
)
def test_it_says_what_the_folder_holds(form: Any, words: str, tmp_path: Path) -> None:
    write_model_card(tmp_path, made_report(BASE), form=form, dtype="bf16")
    front, body = _parts((tmp_path / CARD_NAME).read_text(encoding="utf-8"))
    assert words in body
    assert front["library_name"] == ("peft" if form == "adapter" else "transformers")


def test_the_card_of_every_method_can_be_written() -> None:
    for method in ("lora", "dora", "adalora", "ia3", "prefix", "prompt", "adapter", "full"):
        assert "| method |" in model_card(made_report(BASE, method=method))


def test_losses_that_are_no_numbers_are_left_out() -> None:
    report = dataclasses.replace(made_report(BASE), losses=((1, None), (2, 3.5)))
    assert "3.5000" in model_card(report)
    assert "No step was logged" in model_card(dataclasses.replace(report, losses=()))
