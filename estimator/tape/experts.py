"""Routed experts as transformers 5 computes them: all of a layer in two 3-D parameters, tokens sorted by expert, two grouped products.

Source: transformers 5.23 integrations/moe.py (grouped_mm_experts_forward is what runs unless one asks for another), the routers of
models/mixtral, qwen2_moe, deepseek_v3; peft 0.21 tuners/lora/layer.py (ParamWrapper), utils/transformers_weight_conversion.py.

Every token is routed to `experts_per_token` experts, so what belongs to tokens is that many times as wide; which experts they are does not
matter. With LoRA, PEFT folds its factors into a copy of all the experts of a layer, and autograd keeps the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.tape.blocks import activation
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Leaf, Tape, Tensor
from ftadvise.estimator.tape.expert_modules import experts_one_by_one
from ftadvise.estimator.tape.linear import turned
from ftadvise.estimator.tape.ops import Saved, mul, split, to, to_plain
from ftadvise.estimator.tape.work import Product
from ftadvise.profiles.model_spec import Experts, ModelSpec

INT64, INT32 = 8, 4

_MIXTRAL_NAMES = frozenset({"gate", "w1", "w2", "w3"})
_QWEN_NAMES = frozenset({"gate", "gate_proj", "up_proj", "down_proj"})
_CONVERTED: dict[str, frozenset[str]] = {
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), _MIXTRAL_NAMES),
    **dict.fromkeys(
        (
            "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa",
            "glm4v_moe", "longcat_flash", "solar_open", "mellum", "qwen3_moe", "beam", "qwen3_next", "hunyuan_v1_moe", "flex_olmo", "olmoe",
            "exaone_moe", "cohere2_moe",
        ),
        _QWEN_NAMES,
    ),
}  # fmt: skip
"""Model types whose LoRA targets PEFT translates from the modules of transformers 4 to the parameters of transformers 5, and the names that
it takes for experts and router. (qwen2_moe itself is not among them.)"""


def converted_names(spec: ModelSpec, recipe: Recipe) -> frozenset[str]:
    """Names of former modules that PEFT turns into LoRA on expert and router parameters; linear layers of these names get none.

    "all-linear" is such a target too. PEFT refuses dropout and DoRA on parameters.
    """
    if recipe.method != "lora":
        return frozenset()
    names = _CONVERTED.get(spec.model_type, frozenset())
    return names if recipe.target_modules == ("all-linear",) else names & set(recipe.target_modules)


@dataclass(frozen=True, slots=True)
class Routing:
    """How a router weighs experts.

    `kind`: "softmax" (the largest of the probabilities), "gathered" (chosen with a bias that is not part of the weights) or "sigmoid".
    `fp32_scores`: its weights reach the experts in fp32, else in the dtype of its logits. `fp32_product`: it casts input and weight;
    `autocast`: which autocast then casts back.
    """

    kind: str = "softmax"
    fp32_scores: bool = False
    fp32_product: bool = False
    autocast: bool = True


def gather(t: Tape, x: Tensor, rows: str, width: int, index: Tensor, operation: str = "index") -> Tensor:
    """x[index]: saves the index; backward adds into zeros in the shape of x."""
    shape = (x.rows, x.width, x.item)
    node = t.node(operation, (x,), (index,), lambda grad, _: (t.new(*shape, "index_backward"),))
    return t.new(rows, width, x.item, operation, node)


def parameter_product(
    t: Tape, weight: Tensor | Leaf | None, x: Tensor, out_width: int, elements: int, item: int, *, name: str, chosen: int = 1
) -> Tensor:
    """Products with a parameter that autocast does not cast: x is cast to it. `weight`: its leaf, PEFT's copy of it, or None (frozen).

    `chosen`: the experts of a token, whose parts lie side by side in x.
    """
    inside = to(t, x, item)
    wants_weight, wants_x = weight is not None, inside.node is not None
    rows, width = inside.rows, inside.width
    groups = max(1, elements * chosen * chosen // (width * out_width))
    product = Product("matmul", rows, out_width // chosen, width // chosen, item, times=chosen, groups=groups)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        if wants_x:
            t.multiply(turned(product))
        if wants_weight:
            t.multiply(product._replace(inner_rows=True))
        x_gradient = t.new(rows, width, item, name) if wants_x else None
        weight_gradient = t.new("one", elements, item, name) if wants_weight else None
        return (x_gradient, weight_gradient)

    saved = [inside] if wants_weight else []
    if isinstance(weight, Tensor) and wants_x:
        saved.append(weight)
    node = t.node(name, (inside, weight), saved, apply)
    t.multiply(product)
    return t.new(rows, out_width, item, name, node)


def _adapted(
    ctx: Context, name: str, experts: int, in_features: int, out_features: int, times: int
) -> tuple[Tensor, tuple[Tensor | Leaf, Tensor | Leaf]]:
    """PEFT's copy of an expert parameter: W + scaling * B A for all experts, `times` the rank where projections are fused.

    And B and A, which its parametrization holds in the dtype of W while the experts run.
    """
    t, item = ctx.t, ctx.hidden
    a_width, b_width, elements = times * experts * in_features, times * experts * out_features, experts * in_features * out_features
    a = _factor(ctx, f"{name}.lora_A", a_width, item)
    b = _factor(ctx, f"{name}.lora_B", b_width, item)
    checked = t.new("one", elements, item, "baddbmm", label="workspace")  # register_parametrization tries it out first
    del checked

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (t.new("rank", b_width, item, "bmm"), t.new("rank", a_width, item, "bmm"))

    node = t.node("baddbmm", (b, a), (b, a) if isinstance(a, Tensor) and isinstance(b, Tensor) else (), apply)
    return t.new("one", elements, item, "baddbmm", node, label="workspace"), (b, a)


def _factor(ctx: Context, name: str, width: int, item: int) -> Tensor | Leaf:
    leaf = ctx.leaf(name, width, ctx.adapter, "rank")
    if ctx.adapter == item:
        return leaf
    t, before = ctx.t, ctx.adapter
    node = t.node("to", (leaf,), (), lambda grad, _: (to_plain(t, grad, before),))
    return t.new("rank", width, item, "to", node, label="workspace")


def expert_parameter(
    ctx: Context, name: str, in_features: int, out_features: int, *, converted: bool, times: int = 1
) -> tuple[Tensor | Leaf | None, object]:
    """What the product's weight is: a trained parameter's leaf, PEFT's copy, or None. And what must live until the experts are done."""
    experts = _experts(ctx).num_experts
    elements = experts * in_features * out_features
    if ctx.full and ctx.training:
        return ctx.leaf(name, elements, ctx.parameter, columns=in_features, matrices=experts), None
    return _adapted(ctx, name, experts, in_features, out_features, times) if converted else (None, None)


