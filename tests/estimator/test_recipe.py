"""The recipe: every field is validated, in both directions, with the nearest name when one is misspelt."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.recipe import Attention, Dtype, Loss, Method, Optimizer, Quantization, Recipe
from ftadvise.profiles.errors import InputError

FIELDS = [field.name for field in dataclasses.fields(Recipe)]
WRONG_TYPE: dict[str, Any] = {
    **dict.fromkeys(FIELDS, 3.5),
    "dropout": "0.1",
    "learning_rate": True,
    "warmup_ratio": "x",
    "max_grad_norm": None,
    "epochs": "3",
    "target_modules": "q_proj",
    "high_precision_modules": [1],
}
OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("rank", 0),
    ("alpha", -1),
    ("micro_batch", 0),
    ("gradient_accumulation", 0),
    ("seq_len", 0),
    ("seq_len", 10_000_001),
    ("dropout", 1.0),
    ("dropout", -0.1),
    ("learning_rate", 0.0),
    ("learning_rate", 10.0),
    ("max_steps", -1),
    ("epochs", 0.0),
    ("target_modules", ()),
]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe that can be built."""
    method = draw(st.sampled_from(get_args(Method)))
    quantization = "none" if method == "full" else draw(st.sampled_from(get_args(Quantization)))
    return Recipe(
        method=method,
        quantization=quantization,
        double_quantization=quantization in ("nf4", "fp4") and draw(st.booleans()),
        compute_dtype=draw(st.sampled_from(get_args(Dtype))),
        adapter_dtype=draw(st.sampled_from(get_args(Dtype))),
        rank=draw(st.integers(1, 512)),
        dropout=draw(st.floats(0, 0.9)),
        target_modules=tuple(draw(st.lists(st.sampled_from(["q_proj", "v_proj", "down_proj"]), min_size=1, unique=True))),
        micro_batch=draw(st.integers(1, 64)),
        seq_len=draw(st.integers(1, 10_000_000)),
        packing=draw(st.booleans()),
        attention=draw(st.sampled_from(get_args(Attention))),
        loss=draw(st.sampled_from(get_args(Loss))),
        optimizer=draw(st.sampled_from(get_args(Optimizer))),
        learning_rate=draw(st.floats(1e-7, 1)),
    )


@given(recipe=recipes())
def test_to_dict_and_back_is_the_same_recipe(recipe: Recipe) -> None:
    values = recipe.to_dict()
    assert Recipe.from_dict(values) == recipe
    assert list(values) == FIELDS
    assert hash(Recipe.from_dict(values)) == hash(recipe)


def test_wrong_types_cover_every_field() -> None:
    assert set(WRONG_TYPE) == set(FIELDS) == set(get_type_hints(Recipe))


@pytest.mark.parametrize(("name", "value"), WRONG_TYPE.items())
def test_a_value_of_the_wrong_type_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Recipe(**{name: value})


@pytest.mark.parametrize("name", [n for n, hint in get_type_hints(Recipe).items() if hint is int])
def test_true_is_not_a_number(name: str) -> None:
    with pytest.raises(InputError, match="whole number"):
        Recipe(**{name: True})


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Recipe(**{name: value})


@pytest.mark.parametrize("name", ["dropout", "learning_rate", "warmup_ratio", "max_grad_norm", "epochs"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        Recipe(**{name: value})


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_full_fine_tuning_of_a_quantised_base_is_a_contradiction(quantization: Any) -> None:
    with pytest.raises(InputError, match="no gradient") as error:
        Recipe(method="full", quantization=quantization)
    assert "--method lora" in (error.value.hint or "")


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_double_quantisation_needs_a_four_bit_base(quantization: Any) -> None:
    with pytest.raises(InputError, match="needs nf4 or fp4"):
        Recipe(quantization=quantization, double_quantization=True)


def test_a_misspelt_choice_gets_the_nearest_name() -> None:
    with pytest.raises(InputError) as error:
        Recipe(optimizer="adamw_tourch")  # type: ignore[arg-type]
    assert error.value.hint is not None
    assert "adamw_torch" in error.value.hint


def test_an_unknown_key_gets_the_nearest_name_and_the_place() -> None:
    with pytest.raises(InputError, match=r"plan\.yaml: recipe: unknown key 'micro_bach'") as error:
        Recipe.from_dict(Recipe().to_dict() | {"micro_bach": 2}, where="plan.yaml: recipe")
    assert error.value.hint == "did you mean micro_batch?"


def test_an_unlike_key_gets_all_names() -> None:
    with pytest.raises(InputError) as error:
        Recipe.from_dict(Recipe().to_dict() | {"zzz": 2})
    assert error.value.hint is not None
    assert "gradient_checkpointing" in error.value.hint


def test_a_missing_key_is_named() -> None:
    values = Recipe().to_dict()
    del values["seq_len"]
    with pytest.raises(InputError, match="missing seq_len"):
        Recipe.from_dict(values)


def test_a_bad_value_in_a_file_keeps_place_and_hint() -> None:
    with pytest.raises(InputError, match=r"plan: method must be one of") as error:
        Recipe.from_dict(Recipe().to_dict() | {"method": "lorra"}, where="plan")
    assert error.value.hint is not None
    assert "lora" in error.value.hint


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "LoRA"),
        ({"quantization": "nf4"}, "QLoRA"),
        ({"method": "dora", "quantization": "fp4"}, "QDoRA"),
        ({"method": "ia3", "quantization": "nf4"}, "IA3 on nf4"),
        ({"quantization": "int8"}, "LoRA on int8"),
        ({"method": "full"}, "full fine-tuning"),
    ],
)
def test_the_label_is_the_name_people_use(changes: dict[str, Any], label: str) -> None:
    assert Recipe(**changes).label == label


def test_replace_validates_and_leaves_the_original_alone() -> None:
    recipe = Recipe()
    assert recipe.replace(micro_batch=4, gradient_accumulation=3).sequences_per_step == 12
    assert recipe.micro_batch == 1
    with pytest.raises(InputError):
        recipe.replace(rank=0)
