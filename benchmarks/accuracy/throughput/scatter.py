"""docs/throughput_accuracy.svg: predicted beside measured speed, one point per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.throughput.score import Scored


def draw(path: Path, scored: Sequence[Scored]) -> None:
    """Write the picture. Filled points are fully known runs, open ones partly known, crosses approximated.

    Raises:
        ImportError: matplotlib is not installed; it is needed for this picture only.
    """
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ftadvise"  # the same points give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 7), layout="constrained")
    sources = sorted({each.run.case.source for each in scored})
    for source, colour in zip(sources, pyplot.get_cmap("tab10").colors, strict=False):
        for known in ("fully", "partly", "approximated"):
            group = [each for each in scored if each.run.case.source == source and each.run.known == known]
            if not group:
                continue
            x = [each.run.tokens_per_second for each in group]
            y = [each.predicted_tokens_per_second for each in group]
            label = f"{source}, {known}{'' if known == 'approximated' else ' known'}"
            if known == "approximated":
                axes.scatter(x, y, s=16, color=[colour], marker="x", linewidths=0.8, label=label)
            else:
                face = {"facecolors": colour} if known == "fully" else {"facecolors": "none"}
                axes.scatter(x, y, s=20, edgecolors=[colour], linewidths=0.9, label=label, **face)
    speeds = [each.run.tokens_per_second for each in scored]
    ends = [0.7 * min(speeds), 1.5 * max(speeds)]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    for share in (0.8, 1.2):
        axes.plot(ends, [share * end for end in ends], color="grey", linewidth=0.6, linestyle=":")
    axes.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal",
        xlabel="measured, tokens per second and GPU", ylabel="predicted, tokens per second and GPU (dotted: 20 %)",
    )  # fmt: skip
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
