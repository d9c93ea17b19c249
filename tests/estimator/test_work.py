"""The ledger of work: a small Llama counted by hand, experts, quantised layers, and every architecture against its parameters."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest

from ftadvise.estimator.peft_settings import adapter_rank
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.product_time import product_cost
from ftadvise.estimator.speed.rates import Rates
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.tape.build import Setting, StepProfile, context, step_profile
from ftadvise.estimator.tape.decoders import decoder_of, is_described
from ftadvise.estimator.tape.profile import QUANTITIES, Vector, quantities
from ftadvise.estimator.tape.step import training_step
from ftadvise.estimator.tape.work import StepWork, work_of
from ftadvise.profiles.model_cards import all_cards, card_to_spec
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec

HIDDEN, INNER, VOCABULARY, LAYERS, RANK, HEADS = 64, 160, 1000, 6, 8, 4
CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "vocab_size": VOCABULARY, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA = spec_from_config(CONFIG, source="test")
Q, KV, MLP = HIDDEN * HIDDEN, HIDDEN * 32, HIDDEN * INNER
LAYER = 2 * Q + 2 * KV + 3 * MLP
QKV, HEAD = Q + 2 * KV, HIDDEN * VOCABULARY
# in + out of every linear layer, times the rank: what one pass through all adapters multiplies
ADAPTERS = RANK * (2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + 32) + 3 * (HIDDEN + INNER))
SEQUENCES, LENGTH = 2, 48
TOKENS = SEQUENCES * LENGTH
RECIPE = Recipe(micro_batch=SEQUENCES, seq_len=LENGTH, rank=RANK, gradient_checkpointing=False, loss="full", gradient_accumulation=1)
ANY = Rates({}, 1e12, {}, {"forward": 0.5, "backward": 0.5}, 0.0, {})  # a device: what is counted does not depend on it
WRITES_SCORES = ("bloom", "gptj", "gpt_neo")

Counted = dict[str, tuple[float, float, float]]


def setting_of(recipe: Recipe) -> Setting:
    return Setting("eager" if recipe.attention == "eager" else "flash", masked=False, single=False, like_cuda=True)


def profile(spec: ModelSpec, recipe: Recipe, stack: str = "transformers") -> StepProfile:
    return step_profile(spec, recipe, stack_of(stack), setting_of(recipe))


def values_of(recipe: Recipe) -> Vector:
    return quantities(sequences=recipe.micro_batch, seq_len=recipe.seq_len, rank=adapter_rank(recipe), chunk_tokens=lambda tokens: tokens)


def multiplications(work: StepWork, recipe: Recipe) -> Counted:
    """Multiply-adds per token by kind, in the forward pass, the recomputation and the backward pass."""
    values, found = values_of(recipe), dict[str, tuple[float, float, float]]()
    tokens = values[QUANTITIES.index("tokens")]
    for product, counts in work.products:
        each = product_cost(product, values, ANY, 1e14)[0] / 2 / tokens
        before = found.get(product.kind, (0.0, 0.0, 0.0))
        found[product.kind] = (before[0] + each * counts[0], before[1] + each * counts[1], before[2] + each * counts[2])
    return found


def counted(recipe: Recipe, spec: ModelSpec = LLAMA, stack: str = "transformers") -> Counted:
    return multiplications(profile(spec, recipe, stack).work, recipe)


def expanded_bytes(recipe: Recipe, spec: ModelSpec = LLAMA, stack: str = "transformers") -> tuple[int, int, int]:
    """Bytes of the weights that a quantised base expands."""
    totals = [traffic.bytes[-1] for traffic in profile(spec, recipe, stack).work.traffic if traffic.kind == "dequantization"]
    return sum(x[0] for x in totals), sum(x[1] for x in totals), sum(x[2] for x in totals)


def test_lora_has_no_gradients_of_frozen_weights() -> None:
    """The first layer's queries, keys and values read the embedding, which wants no gradient."""
    found = counted(RECIPE)
    assert found["matmul"] == (LAYERS * LAYER, 0, LAYERS * LAYER - QKV)
    assert found["loss"] == (HEAD, 0, HEAD)
    # backward: the gradients of A and B, of B's input, and of A's but in the first layer
    assert found["adapter"] == (LAYERS * ADAPTERS, 0, 2 * LAYERS * ADAPTERS - 3 * RANK * HIDDEN)


