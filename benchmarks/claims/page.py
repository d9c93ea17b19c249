"""The claims page: every number of the source documents beside our estimate and the published measurements, with a verdict.

`make docs` puts it into docs/claims.md. Run: python -m benchmarks.claims.page
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.check import Row, Verdict, computed, verdict
from benchmarks.claims.published import SOURCES
from ftadvise.estimator.speed.calibrated import without_calibration
from ftadvise.profiles.yaml_store import load_yaml

_VERDICTS: dict[Verdict, str] = {"holds": "holds", "sometimes": "holds when", "never": "does not hold", "unchecked": "not checked by us"}
_SIGNS = {True: "yes", False: "no", None: ""}


def claims() -> str:
    """The Markdown of all claims."""
    with without_calibration():  # the page is the same on every machine
        sections = [_section(claim) for claim in entries()]
    lines = ["| claim | source | verdict |", "|---|---|---|"]
    lines += [f"| [{claim['id']}](#{_anchor(claim)}): {claim['en']} | {claim['source']} | {found} |" for claim, found, _ in sections]
    return "\n".join([*lines, "", *(text for _, _, text in sections)]) + "\n"


def entries() -> list[dict[str, Any]]:
    """What claims.yaml says."""
    found: list[dict[str, Any]] = load_yaml(Path(__file__).with_name("claims.yaml"))
    return found


def checked(claim: Mapping[str, Any]) -> tuple[list[Row], list[Row], Verdict]:
    """Our figures, the published ones, and the verdict of both together."""
    ours = [row for entry in claim["ours"] for row in computed(entry)]
    others = list(_published(claim))
    return ours, others, verdict([*ours, *others])


def _published(claim: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of the claim's `published`; without a range of its own each counts by that of our first figure."""
    usual = next((entry["claimed"] for entry in claim["ours"] if "claimed" in entry), None)
    for name, arguments in claim.get("published", {}).items():
        for each in arguments if isinstance(arguments, list) else [arguments]:
            low, high = each.get("claimed", usual)
            yield from SOURCES[name]((low, high), **{key: value for key, value in each.items() if key != "claimed"})


def _section(claim: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, str]:
    """The claim, its verdict in words, and its part of the page."""
    ours, others, found = checked(claim)
    words = _VERDICTS[found] + (f" {claim['when'].strip().removesuffix('.')}" if found == "sometimes" else "")
    figures = {"ours": [row for row in ours if row.claimed], "published": [row for row in others if row.claimed]}
    ends = {f"{name}_{end}": _end(rows, end) for name, rows in figures.items() for end in ("low", "high")}
    text = [
        f"## {claim['id']}\n",
        f"> {claim['en']} ({claim['source']})\n>\n> {claim['zh']}\n",
        f"**{words[0].upper()}{words[1:]}.** {claim['why'].strip().format(**ends)}\n",
        _table("computed by ftadvise", ours),
    ]
    if others:
        text.append(_table("published", others, beside="our estimate of it"))
    return claim, words, "\n".join(text)


def _end(rows: Sequence[Row], end: str) -> str:
    if not rows:
        return "?"
    return (min if end == "low" else max)(rows, key=lambda row: row.value).shown.split(",")[0]


def _table(head: str, rows: Sequence[Row], beside: str = "") -> str:
    lines = [f"| {head} | figure |{f' {beside} |' if beside else ''} as claimed |", f"|---|--:|{'--:|' if beside else ''}---|"]
    for row in rows:
        cells = [row.what, row.shown, *([row.beside] if beside else []), _SIGNS[row.agrees]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _anchor(claim: Mapping[str, Any]) -> str:
    return str(claim["id"]).replace(".", "")


if __name__ == "__main__":
    print(claims())
