"""A long video made cheaply: the packets of a short one, over and over, with their stamps moved on."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av


def loop(source: Path, target: Path, seconds: float) -> int:
    """Write at least `seconds` of the first video stream of `source`, not encoded again. Returns how many frames."""
    with av.open(str(source)) as one:
        stream: Any = one.streams.video[0]
        packets: list[Any] = [packet for packet in one.demux(stream) if packet.dts is not None]
        base = Fraction(stream.time_base)
        step = packets[1].dts - packets[0].dts
        length = packets[-1].dts - packets[0].dts + step
        times = max(1, -(-int(seconds / base) // length))
        stamps = [(packet.pts, packet.dts) for packet in packets]
        with av.open(str(target), "w") as out:
            copy = out.add_stream_from_template(stream)
            for k in range(times):
                for packet, (pts, dts) in zip(packets, stamps, strict=True):
                    packet.stream, packet.time_base = copy, base
                    packet.pts, packet.dts = pts + k * length, dts + k * length
                    out.mux(packet)
    return times * len(packets)
