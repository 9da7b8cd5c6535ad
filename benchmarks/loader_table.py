"""What benchmarks.loader prints: the figures of every contestant, and who leads where."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.loader_apart import Took
from benchmarks.loader_data import Kind

WAYS = ("steady", "1 worker", "2 workers", "in order", "random", "opened", "dropped", "http", "s3")
CELLS = {  # what a trainer asks, and the way that answers it
    "shuffled, warm": "steady", "opened anew, warm": "opened", "page cache dropped": "dropped",
    "50 ms server, http": "http", "50 ms server, S3": "s3",
}  # fmt: skip
LEAST = "bare map"  # no contestant: what reading the bytes costs at least

Found = dict[str, dict[int, tuple[int, Took]]]  # way -> round -> samples, and what they took
Rates = dict[str, Found]  # of each contestant


def rate(one: tuple[int, Took]) -> float:
    """Samples/s."""
    return one[0] / one[1].all_s


def cpu_us(one: tuple[int, Took]) -> float:
    return one[1].cpu_s / one[0] * 1e6


def show(kind: Kind, rates: Rates, megabytes: float) -> list[str]:
    ways = [way for way in WAYS if any(way in found for found in rates.values())]
    lines = [f"\n{kind.name}: {kind.count} samples of {megabytes:.3f} MB in batches of {kind.batch}; samples/s, median"]
    lines.append(f"  {'':<19}" + "".join(f"{way:>11}" for way in ways))
    for name, found in rates.items():
        lines.append(f"  {name:<19}" + "".join(_cell(found, way, rate) for way in ways))
    lines.append(f"  {'us of CPU a sample':<19}" + "".join(f"{way:>11}" for way in ways))
    for name, found in rates.items():
        lines.append(f"  {name:<19}" + "".join(_cell(found, way, cpu_us) for way in ways))
    more: dict[str, tuple[str, Callable[[tuple[int, Took]], float]]] = {
        "MB/s steady": ("steady", lambda one: rate(one) * megabytes),
        **{f"first ms {way}": (way, lambda one: one[1].first_s * 1e3) for way in ("opened", "dropped", "http", "s3")},
        "peak MB steady": ("steady", lambda one: one[1].rss_mb),
    }
    lines.append(f"  {'':<19}" + "".join(f"{title:>18}" for title in more))
    for name, found in rates.items():
        lines.append(f"  {name:<19}" + "".join(_cell(found, way, value, 18) for way, value in more.values()))
    return [*lines, *verdicts(rates)]


def verdicts(rates: Rates) -> list[str]:
    """Of each question who leads by the clock, and by CPU time, in the rounds' ratios: median (least - greatest)."""
    lines, ours = [], rates["dailies"]
    for asked, way in CELLS.items():
        for what, better in (("samples/s", _faster), ("CPU", _cheaper)):
            leads = {name: lead for name, found in rates.items()
                     if name not in ("dailies", LEAST) and (lead := ratios(ours, found, way, better))}  # fmt: skip
            if leads and (what == "samples/s" or way in ("steady", "opened")):
                nearest = min(leads, key=lambda name: median(leads[name]))
                word = "dailies leads all" if median(leads[nearest]) > 1 else f"{nearest} LEADS"
                lines.append(f"  {asked + ', ' + what:<32}{word:<28} dailies : {nearest} = {_told(leads[nearest])}")
    if share := ratios(ours, rates[LEAST], "steady", _cheaper):
        word = "at least 0.8" if median(share) >= 0.8 else "BELOW 0.8"
        lines.append(f"  {'of a bare memory map, CPU':<32}{word:<28} bare map : dailies = {_told(share)}")
    return lines


def ratios(ours: Found, other: Found, way: str, better: Callable[[Any, Any], float]) -> list[float]:
    """Of the rounds that both went through, ascending: above 1 ours is better."""
    mine, theirs = ours.get(way, {}), other.get(way, {})
    return sorted(better(mine[at], theirs[at]) for at in mine if at in theirs)


def _faster(mine: tuple[int, Took], theirs: tuple[int, Took]) -> float:
    return rate(mine) / rate(theirs)


def _cheaper(mine: tuple[int, Took], theirs: tuple[int, Took]) -> float:
    return cpu_us(theirs) / cpu_us(mine)


def _told(leads: list[float]) -> str:
    return f"{median(leads):.2f} ({leads[0]:.2f}-{leads[-1]:.2f})"


def _cell(found: Found, way: str, value: Callable[[tuple[int, Took]], float], width: int = 11) -> str:
    rounds = found.get(way, {})
    return f"{median(map(value, rounds.values())):{width}.1f}" if rounds else f"{'-':>{width}}"
