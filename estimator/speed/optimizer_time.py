"""Time of an optimizer step: bytes that pass through memory per trained element. Arithmetic hides behind them.

Passes over tensors of an element, p parameter, g gradient, s one state (fp32 for Adafactor and bitsandbytes' 32-bit optimizers, one byte
for 8-bit ones, else as the parameter):

    adamw_torch         foreach, one kernel per statement: decay p 2, lerp_ of the first moment 3 (g once), mul_ and addcmul_ of the second
                        4 (g once), sqrt 2, div_ 2, add_ 2, addcdiv_ 4: 19 passes, of p 4, g 2, s 6 and of temporaries 7 (as wide as p)
    adamw_torch_fused   one kernel: reads p, g and both states, writes p and the states: p 2, g 1, s 4
    8-bit, paged, lion  one kernel of bitsandbytes, the same with its own states (Lion has one)
    adafactor           tensor by tensor in fp32: square, two means, their product, clipping, update: about 14 passes of 4 bytes, p 2, g 1
    sgd                 p 2, g 1

Clipping reads each gradient for its norm and scales it in place: g 3. Source: torch 2.13 optim/adam.py, nn/utils/clip_grad.py;
bitsandbytes 0.50 csrc/kernels.cu (kOptimizerStatic...); transformers 5.23 optimization.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.rates import Rates

_CLIP_PASSES = 3


@dataclass(frozen=True, slots=True)
class _Passes:
    """How often each kind of tensor passes through memory. `state_bytes`: of one state's element; 0: as the parameter."""

    parameter: int = 2
    gradient: int = 1
    state: int = 0
    state_bytes: int = 0
    temporary_bytes: int = 0
    of_temporaries: int = 0
    """Passes of temporaries as wide as the parameter."""


_PASSES = {
    "adamw_torch": _Passes(parameter=4, gradient=2, state=6, of_temporaries=7),
    "adamw_torch_fused": _Passes(state=4),
    "adamw_8bit": _Passes(state=4, state_bytes=1),
    "paged_adamw_32bit": _Passes(state=4, state_bytes=4),
    "paged_adamw_8bit": _Passes(state=4, state_bytes=1),
    "adafactor": _Passes(temporary_bytes=56),
    "sgd": _Passes(),
    "lion_32bit": _Passes(state=2, state_bytes=4),
    "lion_8bit": _Passes(state=2, state_bytes=1),
}


def optimizer_bytes(recipe: Recipe, elements: int, item: int) -> int:
    """Bytes that pass through memory to update so many parameters of `item` bytes."""
    passes = _PASSES[recipe.optimizer]
    each = passes.parameter * item + passes.gradient * item + passes.state * (passes.state_bytes or item)
    each += passes.temporary_bytes + passes.of_temporaries * item
    if recipe.max_grad_norm > 0:
        each += _CLIP_PASSES * item
    return elements * each


def optimizer_seconds(recipe: Recipe, trained: dict[int, int], tensors: int, rates: Rates) -> tuple[float, float]:
    """(on the device, of the host) for one step; `trained` is elements by bytes per element.

    The host looks at each of the `tensors` once: its state and its gradient.
    """
    moved = sum(optimizer_bytes(recipe, elements, item) for item, elements in trained.items())
    return moved / rates.bandwidth_bytes_per_s, tensors * rates.host_s["forward"]
