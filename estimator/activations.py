"""Activations: what autograd keeps of one decoder layer until its backward pass, tensor by tensor. Bytes.

Rules of PyTorch, transformers 5 and PEFT that the terms follow (c = bytes of the compute dtype, a = bytes of the adapter dtype):

    frozen linear     saves nothing (its weight needs no gradient, so its input is not needed)
    trained linear    saves its input, once for all layers that read the same tensor
    RMSNorm           works in fp32: saves the fp32 input (a copy unless c = 4) and one fp32 scale per token
    LoRA              each adapted layer casts its input to the adapter dtype, drops out, multiplies by A (saved input), by B (saved: r)
    dropout           CUDA: one byte per element (fused kernel); CPU: the scaled noise in the dtype of its input
    rotary positions  save only cos and sin, shared by all layers
    SDPA              flash and memory-efficient kernels save q, k, v, the output and one fp32 log-sum-exp per head and token;
                      the eager path saves the softmax twice (fp32 and cast): heads x seq_len per token
    gated MLP         saves the gate's output (SiLU), SiLU's output and up's output (product)

Compared with a storage meter on real CPU training steps, moment by moment: benchmarks/cpu_memory.py. The CUDA kernels' tensors are read
from PyTorch's sources, not metered here. Soft caps, extra norms and query/key norms are counted as norms.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.estimator.layer_backward import Dtypes, backward_bytes
from ftadvise.estimator.layout import Layout, Linear
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe

NORM_BACKWARD_BYTES = 5 * 4
"""Per element in flight inside a norm's backward, in fp32: the gradient so far, the mean's, and three temporaries of the square's."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The shape of one micro batch. `masked`: sequences of different length, so that attention gets a mask."""

    sequences: int
    seq_len: int
    masked: bool

    @property
    def tokens(self) -> int:
        """Padded tokens."""
        return self.sequences * self.seq_len


def batch_of(recipe: Recipe) -> Batch:
    """The largest micro batch that a recipe may meet."""
    return Batch(recipe.micro_batch, recipe.seq_len, masked=recipe.micro_batch > 1 and not recipe.packing)


@dataclass(frozen=True, slots=True)
class LayerActivations:
    """Bytes for one micro batch and one decoder layer.

    `saved`: kept from forward to backward. `first_layer_discount`: what the first layer does not save when its input needs no
    gradient. `recomputing`: alive besides `saved` and the layers' inputs when a recomputed layer reaches its last saved tensor.
    `backward`: gradients in flight inside the layer's backward besides `saved`, at most. `block_input`: the layer's input, which a
    checkpoint keeps; `input_is_saved`: it is fp32, so that the first norm saves that very tensor.
    """

    saved: int
    first_layer_discount: int
    recomputing: int
    backward: int
    block_input: int
    input_is_saved: bool


