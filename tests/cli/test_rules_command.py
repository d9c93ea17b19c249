"""`ftadvise rules`, `ftadvise explain` and `--rules` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ftadvise.cli import cli

OURS = """\
table: {en: Our house, zh: 本公司}
rules:
- id: gpu.mid_low
  when: gpu_tier == "mid_low"
  effect:
  - prefer: lora
  weight: 20
  sentence: {en: We know better., zh: 我们更清楚。}
  source: our wiki
- id: our.rank
  when: approach == "qlora"
  effect:
  - set: {rank: 8}
  weight: 5
  sentence: {en: Eight is enough for us., zh: 对我们来说八就够了。}
  source: our wiki
"""


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTADVISE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    Path("ours.yaml").write_text(OURS, encoding="utf-8")
    return tmp_path / "config"


def ftadvise(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})


def test_a_good_file_is_checked_and_told_what_it_does() -> None:
    result = ftadvise("rules", "check", "ours.yaml")
    assert result.exit_code == 0
    assert "replaces the one in gpu_tier.yaml: prefer lora" in result.stdout
    assert "new: set rank = 8" in result.stdout
    assert result.stderr == ""


def test_a_broken_file_ends_with_2_and_one_line_for_each_problem() -> None:
    Path("bad.yaml").write_text(OURS.replace("prefer: lora", "prefer: lroa").replace("weight: 5", "weight: 0"), encoding="utf-8")
    result = ftadvise("rules", "check", "bad.yaml")
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: bad.yaml, line 6, rule gpu.mid_low, key 'prefer': unknown approach 'lroa'",
        "error: bad.yaml, line 14, rule our.rank, key 'weight': weight must be a whole number from 1 to 1000, not 0",
    ]
    assert "did you mean lora or qlora?" in result.stderr
    document = json.loads(ftadvise("rules", "check", "bad.yaml", "--json").stdout)
    assert (document["schema"], len(document["problems"]), document["rules"]) == ("ftadvise.rules-check/1", 2, [])


def test_rules_are_listed_with_and_without_the_word_list(own_config: Path) -> None:
    plain, listed = ftadvise("rules", "--json"), ftadvise("rules", "list", "--json")
    assert plain.stdout == listed.stdout
    rules = {rule["id"]: rule for rule in json.loads(plain.stdout)["rules"]}
    assert rules["gpu.mid_low"]["origin"] is None
    (own_config / "rules").mkdir(parents=True)
    (own_config / "rules" / "ours.yaml").write_text(OURS, encoding="utf-8")
    changed = {rule["id"]: rule for rule in json.loads(ftadvise("rules", "list", "--json").stdout)["rules"]}
    assert changed.keys() - rules.keys() == {"our.rank"}
    assert changed["gpu.mid_low"]["origin"]["en"].endswith("in place of the one in gpu_tier.yaml")
    assert "取代 gpu_tier.yaml" in ftadvise("rules", "list", "--lang", "zh").stdout


def test_explain_tells_what_a_rule_replaces_and_which_plans_it_changes() -> None:
    result = ftadvise("explain", "gpu.mid_low", "--rules", "ours.yaml")
    assert result.exit_code == 0
    told = result.stdout
    assert all(
        words in told for words in ("We know better.", "your own, ours.yaml", "instead of", "strongly recommended", "fires in 12 of 48")
    )
    document = json.loads(ftadvise("explain", "our.rank", "--rules", "ours.yaml", "--json").stdout)
    assert document["impact"]["changed"]
    assert document["impact"]["changed"][0]["changes"]
    assert document["origin"]["zh"] == "你自己的规则，ours.yaml"


def test_a_plan_takes_rules_and_shows_them() -> None:
    result = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 3060 12GB", "--rules", "ours.yaml", "-o", "p.yaml")
    assert result.exit_code == 0
    assert "Eight is enough for us. [your own, ours.yaml]" in result.stdout
    assert "rank: 8" in Path("p.yaml").read_text(encoding="utf-8")
    chinese = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 3060 12GB", "--rules", "ours.yaml", "-o", "p.yaml", "--lang", "zh")
    assert "对我们来说八就够了。 [你自己的规则，ours.yaml]" in chinese.stdout


@pytest.mark.parametrize("command", [("plan", "--gpu", "RTX 4090", "-o", "p.yaml"), ("rules",), ("explain", "dropout")])
def test_a_broken_file_stops_every_command_with_its_line(command: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    from ftadvise.cli import main

    Path("bad.yaml").write_text(OURS.replace("gpu_tier ==", "gpu_teir =="), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--rules", "bad.yaml"])
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert "bad.yaml, line 4, rule gpu.mid_low, key 'when': unknown fact 'gpu_teir'" in error
    assert "did you mean gpu_tier" in error
    assert not Path("p.yaml").exists()
