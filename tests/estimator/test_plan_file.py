"""The plan file survives a round trip and refuses what a person may have broken in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ftadvise.estimator import recipe as recipe_module
from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import MadeFor, PlanFile, check_made_for, read_plan_file, write_plan_file
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Cpu, Gpu, Hardware

GIB = 1 << 30
CPU = Cpu("some cpu", 2, 4, supports_bf16=False, supports_amx=False)


def _hardware(gpu: str | None = None, memory_bytes: int = 24 * GIB, count: int = 1) -> Hardware:
    gpus = () if gpu is None else (Gpu(gpu, "nvidia", "ada", memory_bytes),) * count
    return Hardware(gpus, CPU, 64 * GIB, 60 * GIB, "named")


def _plan(recipe: Recipe | None = None, hardware: Hardware | None = None) -> PlanFile:
    return PlanFile(
        model_id="org/model",
        parameters=123,
        local_path=None,
        made_for=MadeFor.of(hardware or _hardware()),
        stack={"name": "trl", "versions": {"trl": "1.16.0"}},
        recipe=recipe or Recipe(),
        data=DataSettings("数据/rows.jsonl"),
        predicted={"memory": {"peak_allocated_bytes": 5}, "throughput": None},
        ftadvise_version="0.1.0",
    )


@st.composite
def _recipes(draw: st.DrawFn) -> Recipe:
    method = draw(st.sampled_from(get_args(recipe_module.Method)))
    quantization = "none" if method == "full" else draw(st.sampled_from(get_args(recipe_module.Quantization)))
    names = st.text(st.characters(categories=["L", "N"], include_characters="._: -#'\"\n"), min_size=1, max_size=12)
    return Recipe(
        method=method,
        quantization=quantization,
        double_quantization=quantization in ("nf4", "fp4") and draw(st.booleans()),
        compute_dtype=draw(st.sampled_from(get_args(recipe_module.Dtype))),
        rank=draw(st.integers(1, 10**6)),
        dropout=draw(st.floats(0, 0.999)),
        target_modules=tuple(draw(st.lists(names, min_size=1, max_size=3))),
        high_precision_modules=tuple(draw(st.lists(names, max_size=2))),
        seq_len=draw(st.integers(1, 10_000_000)),
        packing=draw(st.booleans()),
        optimizer=draw(st.sampled_from(get_args(recipe_module.Optimizer))),
        learning_rate=draw(st.floats(1e-12, 9.9)),
        epochs=draw(st.floats(1e-3, 1e3)),
        seed=draw(st.integers(0, 2**31)),
    )


@settings(max_examples=60, deadline=None)
@given(recipe=_recipes())
def test_any_recipe_survives_the_file(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    plan = _plan(recipe)
    write_plan_file(path, plan)
    assert read_plan_file(path) == plan


def test_the_file_is_for_people(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    write_plan_file(path, _plan())
    text = path.read_text(encoding="utf-8")
    assert "数据/rows.jsonl" in text
    document = yaml.safe_load(text)
    assert set(document["recipe"]) == {f.name for f in dataclasses.fields(Recipe)}
    commented = [lines[0] for lines in (block.splitlines() for block in text.split("\n\n"))]
    assert all(line.startswith("# ") for line in commented), "each section begins with a comment"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.yaml"], "no temporary file is left"


@pytest.mark.parametrize(
    ("old", "new", "wanted", "hint", "line_says"),
    [
        ("  rank: 16", "  rnk: 16", "unknown key 'recipe.rnk'", "rank", "rnk"),
        ("  rank: 16", "  rank: sixteen", "rank must be a whole number", None, "rank"),
        ("  rank: 16", "  rank: true", "rank must be a whole number", None, "rank"),
        ("  rank: 16", "  rank: 0", "rank must be at least 1", None, "rank"),
        ("  rank: 16\n", "", "recipe.rank is missing", "ftadvise plan", "recipe"),
        ("method: lora", "method: loora", "method must be one of", "lora", "loora"),
        ("learning_rate: 0.0002", "learning_rate: .nan", "learning_rate must be a finite number", None, "learning_rate"),
        ("epochs: 3.0", "epochs: .inf", "epochs must be a finite number", None, "epochs"),
        ("ftadvise.plan-file/1", "ftadvise.plan-file/9", "schema 'ftadvise.plan-file/9'", "ftadvise plan", "schema"),
        ("parameters: 123", "parameters: -1", "model.parameters must be", None, "-1"),
        ("device: cpu", "device: tpu", "device must be cuda or cpu", None, "tpu"),
        ("data:\n", "dta:\n", "unknown key 'dta'", "data", "dta"),
        ("created: ", "made: 5\ncreated: ", "unknown key 'made'", None, "made"),
        ("predicted:\n", "predicted: 5\n#", "predicted must be a mapping", None, "predicted"),
        ("stack:\n  name: trl", "stack:\n  name: [trl]", "stack.name must be text", None, "[trl]"),
    ],
)
def test_an_edit_that_broke_it_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, wanted: str, hint: str | None, line_says: str
) -> None:
    path = tmp_path / "plan.yaml"
    write_plan_file(path, dataclasses.replace(_plan(), predicted={}) if "predicted" in old else _plan())
    text = path.read_text(encoding="utf-8").replace("predicted: {}", "predicted:\n  {}")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_plan_file(path)
    message = str(caught.value)
    assert wanted in message
    line = int(message.removeprefix(f"{path}, line ").split(":")[0])
    assert line_says in path.read_text(encoding="utf-8").splitlines()[line - 1]
    if hint:
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "empty"),
        (b"- 1\n- 2\n", "mapping"),
        (b"just words", "mapping"),
        (b"a: [1,\n", "not valid YAML"),
        (b"schema: ftadvise.plan-file/1\nschema: ftadvise.plan-file/1\n", "twice"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"model: {}\n", "has no schema line"),
        (b"a: &x [1]\nb: *x\n", "aliases"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(tmp_path: Path, content: bytes, wanted: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=wanted) as caught:
        read_plan_file(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_plan_file(tmp_path / "nothing.yaml")


def test_writing_into_a_missing_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_plan_file(tmp_path / "no" / "plan.yaml", _plan())


@pytest.mark.parametrize(
    ("planned", "here", "fits"),
    [
        (_hardware(), _hardware(), True),
        (_hardware("RTX 4090"), _hardware("RTX 4090"), True),
        (_hardware("RTX 4090"), _hardware("NVIDIA GeForce RTX 4090", 24564 << 20), True),
        (_hardware("RTX 4090"), _hardware("RTX 4090", 48 * GIB), True),
        (_hardware("RTX 4090"), _hardware("RTX 4090", 12 * GIB), False),
        (_hardware("RTX 4090"), _hardware("RTX 3090"), False),
        (_hardware("RTX 4090"), _hardware("RTX 4090", count=2), False),
        (_hardware("RTX 4090"), _hardware(), False),
        (_hardware(), _hardware("RTX 4090"), False),
        (_hardware("A Card Nobody Knows"), _hardware("A Card Nobody Knows"), True),
        (_hardware("A Card Nobody Knows"), _hardware("Another One"), False),
    ],
)
def test_a_plan_for_other_hardware_is_refused(planned: Hardware, here: Hardware, fits: bool) -> None:
    plan = _plan(hardware=planned)
    if fits:
        check_made_for(plan, here)
        return
    with pytest.raises(InputError, match="was made for") as caught:
        check_made_for(plan, here)
    assert caught.value.hint is not None
    assert "ftadvise plan --model org/model" in caught.value.hint
