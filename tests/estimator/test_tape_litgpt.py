"""LitGPT on the tape: what its model, Fabric and old bitsandbytes keep; and its published peaks."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

import ftadvise
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.memory import Priced, price_memory
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model

LLAMA, NEOX, PHI = "meta-llama/Llama-2-7b-hf", "stabilityai/stablelm-base-alpha-3b", "microsoft/Phi-3-mini-4k-instruct"
RECIPE = Recipe(
    method="lora",
    compute_dtype="bf16",
    adapter_dtype="bf16",
    rank=8,
    alpha=16,
    dropout=0.05,
    target_modules=("q_proj", "v_proj"),
    micro_batch=1,
    seq_len=1024,
    gradient_checkpointing=False,
    attention="sdpa",
    loss="full",
    optimizer="adamw_torch",
    max_grad_norm=0.0,
)
FIRST_STEP = dataclasses.replace(stack_of("litgpt==0.1"), keeps_last_step=False)


def priced(model: str = LLAMA, recipe: Recipe = RECIPE, stack: Stack = FIRST_STEP) -> Priced:
    return price_memory(resolve_model(model), named_hardware("A100 SXM4 40GB"), recipe, stack)


def peak(**arguments: object) -> int:
    phases = priced(**arguments).phases()  # type: ignore[arg-type]
    return max(size for phase, size in phases.items() if phase != "evaluation")


def test_activations_of_a_llama_layer_are_those_of_the_source() -> None:
    """Per token and layer: two fp32 norms, the dropped input and its mask, the adapter's output (q, v), q k v, q and k rotated, the
    attention's output and log-sum-exp, gate, up and their activation, r values of A for each of the two.
    """
    hidden, inner, heads, tokens = 4096, 11008, 32, 1024
    layer = 2 * 4 * hidden + 3 * hidden + 4 * hidden + 6 * hidden + 4 * hidden + 2 * hidden + 4 * heads + 6 * inner + 4 * 8
    found = priced()
    alive = found.components("backward")["activations"]
    # the first layer's first norm wants no gradient; the last norm keeps an fp32 copy; scales of norms and ids are a few bytes a token
    assert alive == pytest.approx((32 * layer + 4 * hidden - 4 * hidden) * tokens, rel=1e-3)


def test_one_adapter_on_q_and_v_has_the_published_number_of_parameters() -> None:
    for model, parameters in ((LLAMA, 4_194_304), (NEOX, 2_097_152), ("meta-llama/Llama-2-13b-hf", 6_553_600)):
        trained = priced(model).static.trained
        assert sum(tensor.elements * tensor.count for tensor in trained) == parameters


def test_joint_names_adapt_all_three_parts() -> None:
    whole = priced(NEOX, RECIPE.replace(target_modules=("query_key_value",)))
    parts = priced(NEOX, RECIPE.replace(target_modules=("q_proj", "k_proj", "v_proj")))
    assert sum(t.elements * t.count for t in whole.static.trained) == sum(t.elements * t.count for t in parts.static.trained)
    # zero_pad returns at once, so its source is not kept
    assert parts.peaks["backward"][0] < priced(NEOX).peaks["backward"][0]


def test_old_bitsandbytes_keeps_the_input_of_every_4_bit_layer() -> None:
    recipe = RECIPE.replace(quantization="nf4")
    new = dataclasses.replace(FIRST_STEP, keeps_4bit_inputs=False)
    extra = priced(recipe=recipe).peaks["backward"][0] - priced(recipe=recipe, stack=new).peaks["backward"][0]
    # both norms' outputs, the attention's, the product of gate and up, and the head's input
    assert extra == pytest.approx((32 * (3 * 2 * 4096 + 2 * 11008) + 2 * 4096) * 1024, rel=0.01)


@pytest.mark.parametrize(("stack", "keeps", "by_way_of_fp16"), [
    ("trl==0.20", False, False), ("trl==0.20,bitsandbytes==0.43.2", False, False), ("trl==0.20,bitsandbytes==0.43.1", True, False),
    ("transformers==4.30", True, True), ("litgpt==0.5.13", False, True), ("litgpt==0.4", True, True), ("transformers-liger", False, False),
])  # fmt: skip
def test_what_bitsandbytes_does_goes_by_its_version(stack: str, keeps: bool, by_way_of_fp16: bool) -> None:
    found = stack_of(stack)
    assert (found.keeps_4bit_inputs, found.expands_4bit_to_fp16) == (keeps, by_way_of_fp16)


def test_a_checkpoint_does_not_drop_what_bitsandbytes_keeps() -> None:
    """The inputs are on the function's context: a checkpoint that is not reentrant keeps them all, a reentrant one has no graph."""
    recipe = RECIPE.replace(quantization="nf4", gradient_checkpointing=True, adapter_dtype="fp32")
    straight, reentrant = stack_of("trl==1.10,bitsandbytes==0.43.1"), stack_of("trl==0.20,bitsandbytes==0.43.1")

    def extra(stack: Stack) -> int:
        return peak(recipe=recipe, stack=stack) - peak(recipe=recipe, stack=dataclasses.replace(stack, keeps_4bit_inputs=False))

    assert extra(straight) > 20 * extra(reentrant) >= 0


