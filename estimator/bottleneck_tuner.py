"""Bottleneck adapters as a PEFT method: y + up(relu(down(y))) behind the last projection of every attention and MLP block.

Source: Houlsby et al. 2019, arXiv 1902.00751, figure 2. PEFT has none of its own, so it is told of this one: saved and loaded in PEFT's
format (adapter_config.json, adapter_model.safetensors), in every process that calls `register`. Imports peft: import late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, mapping
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

PEFT_TYPE = "BOTTLENECK"
_PREFIX = "bottleneck_"


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]
    """`rank` is the width of the bottleneck. `target_modules`: names, or a pattern, of the linear layers that adapters stand behind."""

    target_modules: set[str] | list[str] | str | None = None
    rank: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A linear layer, quantised or not, with the adapter behind it; the identity at first, as `up` begins with zeros."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self._active_adapter = adapter_name
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Make the two projections of one adapter."""
        base = self.get_base_layer()
        width = base.out_features if hasattr(base, "out_features") else base.nf  # transformers' Conv1D
        self.bottleneck_down[adapter_name] = nn.Linear(width, config.rank)
        self.bottleneck_up[adapter_name] = nn.Linear(config.rank, width)
        nn.init.zeros_(self.bottleneck_up[adapter_name].weight)
        nn.init.zeros_(self.bottleneck_up[adapter_name].bias)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Always refused: what is not linear has no place in the weight of a linear layer."""
        raise NotImplementedError("bottleneck adapters cannot be merged into the base model")

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in features) to (..., out features), in the base layer's dtype."""
        result: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            down, up = self.bottleneck_down[name], self.bottleneck_up[name]
            adapted: torch.Tensor = up(torch.relu(down(result.to(down.weight.dtype))))
            result = result + adapted.to(result.dtype)
        return result


class BottleneckModel(BaseTuner):  # type: ignore[misc]
    """The tuner that puts `BottleneckLayer`s into a model."""

    prefix = _PREFIX
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - as PEFT declares it; the config always names its modules

    def _create_and_replace(
        self, peft_config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module, current_key: str
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if not hasattr(target, "weight") or not (hasattr(target, "out_features") or hasattr(target, "nf")):
            raise ValueError(f"{current_key} is no linear layer")
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


def register() -> None:
    """Tell PEFT of the method. Its own `register_peft_method` takes only names that its enumeration has; these are the tables it fills."""
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = BottleneckConfig
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = BottleneckModel
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = _PREFIX