def _experts(ctx: Context) -> Experts:
    assert ctx.spec.experts is not None  # noqa: S101 - narrows the type; a decoder with experts is chosen for models with experts
    return ctx.spec.experts


def route(ctx: Context, x: Tensor, routing: Routing, *, name: str = "mlp.gate") -> tuple[Tensor, Tensor, Tensor]:
    """(logits, weights of the chosen experts, their indices)."""
    t, experts = ctx.t, _experts(ctx)
    logits = router_logits(ctx, x, experts.num_experts, name=name, fp32=routing.fp32_product, autocast=routing.autocast)
    if routing.kind == "softmax":
        weights, index = _softmax_choice(ctx, logits)
    else:
        weights, index = _gathered(ctx, _sigmoid(t, logits) if routing.kind == "sigmoid" else _softmax(t, logits))
    return logits, weights if routing.fp32_scores else to(t, weights, logits.item if routing.autocast else x.item), index


def router_logits(ctx: Context, x: Tensor, width: int, *, name: str, fp32: bool, autocast: bool = True) -> Tensor:
    """The router's product: its weight is a parameter of a module of its own, neither quantised nor a linear layer."""
    t = ctx.t
    elements = width * x.width
    adapted = "gate" in ctx.on_parameters
    leaf: Leaf | None = ctx.leaf(f"{name}.weight", elements, ctx.parameter, columns=x.width) if ctx.full and ctx.training else None
    item = (ctx.autocast if autocast else 0) or (4 if fp32 else x.item)
    inside = to(t, to(t, x, 4), item) if fp32 else to(t, x, item)
    weight: Tensor | Leaf | None = leaf
    if fp32 and leaf is None and not adapted:  # a copy of the frozen weight, which is saved
        return _frozen_product(t, inside, width, elements, item)
    if adapted:
        weight = _router_copy(ctx, name, x.width, width)
    return parameter_product(t, weight, inside, width, elements, item, name="router")


def _frozen_product(t: Tape, x: Tensor, width: int, elements: int, item: int) -> Tensor:
    rows, x_width = x.rows, x.width
    copied = t.new("one", elements, item, "to", label="workspace")
    t.multiply(Product("matmul", rows, width, x_width, item))
    node = t.node("router", (x,), (copied,), lambda grad, _: (t.new(rows, x_width, item, "router"),))
    return t.new(rows, width, item, "router", node)


def _router_copy(ctx: Context, name: str, in_features: int, out_features: int) -> Tensor:
    """PEFT's copy of a two-dimensional parameter: W + B A * scaling."""
    t, item, elements = ctx.t, ctx.hidden, in_features * out_features
    a = ctx.leaf(f"{name}.lora_A", in_features, ctx.adapter, "rank")
    b = ctx.leaf(f"{name}.lora_B", out_features, ctx.adapter, "rank")

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (t.new("rank", in_features, ctx.adapter, "mm"), t.new("rank", out_features, ctx.adapter, "mm"))

    node = t.node("delta", (a, b), (), apply)
    return t.new("one", elements, item, "add", node)


def _softmax_choice(ctx: Context, logits: Tensor) -> tuple[Tensor, Tensor]:
    """softmax in fp32, then the largest: values and indices."""
    return _top(ctx.t, _softmax(ctx.t, logits), _experts(ctx).experts_per_token)


