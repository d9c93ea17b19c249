"""What others measured about a claim: rows out of benchmarks/data, each beside our estimate of the same run where there is one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from benchmarks.accuracy.case import GIB, Case
from benchmarks.accuracy.case import Row as Published
from benchmarks.accuracy.predict import analytic, stack
from benchmarks.accuracy.published import read
from benchmarks.accuracy.rows import single_gpu
from benchmarks.accuracy.throughput.pairs import Pair, documented_pairs, found_pairs
from benchmarks.accuracy.throughput.rows import runs
from benchmarks.accuracy.throughput.run import Run
from benchmarks.accuracy.throughput.score import score
from benchmarks.claims.check import SHOWN, Range, Row
from ftadvise.profiles.errors import InputError

_TABLES = ("memory_measurements.csv", "throughput_measurements.csv")


def trained(claimed: Range) -> Iterator[Row]:
    """Trained parameters of LoRA and QLoRA runs that state them, by model, rank and targets."""
    seen = set()
    for row in itertools.chain.from_iterable(map(read, _TABLES)):
        if row["method"] not in ("lora", "qlora") or not row["num_trainable_params"] or not row["num_total_params"]:
            continue
        if row["modules_to_save"]:
            continue
        share = float(row["num_trainable_params"]) / float(row["num_total_params"])
        key = (row["model"], row["rank"], row["target_modules"])
        if key not in seen and 0 < share < 1:
            seen.add(key)
            yield Row(f"{_short(row['model'])}, r {row['rank']} on {_targets(row)} (`{row['id']}`)", share, SHOWN["share"](share), claimed)


def memory_pairs(claimed: Range) -> Iterator[Row]:
    """What a 4-bit base saves in runs of one source that differ in nothing else; the same figure for our estimates."""
    groups: dict[object, list[Case]] = {}
    for case in single_gpu():
        if isinstance(case, Case) and case.measured and case.recipe.method == "lora" and case.recipe.quantization in ("none", "nf4"):
            recipe = case.recipe.replace(quantization="none", double_quantization=False, adapter_dtype="fp32", optimizer="adamw_torch")
            key = (case.source, case.model, case.gpu, case.measured[0].metric, stack(case).fused, recipe)
            groups.setdefault(key, []).append(case)
    seen = set()
    for group in groups.values():
        for one, other in itertools.permutations(group, 2):
            if one.recipe.quantization == "none" and other.recipe.quantization == "nf4" and other.id not in seen:
                seen.add(other.id)  # a 16-bit run that was repeated makes no further pair
                saving = 1 - other.measured[0].peak_bytes / one.measured[0].peak_bytes
                what = f"{_short(one.model)}, {one.recipe.micro_batch} x {one.recipe.seq_len}, {one.measured[0].metric} (`{other.id}`)"
                yield Row(what, saving, SHOWN["saving"](saving), claimed, _our_saving(one, other))


def speed_pairs(claimed: Range) -> Iterator[Row]:
    """Speed on a 4-bit base over that on a 16-bit base, in runs of one source; the same figure for our estimates."""
    quantised = [run for run in runs() if isinstance(run, Run) and run.case.recipe.method == "lora" and run.case.n_gpus == 1]
    documented = [pair for pair in documented_pairs(quantised) if pair.effect == "quantization"]
    known = {(pair.first.case.id, pair.second.case.id) for pair in documented}
    scored, _ = score([run for run in quantised if not run.approximated])
    found = [pair for pair in found_pairs(scored) if pair.effect == "quantization"]
    for pair in [*documented, *(pair for pair in found if (pair.first.case.id, pair.second.case.id) not in known)]:
        yield Row(_pair_words(pair), pair.measured, SHOWN["speed"](pair.measured), claimed, f"{pair.predicted:.2f} x")


def peaks(claimed: Range, *, model: str, method: str) -> Iterator[Row]:
    """Peaks of runs of one model (a pattern of its id) and method, lowest and highest of each source."""
    groups: dict[str, list[Case]] = {}
    for case in single_gpu():
        if isinstance(case, Case) and case.measured and re.search(model, case.model) and case.recipe.label.lower() == method:
            groups.setdefault(case.source, []).append(case)
    for source, group in groups.items():
        ordered = sorted(group, key=lambda case: case.measured[0].peak_bytes)
        for case in ordered[:: max(1, len(ordered) - 1)]:
            peak, metric = case.measured[0].peak_bytes, case.measured[0].metric
            what = f"{source}: {_short(case.model)}, {case.recipe.micro_batch} x {case.recipe.seq_len}, {metric} (`{case.id}`)"
            yield Row(what, peak, SHOWN["gib"](peak), claimed, _our_peak(case))


SOURCES: dict[str, Callable[..., Iterator[Row]]] = {
    "trained": trained,
    "memory_pairs": memory_pairs,
    "speed_pairs": speed_pairs,
    "peaks": peaks,
}


def _our_saving(one: Case, other: Case) -> str:
    try:
        first, second = (analytic(case).peak_bytes[case.measured[0].metric] for case in (one, other))
    except InputError:
        return ""
    return SHOWN["saving"](1 - second / first)


def _our_peak(case: Case) -> str:
    try:
        return f"{analytic(case).peak_bytes[case.measured[0].metric] / GIB:.1f} GiB"
    except InputError:
        return ""


def _pair_words(pair: Pair) -> str:
    case = pair.first.case
    also = f"; {pair.also}" if pair.also else ""
    length = round(pair.first.tokens_per_step / case.recipe.sequences_per_step)
    return f"{_short(case.model)} on {case.gpu}, {case.recipe.micro_batch} x {length} (`{pair.second.case.id}`{also})"


def _short(model: str) -> str:
    return model.split("/")[-1]


def _targets(row: Published) -> str:
    names: Sequence[str] = re.findall(r"\w+", row["target_modules"])
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} kinds of layers"
