"""Records every storage that PyTorch creates and frees, with what it was for. Imports torch: import this module late.

Used by the runner's meter on real training steps (CPU), and by the trace on `meta` steps. Both see the same events, so both are
read by the same code.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ftadvise.estimator.timeline import Timeline

Scratch = Callable[[Any, Any], Iterable[int]]
"""From an operation's arguments and result to the bytes of each buffer that its kernel takes and returns inside."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Live bytes at one moment: the total, and by label."""

    total_bytes: int
    phase: str
    operation: str
    by_label: dict[str, int]


@dataclass(slots=True, eq=False)
class Storage:
    """One storage that was seen. `label` may be changed later: events are labelled when they are read."""

    number: int
    label: str
    size_bytes: int
    operation: str
    module: str


class StorageRecorder(TorchDispatchMode):  # type: ignore[misc]
    """A dispatch mode that follows storages on one device type from creation to release.

    What it sees: every storage that leaves an operation, and those announced with `adopt` or `take`. Memory that a kernel takes and
    returns inside one operation, which no dispatch mode can see, is recorded for the operations in `scratch`.

    `phase`, `label` and `module` are set by the caller and stamped on every storage created from then on; `adopt` moves storages to
    another label afterwards (a gradient is recognised only when it has become one), which is why labels are resolved at the end.

    `execute` calls the operations, by default as they are.
    """

    def __init__(self, device_type: str, scratch: dict[Any, Scratch] | None = None, execute: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self._execute = execute or _call
        self.device_type = device_type
        self.phase = "load"
        self.label = "activations"
        self.module = ""
        self._scratch = scratch or {}
        self._count_of_storages = 0
        self._live: dict[int, tuple[Any, Storage]] = {}
        self._events: list[tuple[Storage, int, str]] = []
        self._current_bytes = 0
        self._peaks: dict[tuple[str, str], tuple[int, int, str]] = {}

    def __enter__(self) -> StorageRecorder:
        self._follow_resizes()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.UntypedStorage.resize_ = self._resize

    def _follow_resizes(self) -> None:
        """FSDP frees and refills what it gathered by resizing storages, which is no operation."""
        self._resize = torch.UntypedStorage.resize_

        def resize_(storage: torch.UntypedStorage, size_bytes: int) -> Any:
            found = self._resize(storage, size_bytes)
            self._resized(storage, "resize_")
            return found

        torch.UntypedStorage.resize_ = resize_

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # a wrapper such as DTensor: its own operations on what it wraps come here next
        out = self._execute(func, args, kwargs or {})
        if isinstance(out, torch.Tensor):
            self._see(out, self.label, func)
        else:
            for leaf in tree_iter(out):
                if isinstance(leaf, torch.Tensor):
                    self._see(leaf, self.label, func)
        if func in self._scratch:
            held = [self.take(size, "workspace", str(func)) for size in self._scratch[func](args, out) if size]
            for storage in held:
                self.release(storage)
        return out

    def adopt(self, tensors: Iterable[torch.Tensor], label: str) -> None:
        """Count tensors that exist already (weights, optimizer state), or move them to `label` when they are known."""
        for tensor in tensors:
            storage = self._see(tensor, label, "adopt")
            if storage is not None:
                storage.label = label

    def take(self, size_bytes: int, label: str, operation: str) -> Storage:
        """Count memory that no tensor stands for."""
        storage = self._new(size_bytes, label, operation)
        self._count(storage, size_bytes, operation)
        return storage

    def release(self, storage: Storage) -> None:
        """The end of what `take` began."""
        self._count(storage, -storage.size_bytes, "free")

    @property
    def current_bytes(self) -> int:
        """Live bytes now."""
        return self._current_bytes

    def peaks(self) -> dict[str, Moment]:
        """The largest moment of each phase, with labels as they are known by now."""
        largest: dict[str, tuple[int, int, str]] = {}
        for (phase, _), peak in self._peaks.items():
            largest[phase] = max(peak, largest.get(phase, peak))
        return {phase: self._moment(phase, *peak) for phase, peak in largest.items()}

    def peaks_by_label(self) -> dict[tuple[str, str], Moment]:
        """The largest moment of each (phase, label being created): tells the loss's peak from the layers'."""
        return {moment: self._moment(moment[0], *peak) for moment, peak in self._peaks.items()}

    def timeline(self) -> Timeline:
        """Every event so far, with labels as they are known by now."""
        timeline = Timeline()
        for storage, delta, phase in self._events:
            timeline.append(storage.number, delta, label=storage.label, operation=storage.operation, module=storage.module, phase=phase)
        return timeline

    def live_at_peak(self, phase: str, label: str) -> list[tuple[str, str, int]]:
        """(label, creating operation, bytes) of every storage alive at that moment of `peaks_by_label`, largest first."""
        live: dict[int, tuple[Storage, int]] = {}
        for storage, delta, _ in self._events[: self._peaks[phase, label][1]]:
            held = live.get(storage.number, (storage, 0))[1] + delta
            live[storage.number] = (storage, held)
        rows = [(storage.label, storage.operation, held) for storage, held in live.values() if held]
        return sorted(rows, key=lambda row: -row[2])

    def _moment(self, phase: str, total_bytes: int, event_count: int, operation: str) -> Moment:
        by_label: dict[str, int] = {}
        for storage, delta, _ in self._events[:event_count]:
            by_label[storage.label] = by_label.get(storage.label, 0) + delta
        return Moment(total_bytes, phase, operation, {k: v for k, v in by_label.items() if v})

    def _new(self, size_bytes: int, label: str, operation: str) -> Storage:
        self._count_of_storages += 1
        return Storage(self._count_of_storages, label, size_bytes, operation, self.module)

    def _see(self, tensor: torch.Tensor, label: str, operation: Any) -> Storage | None:
        untyped = local_part(tensor).untyped_storage()
        if untyped.device.type != self.device_type:  # the fake tensors by which DTensor plans say "cpu", but take no memory
            return None
        key = untyped._cdata
        known = self._live.get(key)
        size_bytes = untyped.nbytes()
        if known is None:
            if size_bytes == 0:
                return None
            storage = self._new(size_bytes, label, str(operation))
            self._live[key] = (weakref.ref(untyped, lambda _: self._free(key)), storage)
            self._count(storage, size_bytes, storage.operation)
            return storage
        self._resized(untyped, str(operation))
        return known[1]

    def _resized(self, untyped: torch.UntypedStorage, operation: str) -> None:
        """Follow a storage that was seen and has another size now."""
        known, size_bytes = self._live.get(untyped._cdata), untyped.nbytes()
        if known is not None and known[1].size_bytes != size_bytes:
            self._count(known[1], size_bytes - known[1].size_bytes, operation)
            known[1].size_bytes = size_bytes

    def _free(self, key: int) -> None:
        _, storage = self._live.pop(key)
        self._count(storage, -storage.size_bytes, "free")

    def _count(self, storage: Storage, delta: int, operation: str) -> None:
        self._events.append((storage, delta, self.phase))
        self._current_bytes += delta
        moment = (self.phase, self.label)
        peak = self._peaks.get(moment)
        if peak is None or self._current_bytes > peak[0]:
            self._peaks[moment] = (self._current_bytes, len(self._events), operation)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a DTensor; any other tensor itself."""
    found: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return found


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


@contextmanager
def recording(recorder: StorageRecorder) -> Iterator[StorageRecorder]:
    """Record for the length of a `with` block."""
    with recorder:
        yield recorder