def layer_activations(
    layout: Layout, recipe: Recipe, batch: Batch, *, device: str, kernel: str, fp32_hidden_states: bool = False
) -> LayerActivations:
    """The terms of one decoder layer.

    Args:
        kernel: "flash", "efficient", "math", "eager" or "cpu" (see `attention_kernel`).
        fp32_hidden_states: norms and embeddings were cast to fp32 (`prepare_model_for_kbit_training`).
    """
    dtypes = _dtypes(recipe, device, fp32_hidden_states=fp32_hidden_states)
    c, tokens, h = dtypes.compute, batch.tokens, layout.spec.hidden_size
    full = recipe.method == "full"
    adapted = layout.adapted(recipe)
    norm = _norm_bytes(layout, c, trained=full) * h + 4
    qk_norm = 0
    if layout.has_qk_norm:  # one scale per head
        qk_heads = layout.spec.num_attention_heads + layout.spec.num_kv_heads
        qk_norm = _norm_bytes(layout, c, trained=full) * (layout.query_width + layout.kv_width) + 4 * qk_heads
    groups = {group: [x for x in layout.linears if x.group == group] for group in ("qkv", "o", "mlp", "down")}
    inputs = {
        group: sum(_group_inputs(linears, [x for x in adapted if x.group == group], recipe, dtypes)) for group, linears in groups.items()
    }
    attention = _attention_bytes(layout, batch, kernel, dtypes.product)
    inner = layout_inner_width(layout)
    gated = layout.spec.mlp == "gated"
    mlp = (3 if gated else 1) * c * inner
    out_saved = dtypes.product * layout.query_width if full or dtypes.adapters_share_input(recipe.dropout) else 0
    if kernel in ("flash", "efficient", "cpu") and out_saved:
        inputs["o"] -= out_saved if inputs["o"] >= out_saved else 0  # the kernel saved its output already

    # a boolean mask becomes an additive one of the compute dtype in each layer, and the kernel saves it
    mask = batch.sequences * batch.seq_len**2 * dtypes.product if batch.masked and kernel in ("efficient", "cpu", "math") else 0
    saved = tokens * (norm * layout.norms_per_layer + qk_norm + sum(inputs.values()) + attention + mlp) + mask
    discount = 0
    if not full:
        # nothing before the first adapter has a gradient in the first layer: no saved tensors, and no noise where that adapter drops out
        before = {"qkv": 0, "o": qk_norm + attention, "mlp": qk_norm + attention + norm * (layout.norms_per_layer - 1)}
        before["down"] = before["mlp"] + mlp
        first = next((group for group in groups if any(x.group == group for x in adapted)), "qkv")
        noise = dtypes.noise * sum(x.in_features for x in adapted if x.group == first) if recipe.dropout else 0
        discount = tokens * (norm + noise + before[first]) + (0 if first == "qkv" else mask)

    recomputing = tokens * _recomputing_per_token(layout, recipe, dtypes)
    in_backward = backward_bytes(layout, recipe, dtypes, tokens=tokens, inner_width=inner)
    return LayerActivations(saved, discount, recomputing, in_backward, tokens * c * h, c == 4)


def _recomputing_per_token(layout: Layout, recipe: Recipe, dtypes: Dtypes) -> int:
    """Bytes per token alive besides saved tensors when a recomputed layer saves its last one, where recomputation stops.

    The last is what `down` saves for its gradient (its adapter's, its own input, or its weight), or the product's factors when `down` is
    quantised and has no adapter. Alive then: the locals of the layer and the MLP (the residual stream, the normed hidden state, the
    product, the adapter's cast input), and the gradients that had come before the first saved tensor was asked for.
    """
    c, a, h, inner = dtypes.compute, dtypes.adapter, layout.spec.hidden_size, layout_inner_width(layout)
    full, shared = recipe.method == "full", dtypes.adapters_share_input(recipe.dropout)
    adapted = {linear.group for linear in layout.adapted(recipe)}
    residual = 0 if c == 4 else c * h  # in fp32 the norm has saved it
    normed = 0 if full or (shared and "mlp" in adapted) else c * h
    gradient = c * h
    if "down" in adapted:
        product = 0 if shared else c * inner
        copies = a * inner if a != c else 0
        if recipe.dropout and dtypes.adapter_input != a:
            copies += a * inner  # dropped out in the adapter dtype, then cast for A
        return residual + normed + gradient + product + copies + c * h + dtypes.adapter_input * h  # down's output, the scaled gradient
    if full:
        return residual + normed + gradient
    product = c * inner  # the product itself, or its gradient when the quantised weight saved nothing
    return residual + normed + gradient + product


def layout_inner_width(layout: Layout) -> int:
    """Width of the MLP's inner product (elements per token); experts: the width that one token's experts have together."""
    experts = layout.spec.experts
    dense = next((x.in_features for x in layout.linears if x.group == "down"), 0)
    return dense + (experts.experts_per_token * experts.intermediate_size if experts else 0)


