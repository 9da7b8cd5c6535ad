"""The signals: what is measured of a clip. One file each, named here; cheap before dear.

A signal is a constant `SIGNAL` of its file. One with source "pass" sees every frame of the decode pass; one with source
"proxies" works on the kept JPEGs of a clip and never decodes. `encode_version` changes when a number it gives changes.
"""

from __future__ import annotations

from curate.signals import (
    borders,
    camera,
    clarity,
    exposure,
    motion,
    overlay,
    people,
    quality,
    sharpness,
    text,
)
from curate.signals.kinds import Signal

SIGNALS: dict[str, Signal] = {
    "sharpness": sharpness.SIGNAL,
    "exposure": exposure.SIGNAL,
    "borders": borders.SIGNAL,
    "motion": motion.SIGNAL,
    "camera": camera.SIGNAL,
    "clarity": clarity.SIGNAL,
    "quality": quality.SIGNAL,
    "overlay": overlay.SIGNAL,
    "people": people.SIGNAL,
    "text": text.SIGNAL,
}
