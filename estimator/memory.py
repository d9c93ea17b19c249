"""Memory of one recipe: the moments at which training can peak, and the largest of them.

A training step is a fixed sequence of moments. At each, what is alive is known:

    load       weights, and while a quantised model is loaded the largest tensor in full precision
    forward    static + saved activations + the loss, forward
    backward   the largest of
                 the loss:      static + saved activations + the loss, backward
                 the last norm: static + saved activations + its gradients in fp32
                 a layer:       static + what is saved still + the layer's gradients in flight (layer_backward.py); with checkpointing,
                                the layers' inputs and one layer recomputed; for the model's last layer, which comes first and has most
                                activations, and for its first layer, which has most gradients
                 the embedding: static + all gradients, and a second one for a tied or accumulated embedding
    optimizer  static + gradients + the update's temporaries
    evaluation static + the activations in flight of one layer + the loss, forward (no graph is kept)

"Static" is weights, constants, adapters and the optimizer state, which exists from the second step on. Gradients are held through forward
and backward when they are accumulated over several micro batches; otherwise they grow while the backward pass consumes activations.
"""

from __future__ import annotations

import dataclasses

from ftadvise.estimator.activations import (
    NORM_BACKWARD_BYTES,
    Batch,
    LayerActivations,
    attention_kernel,
    batch_of,
    dequantisation_bytes,
    layer_activations,
    layout_inner_width,
)
from ftadvise.estimator.device_memory import DeviceMemory, device_memory, matmul_workspace_bytes
from ftadvise.estimator.estimate_types import Components, MemoryEstimate, Phase, Stack
from ftadvise.estimator.layout import Layout, layout_of
from ftadvise.estimator.loss_memory import LossMemory, loss_memory
from ftadvise.estimator.optimizer_step import optimizer_temporary_bytes
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.static_memory import StaticMemory, static_memory
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

Moment = tuple[Phase, dict[str, int]]
"""A phase and the bytes of each component that is alive at one moment of it (context excluded)."""


def estimate_memory(
    model: ModelSpec, hardware: Hardware, recipe: Recipe, stack: Stack, *, batch: Batch | None = None
) -> tuple[MemoryEstimate, StaticMemory]:
    """Peak memory of training `model` with `recipe` on the first GPU of `hardware`, or on its CPU.

    Args:
        batch: the micro batch that really occurred, to compare with a measurement; by default the largest the recipe allows.

    Returns:
        The estimate in bytes, and the static terms it was built from.
    """
    layout = layout_of(model)
    static = static_memory(layout, recipe, device=_device(hardware), upcasts_kbit=stack.upcasts_kbit)
    moments = step_moments(model, hardware, recipe, stack, batch=batch)
    phases: dict[Phase, int] = {}
    for phase, alive in moments:
        phases[phase] = max(phases.get(phase, 0), sum(alive.values()))
    peak_phase, alive = max(moments, key=lambda moment: sum(moment[1].values()))
    peak = Components(**alive)
    outer: DeviceMemory = device_memory(layout, hardware, peak)
    components = dataclasses.replace(peak, context=outer.context_bytes)
    estimate = MemoryEstimate(
        peak_allocated_bytes=peak.allocated_bytes,
        peak_reserved_bytes=outer.reserved_bytes,
        device_used_bytes=outer.used_bytes,
        low_bytes=outer.low_bytes,
        high_bytes=outer.high_bytes,
        available_bytes=outer.available_bytes,
        verdict=outer.verdict,
        peak_phase=peak_phase,
        phases=phases,
        components=components,
        notes=outer.notes,
    )
    return estimate, static


def step_moments(model: ModelSpec, hardware: Hardware, recipe: Recipe, stack: Stack, *, batch: Batch | None = None) -> list[Moment]:
    """Every moment at which training can peak, in the order of a step; arguments as for `estimate_memory`."""
    gpu, device = hardware.gpu, _device(hardware)
    layout = layout_of(model)
    batch = batch or batch_of(recipe)
    static = static_memory(layout, recipe, device=device, upcasts_kbit=stack.upcasts_kbit)
    kernel = attention_kernel(layout, recipe, batch, device=device, compute_capability=gpu.compute_capability if gpu else None)
    upcast = stack.upcasts_kbit and recipe.quantization != "none"
    layer = layer_activations(layout, recipe, batch, device=device, kernel=kernel, fp32_hidden_states=upcast)
    loss = loss_memory(layout, recipe, batch.sequences, batch.seq_len, device=device, fp32_head=upcast, keeps_logits=stack.keeps_logits)
    matmul = matmul_workspace_bytes(gpu)
    return _moments(layout, recipe, batch, static, layer, loss, device, matmul)


def _device(hardware: Hardware) -> str:
    return "cuda" if hardware.gpu else "cpu"