def dequantisation_bytes(layout: Layout, recipe: Recipe) -> int:
    """A quantised weight is expanded to the compute dtype for each product: the largest one, once."""
    if recipe.quantization in ("none", "int8"):
        return 0
    largest = max((linear.weight_elements for linear in layout.linears), default=0)
    return largest * DTYPE_BYTES[recipe.compute_dtype]


def attention_kernel(layout: Layout, recipe: Recipe, batch: Batch, *, device: str, compute_capability: tuple[int, int] | None) -> str:
    """Which attention kernel PyTorch will choose: "flash", "efficient", "math", "eager" or "cpu".

    Source: transformers 5.23 integrations/sdpa_attention.py (grouped heads go to the kernel only without a mask), PyTorch's
    sdp_utils: flash needs fp16/bf16 from compute capability 8.0, no mask, head width <= 256; the memory-efficient kernel takes fp32
    and masks but no grouped heads.
    """
    if recipe.attention == "eager":
        return "eager"
    if recipe.attention == "flash_attention_2":
        return "flash"
    if device == "cpu":
        return "cpu"
    half = recipe.compute_dtype != "fp32"
    modern = compute_capability is None or compute_capability >= (8, 0)
    if half and modern and not batch.masked and layout.spec.head_dim <= 256:
        return "flash"
    grouped_heads_in_kernel = layout.kv_width != layout.query_width and not batch.masked
    return "math" if grouped_heads_in_kernel else "efficient"


def _dtypes(recipe: Recipe, device: str, *, fp32_hidden_states: bool) -> Dtypes:
    product = DTYPE_BYTES[recipe.compute_dtype]
    return Dtypes(
        compute=4 if fp32_hidden_states else product,
        product=product,
        adapter=DTYPE_BYTES[recipe.adapter_dtype],
        autocast=recipe.compute_dtype != "fp32",
        noise_is_mask=device == "cuda",
    )


def _group_inputs(linears: list[Linear], adapted: list[Linear], recipe: Recipe, dtypes: Dtypes) -> list[int]:
    """Bytes per token that the linear layers of one group save: their shared input, or one per adapter, and A's outputs."""
    if not linears:
        return [0]
    width = linears[0].in_features
    if recipe.method == "full":
        return [dtypes.compute * width]
    if not adapted:
        return [0]
    a_outputs = len(adapted) * recipe.rank * dtypes.adapter_input
    if recipe.method == "ia3":
        return [dtypes.compute * sum(x.in_features if x.group == "down" else x.out_features for x in adapted)]
    if recipe.method in ("prefix", "prompt", "adapter"):
        return [0]
    if recipe.dropout:
        return [len(adapted) * width * (dtypes.noise + dtypes.adapter_input), a_outputs]
    if dtypes.adapters_share_input(recipe.dropout):
        return [width * dtypes.compute, a_outputs]
    return [len(adapted) * width * dtypes.adapter_input, a_outputs]


def _norm_bytes(layout: Layout, compute: int, *, trained: bool) -> int:
    """Bytes per element that a norm keeps: its fp32 input, and when its weight is trained the normed tensor too."""
    return 4 + (compute if trained and layout.spec.norm == "rmsnorm" else 0)


def _attention_bytes(layout: Layout, batch: Batch, kernel: str, c: int) -> int:
    """Bytes per token that attention keeps: q, k, v, output, and what the kernel adds."""
    heads, q, kv = layout.spec.num_attention_heads, layout.query_width, layout.kv_width
    repeated = kernel == "eager" or (batch.masked and kernel != "flash")
    keys_values = 2 * (q if repeated else kv)
    kept = c * (2 * q + keys_values)
    if kernel == "eager":
        return c * (q + keys_values) + (4 + c) * heads * batch.seq_len
    if kernel == "math":
        return kept + 2 * c * heads * batch.seq_len
    return kept + 4 * heads
