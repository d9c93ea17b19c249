"""The figures of summary.py in Chinese, for README.zh-CN.md."""

from __future__ import annotations

import csv

from benchmarks.accuracy import summary as english
from benchmarks.accuracy.score import figures_of


def summary() -> str:
    """Bullets for the Chinese README: the same rows, the same figures."""
    every = [each for each in english.readings() if each.basis == "analytic"]
    one = [each for each in every if not each.several_gpus and each.fully_known]
    several = [each for each in every if each.several_gpus and each.fully_known and each.metric == "allocated"]
    unknown = [each for each in every if not each.several_gpus and not each.fully_known and each.primary]
    allocated, shown = (_figures([each for each in one if each.metric == metric]) for metric in ("allocated", "device_used"))
    lines = [
        f"- 单 GPU，设置完全已知的 {allocated.count} 次公开运行（{'、'.join(sorted({each.source for each in one}))}）："
        f"已分配显存峰值平均偏差 {allocated.mean:.1%}（{allocated.worst_under:+.1%} 至 {allocated.worst_over:+.1%}），",
        f"  `nvidia-smi` 显示值平均偏差 {shown.mean:.1%}（{shown.worst_under:+.1%} 至 {shown.worst_over:+.1%}）；"
        f"后者有 {shown.coverage or 0:.0%} 落在 90 % 区间内，而该区间正是由它们得出的。",
    ]
    if several:
        lines.append(f"- 多 GPU（FSDP，{len(several)} 次此类运行）：每张 GPU 的已分配显存平均偏差 {_figures(several).mean:.1%}。")
    if unknown:
        f = _figures(unknown)
        lines.append(
            f"- 另有 {f.count} 行单独计分，其设置不完全已知，多为最长批次的长度：平均偏差 {f.mean:.1%}，"
            f"其中 {f.under_share:.0%} 低估超过 5 %，{f.coverage or 0:.0%} 在区间内。"
        )
    path = english.RESULTS / "agreement.csv"
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        errors = [float(row["peak_error_percent"]) / 100 for row in rows]
        within, worst = sum(abs(error) <= 0.02 for error in errors) / len(errors), max(map(abs, errors))
        lines.append(
            f"- 解析模型与追踪相比，{len({row['architecture'] for row in rows})} 种架构上的 {len(errors)} 个随机配方："
            f"中位偏差 {figures_of(errors, []).median:.2%}，{within:.0%} 在 2 % 以内，最差 {worst:.1%}。"
        )
    return "\n".join(lines).replace("%", " %").replace("  %", " %") + "\n"


def _figures(rows: list[english.Reading]) -> english.Figures:
    return figures_of([each.error for each in rows], [each.covered for each in rows if each.covered is not None])
