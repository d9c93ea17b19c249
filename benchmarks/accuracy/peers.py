"""Predictions of other public estimators for the same rows: benchmarks/results/peers.csv (id, tool, predicted_gib, note)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.case import GIB
from benchmarks.accuracy.score import Figures, Scored, figures_of

PEERS = Path(__file__).parents[1] / "results" / "peers.csv"


@dataclass(frozen=True, slots=True)
class Peer:
    """What one tool says about one row, in bytes."""

    id: str
    tool: str
    predicted_bytes: float


def read_peers(path: Path = PEERS) -> list[Peer]:
    """Every prediction in the file; none when there is no file. Rows that a tool refused have no figure and are left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Peer(row["id"], row["tool"], float(row["predicted_gib"]) * GIB) for row in csv.DictReader(file) if row["predicted_gib"]]


def peer_figures(peers: Sequence[Peer], ours: Sequence[Scored]) -> list[tuple[str, Figures]]:
    """Each tool on the rows that it answers, followed by ftadvise on the same rows."""
    measured = {each.case.id: each for each in ours}
    found = []
    for tool in dict.fromkeys(peer.tool for peer in peers):
        answered = [(peer, measured[peer.id]) for peer in peers if peer.tool == tool and peer.id in measured]
        if answered:
            found.append((tool, figures_of([peer.predicted_bytes / row.measurement.peak_bytes - 1 for peer, row in answered], [])))
            found.append((f"ftadvise, the rows {tool} answers", figures_of([row.error for _, row in answered], [])))
    return found
