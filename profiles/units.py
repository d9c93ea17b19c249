"""Numbers as people read them. GiB is 2^30 bytes."""

from __future__ import annotations

from ftadvise.profiles.hardware import GIB


def gib(num_bytes: float) -> str:
    """Bytes with three significant digits: "16.3 GiB", "0.42 GiB", "3.1 MiB"."""
    if abs(num_bytes) < 0.1 * GIB:
        mib = num_bytes / (1 << 20)
        return f"{mib:.0f} MiB" if abs(mib) >= 10 else f"{mib:.1f} MiB" if abs(mib) >= 0.05 else "0"
    value = num_bytes / GIB
    return f"{value:.2f} GiB" if abs(value) < 10 else f"{value:.1f} GiB"


def count(number: float) -> str:
    """A count: "7.72B", "39.9M", "12,345"."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= limit:
            value = number / limit
            return f"{value:.2f}{unit}" if value < 10 else f"{value:.1f}{unit}" if value < 100 else f"{value:.0f}{unit}"
    return f"{number:,.0f}"


def rate(per_second: float) -> str:
    """Tokens per second with two or more significant digits."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def dollars(usd: float) -> str:
    """US dollars: "$0.04", "$1.03", "$1,240"."""
    return f"${usd:,.0f}" if usd >= 100 else f"${usd:.2f}" if usd >= 0.1 or usd == 0 else f"${usd:.2g}"


def kwh(energy: float) -> str:
    """Kilowatt-hours with two significant digits: "0.82 kWh", "120 kWh"."""
    return f"{energy:,.0f} kWh" if energy >= 10 else f"{energy:.2g} kWh"


def duration(seconds: float) -> str:
    """A duration: "0.40 s", "12 s", "3.5 min", "2.1 h"."""
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
