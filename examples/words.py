"""A scene in words: what a caption says of it."""

from __future__ import annotations

from .scenes import Scene

GROUNDS = {
    "gradient": "a {0} to {1} gradient",
    "clouds": "{1} clouds on a {0} sky",
    "tiles": "a wall of {0} and {1} tiles",
    "stripes": "{0} and {1} stripes",
    "waves": "{0} and {1} waves",
    "bricks": "a {0} brick wall with {1} joints",
    "dots": "a {0} ground with {1} dots",
    "city": "a city of {1} houses under a {0} sky",
    "quadrants": "four fields, red, green, blue and yellow",
    "temple": "a photograph of a Chinese temple",
    "roof": "a photograph of the roof of a Chinese temple",
    "walls": "a photograph of the floors of a Chinese temple",
    "lake": "a photograph of a lake with boats",
    "eaves": "a photograph of a tiled roof among trees",
    "trees": "a photograph of dense trees",
    "flower": "a photograph of an orange flower",
    "petals": "a photograph of the petals of an orange flower",
    "leaves": "a photograph of dark leaves beside a flower",
}
CAMERAS = {
    "static": "The camera stands still",
    "handheld": "The camera is held by hand",
    "shake": "The camera shakes",
    "roll": "The camera rolls",
    "zoom in": "The camera zooms in",
    "zoom out": "The camera zooms out",
    **{f"pan {way}": f"The camera pans {way}" for way in ("up", "down", "left", "right")},
    **{f"tilt {way}": f"The camera tilts {way}" for way in ("up", "down", "left", "right")},
    **{f"around {way}": f"The camera moves around to the {way}" for way in ("left", "right")},
}


def describe(scene: Scene) -> str:
    """Two plain English sentences: what is to be seen, what the camera does."""
    return f"{subject(scene)}. {CAMERAS[scene.move]}."


def subject(scene: Scene) -> str:
    behind = ground(scene)
    things = f"{scene.thing_colour} {scene.thing}{'es' if scene.thing.endswith('s') else 's'}"
    if scene.moving:
        return f"{things.capitalize()} moving over {behind}"
    if scene.standing:
        return f"{things.capitalize()} in front of {behind}"
    return behind[0].upper() + behind[1:]


def ground(scene: Scene) -> str:
    return GROUNDS[scene.background].format(*scene.colours)
