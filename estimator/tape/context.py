"""What layer functions are written against: the tape, the dtypes, and linear layers that wear the recipe's adapter.

A layer function asks for `ctx.linear(name, x, out_features)`; the context knows whether that layer is quantised, trained or adapted, and
notes it in its inventory, from which the static terms are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.tape.core import Leaf, Tape, Tensor
from ftadvise.estimator.tape.gather import Gathered
from ftadvise.estimator.tape.int8 import Int8Kernel
from ftadvise.estimator.tape.linear import Int4Kernel, Weight, linear
from ftadvise.profiles.model_spec import ModelSpec

HEAD = "lm_head"

AdapterForward = Callable[["Context", str, Tensor, Weight, int, "Leaf | None"], Tensor]


_SUBCLASSED = frozenset({"falcon"})
"""Their layers are subclasses of nn.Linear, which transformers 5 does not quantise (quantizers replace nn.Linear itself)."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One linear layer as a layer function asked for it. Widths are features; `count` such layers share one call."""

    layer: int
    name: str
    in_features: int
    out_features: int
    bias: bool
    count: int = 1
    quantized: bool = False
    adapted: bool = False

    @property
    def weight_elements(self) -> int:
        """Elements of the weight, without the bias."""
        return self.in_features * self.out_features


@dataclass(frozen=True, slots=True)
class TrainedParameter:
    """A parameter that the optimizer updates: `rows` (a quantity) x `width` elements of `item` bytes.

    `columns`: its last dimension, when `width` is a whole matrix, or a stack of `matrices`.
    """

    layer: int
    name: str
    rows: str
    width: int
    item: int
    columns: int = 0
    matrices: int = 1


