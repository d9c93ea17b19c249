"""docs/accuracy.svg: predicted beside measured, one point per reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.case import GIB
from benchmarks.accuracy.score import Scored


def draw(path: Path, scored: Sequence[Scored]) -> None:
    """Write the picture. Filled points are fully known rows, open ones partly known.

    Raises:
        ImportError: matplotlib is not installed; it is needed for this picture only.
    """
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ftadvise"  # the same points give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 7), layout="constrained")
    sources = sorted({each.case.source for each in scored})
    for source, colour in zip(sources, pyplot.get_cmap("tab10").colors, strict=False):
        for known in (True, False):
            group = [each for each in scored if each.case.source == source and each.case.fully_known == known]
            if not group:
                continue
            x, y = [each.measurement.peak_bytes / GIB for each in group], [each.predicted_bytes / GIB for each in group]
            style = {"facecolors": colour} if known else {"facecolors": "none"}
            axes.scatter(
                x, y, s=22, edgecolors=[colour], linewidths=0.9, label=f"{source}, {'fully' if known else 'partly'} known", **style
            )
    ends = [3, 100]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    for share in (0.9, 1.1):
        axes.plot(ends, [share * end for end in ends], color="grey", linewidth=0.6, linestyle=":")
    axes.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal", xlabel="measured, GiB", ylabel="predicted, GiB (dotted: 10 %)"
    )
    ticks = [4, 8, 16, 24, 40, 80]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, labels=[str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
