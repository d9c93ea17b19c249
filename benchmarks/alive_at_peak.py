"""Which tensors are alive at the peak of one published run, as the analytic model has them: the example of docs/memory_model.md.

Mistral-7B, LoRA of rank 16 on q, k, v, o, four sequences of 4,096 tokens, bf16, checkpointing, FlashAttention-2, full logits of
transformers 4.48: row ROW of benchmarks/data. Prices in milliseconds, without torch.

Run: python -m benchmarks.alive_at_peak
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate

from benchmarks.accuracy.case import GIB, MIB, Case
from benchmarks.accuracy.predict import analytic, hardware_of, model_of, stack
from benchmarks.accuracy.rows import single_gpu
from ftadvise.estimator.activations import attention_kernel, batch_of
from ftadvise.estimator.device_memory import matmul_workspace_bytes
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.memory import price_memory
from ftadvise.estimator.tape.build import Setting
from ftadvise.estimator.tape.replay import replay
from ftadvise.estimator.timeline import Timeline

ROW = "fms-a100_80gb-24bdadb-32"
_TAKEN_ONCE = {"weights": "loading", "adapters": "loading", "optimizer_state": "the first step"}
_LEAST_BYTES = 5 * MIB


@dataclass(frozen=True, slots=True)
class Alive:
    """Equal tensors that are alive together, or (`count` 0) all those of a label that stay. `module` has no layer numbers."""

    label: str
    operation: str
    module: str
    size_bytes: int
    count: int

    @property
    def together_bytes(self) -> int:
        """All of them."""
        return self.size_bytes * max(1, self.count)


def table() -> str:
    """What is alive at the example's peak, as a Markdown table, and the sums below it."""
    case = _case()
    line = _timeline(case)
    peak = max(range(len(line.sizes)), key=list(accumulate(line.sizes)).__getitem__)
    lines = ["| component | taken by | in | tensors | each | together |", "|---|---|---|--:|--:|--:|"]
    rest = 0
    for each in alive(line, peak):
        if each.together_bytes < _LEAST_BYTES:
            rest += each.together_bytes
            continue
        parts = f"{each.count} | {each.size_bytes / MIB:,.0f} MiB" if each.count else " | "
        together = f"{each.together_bytes / GIB:.2f} GiB"
        lines.append(f"| {each.label.replace('_', ' ')} | {each.operation} | {each.module} | {parts} | {together} |")
    lines.append(f"| everything below 5 MiB | | | | | {rest / GIB:.2f} GiB |")
    return "\n".join([*lines, "", *_sums(case, line.phases[peak])]) + "\n"


def _sums(case: Case, phase: str) -> list[str]:
    """The example beside what was measured, and beside our own runner's loss."""
    found = {metric: size / GIB for metric, size in analytic(case).peak_bytes.items()}
    measured = {each.metric: each.peak_bytes / GIB for each in case.measured}
    fused = estimate(model_of(case.model), hardware_of(case.gpu), case.recipe.replace(loss="fused")).memory
    where = f" in {fused.peak_module}" if fused.peak_module else ""
    return [
        f"Together {found['allocated']:.2f} GiB, in the {phase} pass; torch measured {measured['allocated']:.2f}. `nvidia-smi` showed "
        f"{measured['device_used']:.2f} GiB, the estimate says {found['device_used']:.2f}.",
        f"With the fused loss of our runner the same recipe needs {fused.peak_allocated_bytes / GIB:.2f} GiB allocated, and peaks in the "
        f"{fused.peak_phase} pass{where}.",
    ]


def alive(line: Timeline, index: int) -> list[Alive]:
    """What was taken up to event `index` and not released, largest groups first; what is loaded is one group for each label."""
    taken: dict[int, int] = {}
    for position in range(index + 1):
        if line.sizes[position] > 0:
            taken[line.storages[position]] = position
        else:
            del taken[line.storages[position]]
    groups: dict[tuple[str, str, str, int], int] = {}
    stay = dict.fromkeys(_TAKEN_ONCE, 0)
    for position in taken.values():
        label, size = line.labels[position], line.sizes[position]
        if label in stay:
            stay[label] += size
            continue
        module = re.sub(r"layers\.\d+", "layers.*", line.modules[position])
        key = (label, line.operations[position], module, size)
        groups[key] = groups.get(key, 0) + 1
    found = [Alive(label, _TAKEN_ONCE[label], "", size, 0) for label, size in stay.items() if size]
    found += [Alive(*key, count) for key, count in groups.items()]
    return sorted(found, key=lambda each: -each.together_bytes)


def _case() -> Case:
    return next(case for case in single_gpu() if isinstance(case, Case) and case.id == ROW)


def _timeline(case: Case) -> Timeline:
    """Loading and two steps of the run, every layer written out."""
    model, hardware, code = model_of(case.model), hardware_of(case.gpu), stack(case)
    batch, gpu = batch_of(case.recipe, code), hardware.gpu
    kernel = attention_kernel(model, case.recipe, batch, device="cuda", compute_capability=gpu.compute_capability if gpu else None)
    setting = Setting(kernel, batch.masked, single=batch.sequences == 1, like_cuda=True)
    priced = price_memory(model, hardware, case.recipe, code)
    workspace = matmul_workspace_bytes(gpu)
    return replay(model, case.recipe, code, setting, priced.profile, priced.static, priced.values, matmul_workspace_bytes=workspace)


if __name__ == "__main__":
    print(table())