def _moments(
    layout: Layout, recipe: Recipe, batch: Batch, static: StaticMemory, layer: LayerActivations, loss: LossMemory, device: str, matmul: int
) -> list[Moment]:
    spec, c = layout.spec, DTYPE_BYTES[recipe.compute_dtype]
    layers, checkpointing = spec.num_layers, recipe.gradient_checkpointing
    hidden = layer.block_input
    full = recipe.method == "full"
    inputs = matmul + _inputs(layout, recipe, batch, c)
    copies = _autocast_copies(recipe, static)
    base = {
        "weights": static.weights,
        "quantization_constants": static.quantization_constants,
        "adapters": static.adapters,
        "optimizer_state": static.optimizer_state,
        "gradients": static.gradients if recipe.gradient_accumulation > 1 else 0,
        "workspace": inputs,
    }
    final_norm = batch.tokens * (spec.hidden_size * (4 + (c if full else 0)) + 4)
    if checkpointing:
        # in fp32 a layer's first norm saves the layer's very input: the tensor that its checkpoint keeps
        recomputed = layer.saved - (layer.block_input if layer.input_is_saved else 0)
        kept = layers * layer.block_input
        first_layer, last_layer = kept + recomputed, layer.block_input + recomputed
        in_flight = max(layer.recomputing, layer.backward)
    else:
        kept = layers * layer.saved - layer.first_layer_discount
        first_layer, last_layer = kept, layer.saved - layer.first_layer_discount
        in_flight = layer.backward
    copies_of_layer = copies // layers
    copies_in_backward = copies_of_layer if checkpointing else copies
    head, trunk, second_embedding = _gradients_by_origin(layout, recipe, static)
    gradients_early, gradients_late = base["gradients"] or head, base["gradients"] or head + trunk * (layers - 1) // layers
    one_layer_forward = batch.tokens * c * (3 * layout_inner_width(layout) + 4 * spec.hidden_size) + dequantisation_bytes(layout, recipe)
    update = optimizer_temporary_bytes(layout, recipe, static, device=device)

    def backward(activations: int, gradients: int, copies: int) -> Moment:
        return "backward", base | {"activations": activations, "gradients": gradients, "workspace": inputs + copies}

    return [
        ("load", base | {"optimizer_state": 0, "gradients": 0, "adapters": 0, "workspace": _load_extra(layout, recipe)}),
        ("forward", base | {"activations": kept + final_norm + hidden, "loss": loss.forward, "workspace": inputs + copies}),
        (
            "backward",
            base | {"activations": kept + final_norm, "loss": loss.backward, "workspace": inputs + (0 if checkpointing else copies)},
        ),
        backward(
            kept + final_norm + batch.tokens * spec.hidden_size * NORM_BACKWARD_BYTES, gradients_early, 0 if checkpointing else copies
        ),
        backward(first_layer + in_flight, gradients_early, copies_in_backward),
        # the layer that runs last in backward is the model's first: by then the other layers' gradients exist
        backward(last_layer + in_flight, gradients_late, copies_of_layer),
        backward(hidden, static.gradients, second_embedding),
        ("optimizer_step", base | {"gradients": static.gradients, "workspace": matmul + 3 * 8 * batch.tokens + update}),
        ("evaluation", base | {"activations": one_layer_forward + hidden, "loss": loss.forward, "gradients": 0}),
    ]


def _gradients_by_origin(layout: Layout, recipe: Recipe, static: StaticMemory) -> tuple[int, int, int]:
    """Bytes of gradients: the head's, which comes first; all layers'; and, at the end, a second one for the embedding.

    A tied head and embedding have one gradient each until they are added; accumulated gradients have a new one beside them.
    """
    if recipe.method != "full":
        return 0, static.gradients, 0
    head = embedding = layout.embedding_parameters * DTYPE_BYTES[recipe.compute_dtype]
    tied = layout.spec.tie_word_embeddings
    trunk = static.gradients - head - (0 if tied else embedding)
    return head, trunk, embedding * (int(tied) + int(recipe.gradient_accumulation > 1))


def _autocast_copies(recipe: Recipe, static: StaticMemory) -> int:
    """Autocast casts each adapter weight of another dtype once per forward pass.

    The copy lives until the pass ends, and with its layer's saved tensors until backward.
    """
    if recipe.compute_dtype == "fp32" or recipe.method == "full" or recipe.adapter_dtype == recipe.compute_dtype:
        return 0
    return static.trainable_parameters * DTYPE_BYTES[recipe.compute_dtype]


def _inputs(layout: Layout, recipe: Recipe, batch: Batch, c: int) -> int:
    """Token ids, labels and mask (int64), cos and sin of the rotary positions, and the boolean attention mask that checkpoints keep."""
    rotary = 2 * batch.seq_len * layout.spec.head_dim * c if layout.spec.position == "rope" else 0
    mask = batch.sequences * batch.seq_len**2 if batch.masked and recipe.gradient_checkpointing else 0
    return 3 * 8 * batch.tokens + rotary + mask


def _load_extra(layout: Layout, recipe: Recipe) -> int:
    """While loading, a tensor exists in the checkpoint's dtype before it is quantised: the largest one."""
    if recipe.quantization == "none":
        return 0
    return 2 * max((linear.weight_elements for linear in layout.linears), default=0)