def test_fp16_needs_no_second_copy_of_the_expanded_head() -> None:
    """In backward the head's product decides: its weight expanded once, or twice."""
    recipe = RECIPE.replace(quantization="nf4", seq_len=256)
    half = recipe.replace(compute_dtype="fp16", adapter_dtype="fp16")
    assert peak(recipe=recipe) - peak(recipe=half) == pytest.approx(2 * 32000 * 4096, rel=0.02)


def test_the_head_is_quantised_with_everything_else() -> None:
    linears = {linear.name: linear for linear in priced(recipe=RECIPE.replace(quantization="nf4")).profile.linears}
    assert linears["lm_head"].quantized
    assert all(linear.quantized for linear in linears.values())
    assert "lm_head" not in {linear.name for linear in priced(stack=stack_of("trl==0.13")).profile.linears}


def test_the_head_can_be_adapted_by_name_only() -> None:
    def adapters(*targets: str, stack: Stack = FIRST_STEP, loss: str = "full") -> int:
        found = priced(recipe=RECIPE.replace(target_modules=targets, loss=loss), stack=stack)
        return sum(tensor.elements * tensor.count for tensor in found.static.trained)

    assert adapters("q_proj", "lm_head") - adapters("q_proj") == 8 * (4096 + 32000)
    assert adapters("all-linear") == adapters("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    with pytest.raises(InputError, match="lm_head"):
        adapters("lm_head", stack=stack_of("trl==1.16"), loss="fused")  # a kernel of its own, and no layer


def test_padding_needs_no_mask() -> None:
    one, two, four = (priced(recipe=RECIPE.replace(micro_batch=count)).peaks["backward"][0] for count in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=1e-3)


def test_the_step_before_is_held_through_the_next_forward() -> None:
    """Loss and logits keep their graph, and with it what old bitsandbytes keeps."""
    recipe, holds = RECIPE.replace(quantization="nf4"), stack_of("litgpt==0.1")
    first, later = priced(recipe=recipe), priced(recipe=recipe, stack=holds)
    kept = (32 * (3 * 2 * 4096 + 2 * 11008) + 2 * 4096) * 1024
    logits = 4 * 32000 * 1024
    assert later.peaks["forward"][0] - first.peaks["forward"][0] == pytest.approx(kept + logits, rel=0.08)
    assert later.peaks["backward"][0] == first.peaks["backward"][0]


def test_other_architectures_are_as_in_transformers() -> None:
    bloom = priced("bigscience/bloom-560m", RECIPE.replace(target_modules=("query_key_value",)))
    assert {linear.name for linear in bloom.profile.linears} >= {"self_attention.query_key_value"}


def test_a_loop_that_shifts_the_logits_holds_them_through_backward() -> None:
    """torchtune 0.1: its copy, the log-softmax, and the gradients of both; 0.3 works on chunks and deletes the logits."""
    recipe = RECIPE.replace(gradient_checkpointing=True, seq_len=4096)
    first, held = priced(recipe=recipe, stack=stack_of("torchtune==0.1.1")), 16 * 32000 * 4096
    assert first.components("backward")["loss"] == pytest.approx(held, rel=0.01)
    chunked = priced(recipe=recipe.replace(loss="chunked"), stack=stack_of("torchtune==0.6.1"))
    assert chunked.components("backward").get("loss", 0) < held / 2


PUBLISHED = Path(ftadvise.__file__).resolve().parents[1] / "benchmarks" / "data" / "memory_measurements.csv"
ROWS = [row for row in csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()) if row["id"].startswith("litgpt-rt-")]


@pytest.mark.parametrize("row", [row for row in ROWS if row["method"] in ("lora", "qlora")], ids=lambda row: row["id"])
def test_the_resource_tables(row: dict[str, str]) -> None:
    """Llama-2 and StableLM on an A100 (litgpt, resource-tables.md of October 2023); the first batch is the longest."""
    quantised = row["base_dtype"] == "nf4"
    recipe = RECIPE.replace(
        quantization="nf4" if quantised else "none",
        double_quantization=row["double_quant"] == "True",
        micro_batch=int(row["micro_batch_size"]),
        seq_len=int(row["seq_len"]),
        gradient_accumulation=int(row["grad_accum"]),
        optimizer="paged_adamw_32bit" if quantised else "adamw_torch",
    )
    assert peak(model=row["model"], recipe=recipe) == pytest.approx(float(row["peak_mem_gib_norm"]) * 2**30, rel=0.01)
