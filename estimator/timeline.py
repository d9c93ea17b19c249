"""Timeline: memory events of a training step, in order. The trace, the analytic tape and the allocator simulation share it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ftadvise.profiles.errors import InputError


@dataclass(slots=True)
class Timeline:
    """Columns, one entry per event. Bytes as the tensors ask for them, before any rounding.

    `sizes`: bytes, positive when a storage is taken, negative when it is released. `storages`: the same number in both events.
    `labels` (a component name), `operations` and `modules` say what the storage is for and who made it; on a release they repeat
    what was said when it was taken. `phases`: "load", "forward", "backward", "optimizer_step", "evaluation", "save" or "merge".
    """

    storages: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sizes)

    def append(self, storage: int, size_bytes: int, *, label: str, operation: str, module: str, phase: str) -> None:
        """Add one event."""
        self.storages.append(storage)
        self.sizes.append(size_bytes)
        self.labels.append(label)
        self.operations.append(operation)
        self.modules.append(module)
        self.phases.append(phase)

    def allocated(self) -> Iterator[int]:
        """Live bytes after each event."""
        live = 0
        for size in self.sizes:
            live += size
            yield live

    def write_csv(self, path: Path) -> None:
        """Allocated bytes over time, one line per event: event, phase, allocated_bytes, change_bytes, component, operation, module.

        Raises:
            InputError: the file cannot be written.
        """
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["event", "phase", "allocated_bytes", "change_bytes", "component", "operation", "module"])
                columns = zip(self.phases, self.allocated(), self.sizes, self.labels, self.operations, self.modules, strict=True)
                writer.writerows((number, *values) for number, values in enumerate(columns))
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None

    def phase_peaks(self) -> dict[str, int]:
        """The most live bytes in each phase that occurs."""
        peaks: dict[str, int] = {}
        for phase, live in zip(self.phases, self.allocated(), strict=True):
            peaks[phase] = max(peaks.get(phase, 0), live)
        return peaks

    def peak(self) -> int:
        """Index of the event after which most bytes are live (the first such); -1 when there are no events."""
        best, index = -1, -1
        for position, live in enumerate(self.allocated()):
            if live > best:
                best, index = live, position
        return index

    def components_at(self, index: int) -> dict[str, int]:
        """Live bytes by label after event `index`."""
        components: dict[str, int] = {}
        for label, size in zip(self.labels[: index + 1], self.sizes, strict=False):
            components[label] = components.get(label, 0) + size
        return {label: size for label, size in components.items() if size}
