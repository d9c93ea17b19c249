"""Temporaries of the optimizer step. Bytes, beside parameters, gradients and state."""

from __future__ import annotations

from ftadvise.estimator.layout import Layout
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.static_memory import StaticMemory


def optimizer_temporary_bytes(layout: Layout, recipe: Recipe, static: StaticMemory, *, device: str) -> int:
    """What the update allocates and frees.

    On CUDA AdamW updates all tensors of one dtype together (foreach): one temporary as large as all trained parameters. On the CPU it
    goes tensor by tensor: the square root of the second moment and its quotient, while the quotient of the tensor before is still
    referenced.
    Gradient clipping keeps one scalar per tensor (ignored). The fused AdamW needs none. 8-bit optimizers work in place.
    Source: torch/optim/adamw.py (_multi_tensor_adam, _single_tensor_adam).
    """
    if recipe.optimizer not in ("adamw_torch", "adafactor"):
        return 0
    element_bytes = DTYPE_BYTES[recipe.compute_dtype if recipe.method == "full" else recipe.adapter_dtype]
    if device == "cuda" and recipe.optimizer == "adamw_torch":
        return static.trainable_parameters * element_bytes
    sizes = _trained_tensors(layout, recipe)
    return element_bytes * max((2 * size + before for before, size in zip([0, *sizes], sizes, strict=False)), default=0)


def _trained_tensors(layout: Layout, recipe: Recipe) -> list[int]:
    """Elements of the large trained tensors in the order of the update: the embedding, two layers (they repeat), the head."""
    if recipe.method == "full":
        layer = [linear.weight_elements for linear in layout.linears]
        return [layout.embedding_parameters, *layer, *layer, layout.head_parameters]
    layer = [recipe.rank * width for linear in layout.adapted(recipe) for width in (linear.in_features, linear.out_features)]
    return [*layer, *layer]