def _softmax(t: Tape, logits: Tensor) -> Tensor:
    rows, width, before = logits.rows, logits.width, logits.item

    def backward(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (to_plain(t, t.new(rows, width, 4, "softmax"), before),)

    probabilities = t.new(rows, width, 4, "softmax")
    probabilities.node = t.node("softmax", (logits,), (probabilities,), backward)
    return probabilities


def _top(t: Tape, x: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    shape = (x.rows, x.width, x.item)
    values, index = t.new(x.rows, chosen, x.item, "topk"), t.new(x.rows, chosen, INT64, "topk")
    values.node = t.node("topk", (x,), (index,), lambda grad, _: (t.new(*shape, "topk_backward"),))
    return values, index


def _sigmoid(t: Tape, logits: Tensor) -> Tensor:
    rows, width, item = logits.rows, logits.width, logits.item
    scores = t.new(rows, width, item, "sigmoid")
    scores.node = t.node("sigmoid", (logits,), (scores,), lambda grad, _: (t.new(rows, width, item, "sigmoid_backward"),))
    return scores


def _gathered(ctx: Context, scores: Tensor) -> tuple[Tensor, Tensor]:
    """A choice without gradients (among groups, with a bias), then the chosen scores."""
    t, chosen = ctx.t, _experts(ctx).experts_per_token
    rows, width, item = scores.rows, scores.width, scores.item
    index = t.new(rows, chosen, INT64, "topk")
    node = t.node("gather", (scores,), (index,), lambda grad, _: (t.new(rows, width, item, "scatter"),))
    return t.new(rows, chosen, item, "gather", node), index


def grouped_experts(ctx: Context, hidden: Tensor, index: Tensor, weights: Tensor, *, act: str = "silu") -> Tensor:
    """grouped_mm_experts_forward; with transformers 4 a loop over modules."""
    t, experts = ctx.t, _experts(ctx)
    if ctx.expert_modules:
        return experts_one_by_one(ctx, hidden, experts.num_experts, experts.experts_per_token, experts.intermediate_size, act=act)
    converted = ctx.on_parameters
    fused, single = bool(converted & {"gate_proj", "w1"}), bool(converted & {"down_proj", "w2"})
    with t.scope("experts"):
        inner = experts.intermediate_size
        if ctx.full:  # the model's parameters in their order; PEFT takes the last first
            expert_parameter(ctx, "mlp.experts.gate_up_proj", hidden.width, 2 * inner, converted=False)
        down, down_held = expert_parameter(ctx, "mlp.experts.down_proj", inner, hidden.width, converted=single)
        gate_up, held = expert_parameter(ctx, "mlp.experts.gate_up_proj", hidden.width, 2 * inner, converted=fused, times=2)
        out = _grouped(ctx, hidden, index, weights, gate_up, down, act)
        del held, down_held
        return out


def _grouped(
    ctx: Context, hidden: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor | Leaf | None, down: Tensor | Leaf | None, act: str
) -> Tensor:
    t, experts = ctx.t, _experts(ctx)
    chosen, inner, item = experts.experts_per_token, experts.intermediate_size, ctx.hidden
    rows, width, before = hidden.rows, hidden.width, hidden.item
    sorted_index, order = t.new(rows, chosen, INT64, "sort"), t.new(rows, chosen, INT64, "sort")
    selected = gather(t, hidden, rows, chosen * width, t.new(rows, chosen, INT64, "floor_divide"))
    sample_weights = gather(t, weights, rows, chosen, order)
    counts = t.new(rows, chosen, INT32, "histc_input")
    elements = experts.num_experts * width * inner
    projected = parameter_product(t, gate_up, selected, chosen * 2 * inner, 2 * elements, item, name="grouped_mm", chosen=chosen)
    projected = _gated(ctx, projected, act)
    projected = parameter_product(t, down, projected, chosen * width, elements, item, name="grouped_mm", chosen=chosen)
    weighted = mul(t, projected, sample_weights)
    restored = t.new(rows, chosen, INT64, "inv_perm")
    weighted = gather(t, weighted, rows, chosen * width, restored)
    total = _sum_chosen(ctx, weighted, width)
    del sorted_index, counts
    return to(t, total, before)


def _gated(ctx: Context, gate_up: Tensor, act: str) -> Tensor:
    half = gate_up.width // 2
    gate, up = split(ctx.t, gate_up, (half, half))
    return mul(ctx.t, activation(ctx, gate, act), up)


def _sum_chosen(ctx: Context, x: Tensor, width: int) -> Tensor:
    """Over the chosen experts; CUDA's autocast sums in fp32."""
    t = ctx.t
    inside = to(t, x, 4) if ctx.autocast and ctx.like_cuda else x
    whole, cast = inside.width, inside is not x

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        """Expanded; it is copied by the cast that follows or, where there is none, to take the flat shape."""
        return (Tensor(grad.storage, grad.rows, whole, grad.item) if cast else t.new(grad.rows, whole, grad.item, "clone"),)

    node = t.node("sum", (inside,), (), apply)
    return t.new(x.rows, width, inside.item, "sum", node)