def test_full_fine_tuning_multiplies_twice_as_much_going_back() -> None:
    found = counted(RECIPE.replace(method="full"))
    # the embedding is trained, so the first layer's input wants its gradient too
    assert found["matmul"] == (LAYERS * LAYER, 0, 2 * LAYERS * LAYER)
    assert found["loss"] == (HEAD, 0, 2 * HEAD)
    assert "adapter" not in found


@pytest.mark.parametrize(("targets", "left_out"), [(("all-linear",), 0), (("q_proj", "v_proj"), MLP)])
def test_recomputation_stops_at_the_last_tensor_that_was_saved(targets: tuple[str, ...], left_out: int) -> None:
    """An adapter on the last projection saves its input behind that product; without one nothing asks for the product."""
    recipe = RECIPE.replace(gradient_checkpointing=True, target_modules=targets)
    forward, again, backward = counted(recipe)["matmul"]
    assert (forward, again) == (LAYERS * LAYER, LAYERS * (LAYER - left_out))
    # checkpoints need inputs that want gradients, the first layer's too
    assert backward == LAYERS * LAYER


@pytest.mark.parametrize("method", ["lora", "full"])
def test_reentrant_checkpoints_recompute_all(method: Any) -> None:
    stack = "transformers==4.48.1"
    assert stack_of(stack).reentrant_checkpoints
    found = counted(RECIPE.replace(method=method, gradient_checkpointing=True, target_modules=("q_proj",)), stack=stack)
    assert found["matmul"][:2] == (LAYERS * LAYER, LAYERS * LAYER)


def test_attention_leaves_out_what_lies_behind_the_diagonal() -> None:
    forward = counted(RECIPE)["attention"][0]
    assert forward == LAYERS * LENGTH * HIDDEN  # scores and values, each of them half of length x width
    assert counted(RECIPE)["attention_backward"][2] == 2.5 * forward
    written_out = counted(RECIPE.replace(attention="eager"))["scores"]
    assert written_out == (2 * LAYERS * LENGTH * HIDDEN, 0, 4 * LAYERS * LENGTH * HIDDEN)


@pytest.mark.parametrize(
    ("stack", "loss", "forward", "backward"),
    [("trl", "fused", 1, 2), ("trl==1.14", "chunked", 1, 2), ("transformers-liger", "fused", 2, 0), ("trl", "full", 1, 1)],
)
def test_losses_in_parts_make_the_logits_again(stack: str, loss: Any, forward: int, backward: int) -> None:
    """Fused and chunked ones in the backward pass; Liger's has all its gradients in the forward pass."""
    found = counted(RECIPE.replace(loss=loss), stack=stack)["loss"]
    assert found == pytest.approx((forward * HEAD, 0, backward * HEAD), rel=1.5 / LENGTH)  # some leave out the last position


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_quantised_base_multiplies_the_same_and_expands_its_weights(quantization: Any, checkpoints: bool) -> None:
    recipe = RECIPE.replace(quantization=quantization, gradient_checkpointing=checkpoints)
    assert counted(recipe)["matmul"] == counted(recipe.replace(quantization="none"))["matmul"]
    once = 2 * LAYERS * LAYER
    forward, again, backward = expanded_bytes(recipe)
    assert backward == once - (0 if checkpoints else 2 * QKV)
    # LLM.int8 multiplies forward in 8 bit, so that nothing is expanded
    assert (forward, again) == ((0, 0) if quantization == "int8" else (once, once * checkpoints))


def test_a_layer_kept_in_high_precision_is_not_expanded() -> None:
    recipe = RECIPE.replace(quantization="nf4", high_precision_modules=("down_proj",))
    assert expanded_bytes(recipe)[0] == 2 * LAYERS * (LAYER - MLP)


