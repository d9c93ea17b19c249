"""Which module made a storage: forward by hooks around each module, backward by hooks on the node that each module's output left."""

from __future__ import annotations

from typing import Any

import torch

from ftadvise.estimator.storage_recorder import StorageRecorder


class ModuleTracker:
    """Sets `recorder.module` while inside the `with` block. In backward: the module whose output's gradient arrived last."""

    def __init__(self, model: torch.nn.Module, recorder: StorageRecorder) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._recorder = recorder
        self._handles: list[Any] = []

    def __enter__(self) -> ModuleTracker:
        """Hook every module."""
        for module in self._names:
            self._handles.append(module.register_forward_pre_hook(self._begins))
            self._handles.append(module.register_forward_hook(self._ends))
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def leave(self) -> None:
        """No module is at work."""
        self._recorder.module = ""

    def _begins(self, module: Any, _args: Any) -> None:
        self._recorder.module = self._names[module]

    def _ends(self, module: Any, _args: Any, output: Any) -> None:
        name = self._names[module]
        self._recorder.module = name.rpartition(".")[0]
        first = output[0] if isinstance(output, tuple) and output else output
        node = getattr(first, "grad_fn", None)
        if node is not None:
            recorder = self._recorder

            def arrives(_gradients: Any) -> None:
                recorder.module = name

            node.register_prehook(arrives)
