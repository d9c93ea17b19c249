"""Memory of one recipe: the moments at which training can peak, and the largest of them.

A training step is a fixed sequence of moments. At each, what is alive is known:

    load       weights, and while a quantised model is loaded the largest tensor in full precision
    forward    static + saved activations + the loss, forward
    backward   the largest of
                 the loss:      static + saved activations + the loss, backward
                 a layer:       static + saved activations + gradients in flight; with checkpointing, the layers' inputs, one layer
                                recomputed in full, and gradients in flight
    optimizer  static + gradients + the update's temporaries
    evaluation static + the activations in flight of one layer + the loss, forward (no graph is kept)

"Static" is weights, constants, adapters and the optimizer state, which exists from the second step on. Gradients are held through forward
and backward when they are accumulated over several micro batches; otherwise they grow while the backward pass consumes activations.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ftadvise.estimator.activations import (
    Batch,
    LayerActivations,
    attention_kernel,
    batch_of,
    dequantisation_bytes,
    layer_activations,
    layout_inner_width,
)
from ftadvise.estimator.device_memory import DeviceMemory, device_memory
from ftadvise.estimator.estimate_types import Components, MemoryEstimate, Phase, Stack
from ftadvise.estimator.layout import Layout, layout_of
from ftadvise.estimator.loss_memory import LossMemory, loss_memory
from ftadvise.estimator.optimizer_step import optimizer_temporary_bytes
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.static_memory import StaticMemory, static_memory
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class _Moment:
    phase: Phase
    components: Components


def estimate_memory(
    model: ModelSpec, hardware: Hardware, recipe: Recipe, stack: Stack, *, batch: Batch | None = None
) -> tuple[MemoryEstimate, StaticMemory]:
    """Peak memory of training `model` with `recipe` on the first GPU of `hardware`, or on its CPU.

    Args:
        batch: the micro batch that really occurred, to compare with a measurement; by default the largest the recipe allows.

    Returns:
        The estimate in bytes, and the static terms it was built from.
    """
    gpu = hardware.gpu
    device = "cuda" if gpu else "cpu"
    layout = layout_of(model)
    batch = batch or batch_of(recipe)
    static = static_memory(layout, recipe, device=device, upcasts_kbit=stack.upcasts_kbit)
    kernel = attention_kernel(layout, recipe, batch, device=device, compute_capability=gpu.compute_capability if gpu else None)
    layer = layer_activations(layout, recipe, batch, device=device, kernel=kernel)
    loss = loss_memory(layout, recipe, batch.sequences, batch.seq_len, device=device)
    moments = _moments(layout, recipe, batch, static, layer, loss, device)
    phases: dict[Phase, int] = {}
    for moment in moments:
        phases[moment.phase] = max(phases.get(moment.phase, 0), moment.components.allocated_bytes)
    peak = max(moments, key=lambda moment: moment.components.allocated_bytes)
    outer: DeviceMemory = device_memory(layout, hardware, stack, peak.components)
    components = dataclasses.replace(peak.components, context=outer.context_bytes)
    estimate = MemoryEstimate(
        peak_allocated_bytes=peak.components.allocated_bytes,
        peak_reserved_bytes=outer.reserved_bytes,
        device_used_bytes=outer.used_bytes,
        low_bytes=outer.low_bytes,
        high_bytes=outer.high_bytes,
        available_bytes=outer.available_bytes,
        verdict=outer.verdict,
        peak_phase=peak.phase,
        phases=phases,
        components=components,
        notes=outer.notes,
    )
    return estimate, static


def _moments(
    layout: Layout, recipe: Recipe, batch: Batch, static: StaticMemory, layer: LayerActivations, loss: LossMemory, device: str
) -> list[_Moment]:
    spec, c = layout.spec, DTYPE_BYTES[recipe.compute_dtype]
    layers = spec.num_layers
    hidden = batch.tokens * spec.hidden_size * c
    base = Components(
        weights=static.weights,
        quantization_constants=static.quantization_constants,
        adapters=static.adapters,
        optimizer_state=static.optimizer_state,
        gradients=static.gradients if recipe.gradient_accumulation > 1 else 0,
        workspace=_autocast_copies(recipe, static) + _inputs(layout, batch, c),
    )

    def moment(phase: Phase, **changes: int) -> _Moment:
        return _Moment(phase, dataclasses.replace(base, **changes))

    final_norm = batch.tokens * (spec.hidden_size * 4 + 4)
    if recipe.gradient_checkpointing:
        saved = layers * layer.block_input + (final_norm if c == 4 else final_norm + hidden)
        in_layer = layers * layer.block_input + layer.saved + max(layer.recompute_extra, layer.backward_extra)
        in_layer += hidden - (layer.block_input if c == 4 else 0)
    else:
        saved = layers * layer.saved - layer.first_layer_discount + final_norm
        in_layer = saved + max(layer.backward_extra, 3 * batch.tokens * spec.hidden_size * 4)
    one_layer_forward = batch.tokens * c * (3 * layout_inner_width(layout) + 4 * spec.hidden_size) + dequantisation_bytes(layout, recipe)
    # a layer's gradients exist before the next layer's backward runs: with checkpointing all but the first layer's at the end
    grown = static.gradients if recipe.gradient_checkpointing else 0
    end_of_backward = in_layer - (layers - 1) * layer.block_input if recipe.gradient_checkpointing else 0
    moments = [
        moment("load", optimizer_state=0, gradients=0, adapters=0, workspace=_load_extra(layout, recipe)),
        moment("forward", activations=saved + hidden, loss=loss.forward),
        moment("backward", activations=saved, loss=loss.backward),
        moment("backward", activations=in_layer),
        moment("backward", activations=end_of_backward, gradients=static.gradients if grown else base.gradients),
        moment(
            "optimizer_step",
            gradients=static.gradients,
            workspace=base.workspace + optimizer_temporary_bytes(layout, recipe, static, device=device),
        ),
        moment("evaluation", activations=one_layer_forward + hidden, loss=loss.forward, gradients=0),
    ]
    return moments


def _autocast_copies(recipe: Recipe, static: StaticMemory) -> int:
    """Under autocast each fp32 adapter weight is cast once per forward pass and the copy is kept until the pass ends."""
    if recipe.compute_dtype == "fp32" or recipe.method == "full" or recipe.adapter_dtype == recipe.compute_dtype:
        return 0
    return static.trainable_parameters * DTYPE_BYTES[recipe.compute_dtype]


def _inputs(layout: Layout, batch: Batch, c: int) -> int:
    """Token ids, labels and mask (int64), cos and sin of the rotary positions, and a boolean attention mask when there is one."""
    rotary = 2 * batch.seq_len * layout.spec.head_dim * c if layout.spec.position == "rope" else 0
    mask = batch.sequences * batch.seq_len**2 if batch.masked else 0
    return 3 * 8 * batch.tokens + rotary + mask


def _load_extra(layout: Layout, recipe: Recipe) -> int:
    """While loading, a tensor exists in the checkpoint's dtype before it is quantised: the largest one."""
    if recipe.quantization == "none":
        return 0
    return 2 * max((linear.weight_elements for linear in layout.linears), default=0)