@pytest.mark.parametrize("stack", ["unsloth", "transformers-liger", "transformers-4-foak", "axolotl", "litgpt", "torchtune"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_fused_kernels_multiply_what_the_modules_multiply(stack: str, quantization: Any) -> None:
    recipe = RECIPE.replace(quantization=quantization, dropout=0.0)
    forward, _, backward = counted(recipe, stack=stack)["matmul"]
    assert forward == LAYERS * LAYER
    assert backward >= LAYERS * LAYER - QKV
    assert counted(recipe, stack=stack)["adapter"][0] == LAYERS * ADAPTERS


EXPERTS, CHOSEN, EXPERT_INNER = 16, 2, 32
MIXTURE = spec_from_config(
    CONFIG | {"model_type": "qwen3_moe", "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": EXPERT_INNER},
    source="test",
)
EXPERT = 3 * HIDDEN * EXPERT_INNER
ROUTER = EXPERTS * HIDDEN  # where experts are modules, the tape leaves out the routing weights, and with them its way back
EXPERT_LAYER = 2 * Q + 2 * KV + CHOSEN * EXPERT + ROUTER
ON_ATTENTION = RECIPE.replace(target_modules=MIXTURE.attention_modules)


@pytest.mark.parametrize("stack", ["transformers", "transformers==4.48.1"], ids=["grouped", "modules"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_each_token_meets_its_experts_only(stack: str, quantization: Any) -> None:
    forward, again, backward = counted(ON_ATTENTION.replace(quantization=quantization), MIXTURE, stack)["matmul"]
    assert (forward, again) == (LAYERS * EXPERT_LAYER, 0)
    assert backward == LAYERS * (EXPERT_LAYER - ROUTER * (stack != "transformers")) - QKV


def test_full_fine_tuning_of_experts() -> None:
    recipe = RECIPE.replace(method="full")
    assert counted(recipe, MIXTURE)["matmul"] == (LAYERS * EXPERT_LAYER, 0, 2 * LAYERS * EXPERT_LAYER)
    assert counted(recipe, MIXTURE, "transformers==4.48.1")["matmul"][2] == 2 * LAYERS * (EXPERT_LAYER - ROUTER)


def test_every_expert_that_is_a_module_expands_its_weights() -> None:
    """Sixteen of them, of which the tape writes out eight; the rest of a layer's weights once."""
    recipe = ON_ATTENTION.replace(quantization="nf4")
    forward, _, backward = expanded_bytes(recipe, MIXTURE, "transformers==4.48.1")
    assert forward == 2 * LAYERS * (2 * Q + 2 * KV + EXPERTS * EXPERT)
    assert backward == forward - 2 * QKV
    assert expanded_bytes(recipe, MIXTURE, "transformers")[0] == 2 * LAYERS * (2 * Q + 2 * KV)  # fused parameters stay in 16 bit


def test_grouped_experts_are_few_launches_and_modules_many() -> None:
    def operations(stack: str) -> int:
        return sum(traffic.operations[-1][0] for traffic in profile(MIXTURE, ON_ATTENTION, stack).work.traffic)

    more = dataclasses.replace(MIXTURE, experts=dataclasses.replace(MIXTURE.experts, num_experts=4 * EXPERTS))  # type: ignore[type-var]
    few, many = operations("transformers"), operations("transformers==4.48.1")
    assert many > few + LAYERS * EXPERTS * 5
    four_times = sum(each.operations[-1][0] for each in profile(more, ON_ATTENTION, "transformers==4.48.1").work.traffic)
    assert four_times > many + 3 * LAYERS * EXPERTS * 5


@functools.cache
def cards() -> dict[str, ModelSpec]:
    """The decoders that are described, by name."""
    specs = [card_to_spec(card) for card in all_cards()]
    return {spec.id: spec for spec in specs if spec.kind in ("causal_lm", "vision_language") and is_described(spec)}


def _smallest() -> dict[str, ModelSpec]:
    found: dict[str, ModelSpec] = {}
    for spec in sorted(cards().values(), key=lambda each: each.total_params):
        found.setdefault(spec.model_type, spec)
    return found


SMALLEST = _smallest()
LATENT_MISTRAL = cards()["mistralai/Mistral-Small-4-119B-2603"]  # the type of the others, another model inside
# the tape describes its language model; 350m's embedding has a width of its own, which the tape leaves out
OTHERWISE = {"facebook/opt-350m"}
# which of their layers attend is not on the card
UNKNOWN_PATTERN = {"LiquidAI/LFM2-2.6B", "LiquidAI/LFM2.5-2.6B", "LiquidAI/LFM2.5-230M"}
# models that are small beside their learned positions
LEARNED_POSITIONS = {"facebook/opt-125m", "EleutherAI/gpt-neo-125m", "distilbert/distilgpt2", "bigcode/starcoderbase-1b"}


def recipe_for(spec: ModelSpec, **more: Any) -> Recipe:
    return RECIPE.replace(attention="eager" if spec.model_type in WRITES_SCORES else "sdpa", **more)


@functools.cache
def published_counts() -> dict[str, int]:
    """LoRA parameters per rank, with all linear layers as targets."""
    return {str(card["id"]): card["lora_params_per_rank"] for card in all_cards() if card.get("lora_params_per_rank")}


def has_a_count(spec: ModelSpec) -> bool:
    """Of one linear layer after the other: experts are left out, and towers of other kinds of models."""
    return spec.kind == "causal_lm" and spec.experts is None and spec.id in published_counts()


def head_of(spec: ModelSpec) -> int:
    return spec.vocab_size * spec.hidden_size


def test_there_are_many_architectures() -> None:
    assert len(SMALLEST) >= 50
    assert len(cards()) >= 200


@pytest.mark.parametrize("name", [name for name, spec in cards().items() if spec.kind == "causal_lm" and name not in OTHERWISE])
def test_a_token_meets_every_active_parameter_once(name: str) -> None:
    """The published count of active parameters, without an embedding that is only looked up."""
    spec = cards()[name]
    found = counted(recipe_for(spec), spec)
    active = spec.active_params - (0 if spec.tie_word_embeddings else head_of(spec))
    small = 0.016 if name in LEARNED_POSITIONS else 0.01
    assert found["matmul"][0] + found["loss"][0] == pytest.approx(active, rel=small)


@pytest.mark.parametrize("spec", [*SMALLEST.values(), LATENT_MISTRAL], ids=lambda spec: spec.model_type)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_products_are_those_of_the_linear_layers(spec: ModelSpec, method: Any) -> None:
    """Forward all of them, and the experts by their share; going back the gradients of activations, and of weights when trained."""
    recipe = recipe_for(spec, method=method, target_modules=spec.attention_modules)
    found = counted(recipe, spec)
    linear = sum(each.weight_elements * each.count for each in profile(spec, recipe).linears)
    if spec.experts is not None:
        routed = spec.experts.experts_per_token * 3 * spec.experts.intermediate_size + spec.experts.num_experts
        linear += (spec.num_layers - spec.experts.first_dense_layers) * routed * spec.hidden_size
    forward, again, backward = found["matmul"]
    assert forward == pytest.approx(linear, rel=1e-3)
    assert again == 0
    assert found["loss"][0] == pytest.approx(head_of(spec), rel=1e-9)
    first_layer = 1.5 / spec.num_layers
    assert backward == pytest.approx((2 if method == "full" else 1) * linear, rel=1e-3 if method == "full" else first_layer)


@pytest.mark.parametrize("spec", SMALLEST.values(), ids=lambda spec: spec.model_type)
def test_layers_recorded_once_count_as_often_as_they_occur(spec: ModelSpec) -> None:
    kinds = {decoder_of(spec).kind(spec, index) for index in range(spec.num_layers)}
    layers = min(spec.num_layers, 26 if len(kinds) > 1 else 7)  # some alternate with a period of six
    spec = dataclasses.replace(spec, id=f"{spec.id} (short)", num_layers=layers, layer_pattern=spec.layer_pattern[:layers])
    recipe = recipe_for(spec, quantization="nf4", gradient_checkpointing=True, target_modules=spec.attention_modules)
    stack = stack_of("transformers")
    ctx = context(spec, recipe, stack, setting_of(recipe))
    training_step(ctx, decoder_of(spec), stack.loss_kernel(recipe.loss), keeps_logits=stack.keeps_logits, compress=False)
    whole, repeated = work_of(ctx.t), profile(spec, recipe).work
    assert dict(repeated.products) == dict(whole.products)
    assert repeated.hosted == whole.hosted
    assert _totals(repeated) == _totals(whole)


def _totals(work: StepWork) -> dict[tuple[str, str, int], tuple[Any, Any]]:
    return {(each.kind, each.rows, each.reads): (each.operations[-1], each.bytes[-1]) for each in work.traffic}


@pytest.mark.parametrize("name", [name for name, spec in cards().items() if has_a_count(spec) and name not in UNKNOWN_PATTERN | OTHERWISE])
def test_lora_on_all_linear_layers_has_as_many_parameters_as_published(name: str) -> None:
    spec = cards()[name]
    adapted = [each for each in profile(spec, recipe_for(spec)).linears if each.adapted]
    assert sum((each.in_features + each.out_features) * each.count for each in adapted) == published_counts()[name]
