"""The backward pass of one decoder layer, operation by operation: the most bytes alive at once, besides the layer's saved tensors.

Autograd runs operations in the reverse order of their forward, later ones first. Each takes memory for the gradients it makes, then lets
go of its own saved tensors and of the gradient it was given. `_Walk` does this arithmetic through the MLP, where a layer is largest:

    down -> product -> up -> SiLU -> gate          (gated)
    down -> GELU -> up                             (plain)

c = bytes of the compute dtype, a = of the adapter dtype. A frozen linear makes the gradient of its input, for which a quantised one expands
its weight; a trained one makes its weight's gradient too. An adapter casts and scales the output's gradient, goes back through B and A,
through dropout in the adapter dtype, and casts. Gradients of one tensor are added in place.

Ignored: what follows the MLP (its saved tensors are gone by then), so the eager attention's score gradients at long sequences, and
tensors of one value per token.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.estimator.layout import Layout, Linear
from ftadvise.estimator.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Dtypes:
    """Bytes per element. `compute`: the hidden states between products; `product`: what the matrix products read and make.

    The two differ after `prepare_model_for_kbit_training`: norms in fp32 make fp32 hidden states, and a quantised layer answers in the
    dtype it was asked in. `noise_is_mask`: dropout is one fused kernel, which keeps a mask (CUDA).
    """

    compute: int
    product: int
    adapter: int
    autocast: bool
    noise_is_mask: bool

    @property
    def noise(self) -> int:
        """What dropout keeps: a mask, or the scaled noise in the dtype of its input."""
        return 1 if self.noise_is_mask else self.adapter

    @property
    def adapter_input(self) -> int:
        """The tensors that A's and B's products read and make: autocast casts to its own dtype."""
        return self.product if self.autocast else self.adapter

    def adapters_share_input(self, dropout: float) -> bool:
        """Without dropout and with equal dtypes all adapters of a group save the very tensor they read."""
        return dropout == 0 and self.adapter == self.compute == self.adapter_input


class _Walk:
    """Bytes alive relative to the start, and the most there ever were."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def take(self, size_bytes: int) -> int:
        self.alive += size_bytes
        self.most = max(self.most, self.alive)
        return size_bytes

    def free(self, *sizes_bytes: int) -> None:
        self.alive -= sum(sizes_bytes)


def backward_bytes(layout: Layout, recipe: Recipe, dtypes: Dtypes, *, tokens: int, inner_width: int) -> int:
    """The most bytes alive in the backward pass of one layer besides its saved tensors, its own weights' gradients included.

    `inner_width` is the width of the MLP's product, which for experts is larger than any single layer's.
    """
    walk = _Walk()
    adapted = layout.adapted(recipe) if recipe.method in ("lora", "dora", "adalora") else ()
    inner = tokens * inner_width * dtypes.compute
    inputs = [linear for linear in layout.linears if linear.group == "mlp"]

    def back(linear: Linear) -> int:
        return _linear(walk, linear, recipe, dtypes, tokens, adapted=linear in adapted)

    walk.take(tokens * layout.spec.hidden_size * dtypes.compute)  # the residual stream's gradient, which stays
    walk.take(max(0, inner - sum(back(linear) for linear in layout.linears if linear.group == "down")))
    second_branch = 0
    if layout.spec.mlp == "gated":
        walk.take(2 * inner)  # gradients of SiLU's output and of up's output
        walk.free(inner, 2 * inner)  # the gradient of the product, and its two saved factors
        second_branch = inner
        for up in inputs[1:]:
            back(up)
            walk.free(second_branch)
            second_branch = 0
    walk.take(inner)
    walk.free(inner, inner)  # SiLU or GELU: the gradient it was given, and its saved input
    walk.take(second_branch)  # a fused gate and up wants both gradients as one tensor
    for linear in inputs[:1]:
        back(linear)
    return walk.most


def _linear(walk: _Walk, linear: Linear, recipe: Recipe, dtypes: Dtypes, tokens: int, *, adapted: bool) -> int:
    """Back through one linear layer; returns the bytes of its input's gradient, which stay alive, as does the output's gradient."""
    c, a, inside = dtypes.compute, dtypes.adapter, dtypes.adapter_input
    wide, narrow, low_rank = tokens * linear.in_features, tokens * linear.out_features, tokens * recipe.rank
    if adapted:
        cast = walk.take(narrow * inside) if inside != c else 0
        walk.take(narrow * inside)
        walk.free(cast)
        walk.take(low_rank * inside)
        _weight_gradient(walk, linear.out_features * recipe.rank * a, recipe)
        walk.free(narrow * inside, low_rank * inside)  # B's output gradient and saved input
        walk.take(wide * inside)
        _weight_gradient(walk, linear.in_features * recipe.rank * a, recipe)
        walk.free(low_rank * inside)
        if not dtypes.adapters_share_input(recipe.dropout) or linear.group == "down":
            walk.free(wide * inside)  # A's saved input, when no other adapter has saved the same tensor
        if inside != a:
            walk.take(wide * a)
            walk.free(wide * inside)
        if recipe.dropout:
            walk.take(wide * a)
            walk.free(wide * a, wide * dtypes.noise)
        if a != c:
            walk.take(wide * c)
            walk.free(wide * a)
    expanded = 0
    if recipe.quantization in ("nf4", "fp4"):
        expanded = walk.take(linear.weight_elements * (dtypes.product + (c if c != dtypes.product else 0)))
    walk.take(wide * c)
    walk.free(expanded)
    if recipe.method == "full":
        _weight_gradient(walk, linear.weight_elements * c, recipe)
        if linear.group == "down":
            walk.free(wide * c)
    if adapted:
        walk.free(wide * c)
    return wide * c


def _weight_gradient(walk: _Walk, size_bytes: int, recipe: Recipe) -> None:
    """A weight's gradient stays; from the second micro batch on it is added to the one that is there."""
    walk.take(size_bytes)
    if recipe.gradient_accumulation > 1:
        walk.free(size_bytes)