@dataclass(slots=True)
class Context:
    """Settings of one build, bytes per element. `hidden`: what the embedding makes; `product`: what products read and make; `parameter`:
    the base model's parameters; `norm`, `head`: the norms' and the output head's weights; `autocast`: 0 when off.

    `kernel`: "flash", "efficient", "math", "eager" or "cpu". `like_cuda`: CUDA's kernels (fused dropout, foreach) instead of the CPU's.
    `prefixes`: keys and values of virtual tokens, two per layer; `cache`: what the model or PEFT keeps until the loss is there.
    `fused`: kernels of the stack that keep less ("norm", "rope", "mlp", "lora").
    """

    t: Tape
    spec: ModelSpec
    recipe: Recipe
    hidden: int
    product: int
    parameter: int
    norm: int
    head: int
    autocast: int
    kernel: str
    masked: bool
    like_cuda: bool
    fused: frozenset[str] = frozenset()
    expert_modules: bool = False
    quantizes_head: bool = False
    int4: Int4Kernel = field(default_factory=Int4Kernel)
    training: bool = True
    single_sequence: bool = False
    unquantizable: bool = False
    """The model's linear layers are of a class that the quantiser passes over."""
    windowed: bool = False
    """The sequence is longer than the model's sliding window."""
    on_parameters: frozenset[str] = frozenset()
    """Names of targets that PEFT looks for among parameters (experts, router) and no longer among linear layers."""
    layer: int = -1
    adapt: AdapterForward | None = None
    prefixes: list[Tensor] = field(default_factory=list)
    cache: list[Tensor] = field(default_factory=list)
    constant_ranks: bool = False
    last_logits: Tensor | None = None
    """Of the step before, where the caller still holds them."""
    returned: list[Tensor] = field(default_factory=list)
    """Attention weights, which layers name until they return, and some return."""
    outputs: list[Tensor] = field(default_factory=list)
    """What the last layer returned of them."""
    gathered: Gathered | None = None
    """Of parameters sharded over several GPUs."""
    linears: dict[tuple[int, str], LinearLayer] = field(default_factory=dict)
    trained: dict[tuple[int, str], TrainedParameter] = field(default_factory=dict)
    leaves: dict[tuple[int, str], Leaf] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Every parameter is trained."""
        return self.recipe.method == "full"

    @property
    def inputs_require_gradient(self) -> bool:
        """Checkpointing needs an input with a gradient: with frozen embeddings their output is made to want one."""
        return self.training and not self.full and self.recipe.gradient_checkpointing

    @property
    def adapter(self) -> int:
        """Bytes of the adapter's parameters."""
        return DTYPE_BYTES[self.recipe.adapter_dtype]

    def leaf(
        self, name: str, width: int, item: int, rows: str = "one", *, layer: int | None = None, columns: int = 0, matrices: int = 1
    ) -> Leaf:
        """Where the gradient of this layer's parameter arrives; noted as trained."""
        key = (self.layer if layer is None else layer, name)
        leaf = self.leaves.get(key)
        if leaf is None:
            leaf = self.leaves[key] = Leaf(held=self.recipe.gradient_accumulation > 1)
            self.trained[key] = TrainedParameter(key[0], name, rows, width, item, columns, matrices)
        return leaf

    def linear(self, name: str, x: Tensor, out_features: int, *, bias: bool = False, count: int = 1, width: int | None = None) -> Tensor:
        """The linear layer `name` of the current layer, with its adapter; `width` where x is wider than the layer's input.

        `count` layers of this shape share one call (the experts of a token, when they are separate modules).
        """
        in_features, adapted = width or x.width, self.adapt is not None and self.targets(name)
        self.note(name, in_features, out_features, bias=bias, count=count, adapted=adapted)
        weight = self.weight(name, in_features, out_features)
        bias_leaf = self.bias(name, out_features) if bias else None
        if self.adapt is not None and adapted:
            return self.adapt(self, name, x, weight, out_features, bias_leaf)
        return linear(self.t, weight, x, (x.rows, out_features), autocast=self.autocast, bias=bias_leaf)

    def weight(self, name: str, in_features: int, out_features: int) -> Weight:
        """The base weight of the linear layer `name` of the current layer."""
        elements = in_features * out_features
        return Weight(
            name,
            elements,
            self.parameter,
            quantization=self.recipe.quantization if self.is_quantized(name) else "none",
            int8=Int8Kernel(expands=self.training and not self.like_cuda, fp16=self.recipe.compute_dtype == "fp16"),
            int4=self.int4,
            leaf=self.leaf(f"{name}.weight", elements, self.parameter, columns=in_features) if self.full and self.training else None,
        )

    def bias(self, name: str, out_features: int) -> Leaf | None:
        """Where the gradient of a bias arrives, when it is trained."""
        return self.leaf(f"{name}.bias", out_features, self.parameter) if self.full and self.training else None

    def note(self, name: str, in_features: int, out_features: int, *, adapted: bool, bias: bool = False, count: int = 1) -> None:
        """Enter a linear layer into the inventory."""
        key = (self.layer, name)
        if key not in self.linears:
            self.linears[key] = LinearLayer(self.layer, name, in_features, out_features, bias, count, self.is_quantized(name), adapted)

    def is_quantized(self, name: str) -> bool:
        """Whether this layer's weight is: every linear layer but those that the recipe keeps, and the head in most stacks."""
        recipe, reached = self.recipe, self.layer >= 0 or (name == HEAD and self.quantizes_head)
        return (
            recipe.quantization != "none" and reached and not self.unquantizable and not self.is_named(name, recipe.high_precision_modules)
        )

    def targets(self, name: str) -> bool:
        """Whether the recipe adapts the layer of this name ("self_attn.q_proj" is named by its last part); the head only by name."""
        if name.rsplit(".", 1)[-1] in self.on_parameters:
            return False
        wanted = self.recipe.target_modules
        return (self.layer >= 0 and wanted == ("all-linear",)) or ((self.layer >= 0 or name == HEAD) and self.is_named(name, wanted))

    @staticmethod
    def is_named(name: str, wanted: tuple[str, ...]) -> bool:
        """By its whole name or its last part, as peft and transformers match."""
        return name in wanted or name.rsplit(".", 1)[-1] in wanted
