"""The films of the generated footage: what is in which file. Rendering is elsewhere; this is a list to read.

A shot is one line: "background first/second colour, camera move, seconds[, how the next shot follows and frames]".
"""

from __future__ import annotations

from dataclasses import replace

from .effects import Border, Logo, Look
from .encode import Coding
from .films import Film, Shot, Variant
from .scenes import Scene
from .textures import PHOTO_CROPS

SLOWER = {"zoom": 0.6, "around": 0.6}  # moves that change the picture faster than their speed says


def films(textures: tuple[str, ...] = ()) -> list[Film]:
    """All films, variants behind their originals. textures: backgrounds to use instead of the procedural ones."""
    originals = [*_moving_things(), *_camera_moves(), *_photographs(), *_joins(), *_texts(), *_overlays()]
    originals += [*_degraded(), *_containers()]
    if textures:
        originals = [_textured(film, textures, place) for place, film in enumerate(originals)]
    by_name = {film.file: film for film in originals}
    return originals + [_variant(by_name[change.of], file, change, coding) for file, change, coding in VARIANTS]


def shots(thing: str, *lines: str, standing: int = 5, moving: int = 4, speed: float = 0.12,
          looks: tuple[Look | None, ...] = ()) -> tuple[Shot, ...]:  # fmt: skip
    """Shots of one kind of thing, say "red disc". Before a static camera the things move; else the camera does.

    looks: one per line, None is a plain one; may be left out altogether.
    """
    colour, shape = thing.split()
    made = []
    for line, look in zip(lines, looks or (None,) * len(lines), strict=True):
        ground, move, seconds, *join = (part.strip() for part in line.split(","))
        background, _, colours = ground.partition(" ")
        first, _, second = colours.partition("/")
        still = move == "static"
        scene = Scene(background, (first or "blue", second or "sand"), shape, colour, move=move,
                      standing=0 if still else standing, moving=moving if still else 0,
                      speed=speed * SLOWER.get(move.split()[0], 1.0))  # fmt: skip
        kind, frames = join[0].split() if join else ("cut", "0")
        made.append(Shot(scene, float(seconds), look or Look(), kind, int(frames)))
    return tuple(made)


def _moving_things() -> list[Film]:
    discs = shots(
        "red disc", "gradient blue/white, static, 2.5", "tiles teal/navy, static, 2.5", "clouds black/grey, static, 2.5"
    )
    stars = shots("yellow star", "clouds navy/purple, static, 3", "bricks brown/sand, static, 2.5")
    squares = shots(
        "blue square",
        "waves sand/orange, static, 2.5",
        "gradient white/pink, static, 2",
        "dots green/yellow, static, 2.5",
    )
    triangles = shots("green triangle", "stripes white/grey, static, 2.5", "clouds red/orange, static, 2.5")
    rings = shots("white ring", "tiles red/brown, static, 2.5, dissolve 12", "gradient navy/teal, static, 2.5")
    return [
        Film("discs.mp4", 320, 180, 24, discs, "discs", "Red discs fly over changing backgrounds, still camera."),
        Film("stars.mp4", 320, 180, 30, stars, "stars", "Yellow stars drift over a dark sky and a brick wall.",
             coding=Coding("hevc", 22)),
        Film("squares.webm", 256, 256, 25, squares, "squares", "Blue squares float over bright patterns.",
             coding=Coding("vp9", 24)),
        Film("triangles.mp4", 180, 320, 30, triangles, "triangles", "Green triangles fly over stripes and red clouds."),
        Film("rings.mkv", 320, 240, 25, rings, "rings", "White rings turn in front of coloured surfaces.",
             coding=Coding("mpeg4", 4)),
    ]  # fmt: skip


def _camera_moves() -> list[Film]:
    pans = shots(
        "green tree",
        "city teal/grey, pan left, 2.5",
        "clouds blue/white, pan right, 2.5",
        "bricks red/sand, pan up, 2.5",
        "dots sand/brown, pan down, 2.5",
    )
    tilts = shots(
        "orange post",
        "city navy/brown, tilt left, 2.5",
        "waves teal/white, tilt right, 2.5",
        "clouds purple/pink, tilt up, 2.5",
        "tiles grey/white, tilt down, 2.5",
    )
    zooms = shots(
        "purple cross",
        "city sand/blue, zoom in, 2.5",
        "stripes green/yellow, zoom out, 2.5",
        "dots white/red, zoom in, 2.5",
    )
    around = shots("pink tree", "clouds teal/sand, around left, 3", "tiles navy/grey, around right, 3")
    handheld = shots("yellow post", "city blue/red, handheld, 3", "bricks grey/white, handheld, 2.5", speed=0.2)
    roll = shots("teal cross", "waves orange/brown, roll, 2.5", "tiles pink/white, roll, 2.5")
    shake = shots("orange square", "clouds green/white, shake, 4", speed=0.9)
    take = shots("red tree", "city pink/purple, pan right, 14", speed=0.06)
    return [
        Film("pans.mp4", 384, 216, 24, pans, "trees", "Green trees before walls and houses; the camera pans."),
        Film("tilts.mp4", 320, 180, 25, tilts, "posts", "Orange posts before walls; the camera tilts."),
        Film("zooms.mp4", 320, 240, 24, zooms, "crosses", "Purple crosses before bright patterns; the camera zooms."),
        Film("around.mp4", 384, 216, 30, around, "trees", "Pink trees; the camera moves around them.",
             coding=Coding("av1", 32)),
        Film("handheld.mp4", 320, 180, 30, handheld, "posts", "Yellow posts, filmed with a handheld camera."),
        Film("roll.mp4", 256, 256, 24, roll, "crosses", "Teal crosses; the camera rolls.", None),
        Film("shake.mp4", 320, 180, 30, shake, "squares", "Orange squares before green clouds; the camera shakes.", "txt"),
        Film("long_take.mp4", 256, 144, 24, take, "trees", "Red trees in a pink city; the camera pans right slowly.", "txt"),
    ]  # fmt: skip


def _photographs() -> list[Film]:
    temple = shots("red disc", "temple, pan left, 5", standing=0)
    roofs = shots("red disc", "roof, zoom in, 2.5", "eaves, pan down, 2.5", "trees, zoom out, 2.5", standing=0)
    flower = shots("red disc", "flower, zoom out, 3, dissolve 14", "leaves, pan right, 3", standing=0)
    petals = shots("blue disc", "petals, static, 3", "walls, static, 3", moving=5)
    return [
        Film("temple.mp4", 640, 360, 24, temple, "photograph", "A photograph of a Chinese temple; a pan to the left.", "txt",
             coding=Coding("h264", 18)),
        Film("roofs.mov", 384, 256, 24, roofs, "photograph", "Photographs of a Chinese temple and its garden."),
        Film("flower.mp4", 480, 320, 25, flower, "photograph", "A photograph of an orange flower."),
        Film("petals.mp4", 320, 240, 30, petals, "photograph", "Blue discs fly over photographs."),
    ]  # fmt: skip


def _joins() -> list[Film]:
    dissolves = shots(
        "pink star",
        "tiles navy/blue, static, 2.6, dissolve 8",
        "clouds orange/yellow, static, 2.6, dissolve 16",
        "stripes black/green, static, 2.6, dissolve 24",
        "gradient white/teal, static, 2.6",
    )
    fades = shots(
        "red triangle",
        "waves white/teal, static, 2.4, fade 16",
        "city sand/navy, pan right, 2.4, fade 28",
        "dots yellow/orange, static, 2.4",
    )
    flashes = shots(
        "purple ring", "clouds green/sand, static, 3", "bricks blue/white, static, 3",
        looks=(Look(flashes=(0.3, 0.7)), Look(flashes=(0.5,))),
    )  # fmt: skip
    rapid = shots(
        "green disc",
        "tiles white/black, static, 1.2",
        "clouds red/white, static, 1.2",
        "gradient yellow/orange, static, 1.2",
        "waves navy/blue, static, 1.2",
        "city pink/grey, static, 0.5",
        "dots teal/sand, static, 1.2",
    )
    return [
        Film("dissolves.mp4", 320, 180, 24, dissolves, "stars", "Pink stars; the pictures melt into each other."),
        Film("fades.mp4", 320, 180, 30, fades, "triangles", "Red triangles; the pictures fade to black and back.",
             opens=12, closes=15),
        Film("flashes.mp4", 320, 240, 30, flashes, "rings", "Purple rings under flashing light."),
        Film("rapid.mp4", 256, 144, 60, rapid, "discs", "Green discs in quick succession of backgrounds.", None),
    ]  # fmt: skip


def _texts() -> list[Film]:
    talk = shots(
        "brown tree", "city teal/sand, pan right, 3", "clouds grey/white, tilt left, 3", "waves red/pink, static, 2.5",
        looks=(Look(subtitle="Where did all the trees go?"), Look(subtitle="Nobody knows for sure."), None),
    )  # fmt: skip
    title = shots(
        "white star", "gradient purple/navy, static, 2.5", "waves green/teal, static, 2.5",
        looks=(Look(title="CHAPTER ONE"), None),
    )  # fmt: skip
    credits = shots(
        "grey ring", "gradient black/navy, static, 3",
        looks=(Look(title="directed by\nAnna Example\nmusic by\nTom Sample"),), moving=2,
    )  # fmt: skip
    return [
        Film("subtitles.mp4", 480, 270, 24, talk, "trees", "Brown trees, the camera moves, partly with subtitles."),
        Film("title.mp4", 480, 270, 24, title, "stars", "White stars, first with a title in large letters.", None),
        Film("credits.mp4", 480, 270, 24, credits, "rings", "Names in large letters over a dark ground.", None),
    ]


def _overlays() -> list[Film]:
    logo = shots(
        "red cross",
        "bricks teal/white, pan left, 2.5",
        "stripes orange/brown, static, 2.5",
        "clouds navy/grey, zoom in, 2.5",
    )
    mark = shots(
        "green square", "dots pink/white, static, 2.5", "city yellow/brown, pan up, 2.5", "tiles blue/teal, static, 2.5"
    )
    letter = shots("orange disc", "waves blue/teal, static, 2.5", "city purple/grey, tilt right, 2.5")
    pillar = shots("yellow triangle", "clouds brown/red, pan down, 3")
    frame = shots("blue ring", "stripes sand/white, static, 3")
    return [
        Film("logo.mp4", 384, 216, 25, logo, "crosses", "Red crosses before walls, with a logo in the corner.",
             logo=Logo("top right", 1.0, "star", "yellow", 0.2)),
        Film("watermark.mp4", 384, 216, 24, mark, "squares", "Green squares under a watermark.",
             logo=Logo("middle", 0.5, "ring", "white", 0.4)),
        Film("letterbox.mp4", 320, 240, 25, letter, "discs", "Orange discs between black bars.",
             border=Border(top=30, bottom=30)),
        Film("pillarbox.mp4", 426, 240, 25, pillar, "triangles", "Yellow triangles between grey pillars.", "txt",
             border=Border(left=62, right=64, colour=(90, 90, 90))),
        Film("frame.mp4", 320, 240, 24, frame, "rings", "Blue rings in a white frame.", None,
             border=Border(16, 12, 16, 12, (235, 235, 235))),
    ]  # fmt: skip


def _degraded() -> list[Film]:
    blurred = shots(
        "red star", "bricks sand/green, static, 2.5", "dots grey/navy, pan left, 2.5",
        looks=(Look(blur_px=4.0), Look(blur_px=5.5)),
    )  # fmt: skip
    half = shots(
        "yellow cross",
        "tiles purple/black, static, 2.5",
        "waves pink/red, static, 2.5",
        looks=(Look(blur_px=4.5), None),
    )
    noisy = shots(
        "white square", "gradient teal/navy, static, 2.5", "clouds orange/red, pan right, 2.5",
        looks=(Look(noise=18), Look(noise=28)),
    )  # fmt: skip
    light = shots(
        "purple disc",
        "dots sand/yellow, static, 2.5", "stripes blue/green, static, 2.5", "bricks orange/white, static, 2.5",
        looks=(Look(gain=2.6, lift=40), Look(gain=0.16), None),
    )  # fmt: skip
    still = shots(
        "red disc", "tiles blue/sand, static, 3", "lake, static, 3", "stripes blue/sand, static, 2.5", moving=0
    )
    return [
        Film("blurred.mp4", 320, 240, 25, blurred, "stars", "Red stars, out of focus.", None),
        Film("half_blurred.mp4", 320, 180, 24, half, "crosses", "Yellow crosses, first out of focus, then sharp."),
        Film("noisy.mp4", 320, 180, 24, noisy, "squares", "White squares, grainy picture.", coding=Coding("h264", 24)),
        Film("light.mp4", 320, 180, 25, light, "discs", "Purple discs in too much and too little light.", None),
        Film("still.mp4", 320, 240, 24, still, "still", "Pictures without any motion."),
    ]


def _containers() -> list[Film]:
    uneven = shots(
        "pink triangle",
        "city green/sand, pan left, 3.5",
        "gradient black/blue, static, 3",
        "tiles orange/yellow, static, 3",
    )
    turned = shots("white ring", "quadrants, static, 2.5", "bricks purple/pink, static, 2.5", moving=3)
    slow = shots("navy tree", "clouds sand/yellow, pan right, 4", "waves grey/green, around right, 4")
    lossless = shots("orange star", "dots navy/teal, static, 2.5", "stripes purple/white, zoom out, 2.5")
    stream = shots("green cross", "tiles sand/brown, pan up, 2.5", "clouds pink/purple, static, 2.5")
    broken = shots("yellow square", "waves navy/purple, static, 3", "bricks green/black, static, 3")
    return [
        Film("uneven.mp4", 320, 180, 60, uneven, "triangles", "Pink triangles, at a variable frame rate.", uneven=True),
        Film("turned.mp4", 180, 320, 24, turned, "rings", "White rings over coloured fields, upright.", rotation=90),
        Film("slow.avi", 320, 180, 12, slow, "trees", "Dark trees before pale clouds, few frames per second.",
             coding=Coding("mpeg4", 3)),
        Film("lossless.mkv", 256, 144, 24, lossless, "stars", "Orange stars, stored without loss.",
             coding=Coding("ffv1")),
        Film("stream.ts", 320, 180, 30000 / 1001, stream, "crosses", "Green crosses; the clock starts late.", None),
        Film("truncated.mp4", 320, 180, 25, broken, "squares", "Yellow squares; the file is cut off in the middle."),
    ]  # fmt: skip


VARIANTS: list[tuple[str, Variant, Coding]] = [
    ("discs_again.mkv", Variant("discs.mp4", "re-encoded"), Coding("hevc", 30)),
    ("pans_small.mp4", Variant("pans.mp4", "half size", scale=0.5), Coding("h264", 26)),
    ("flower_cropped.mp4", Variant("flower.mp4", "10 % crop", crop=0.1), Coding("h264", 22)),
    ("squares_bright.mp4", Variant("squares.webm", "brighter", gain=1.1, lift=14), Coding("h264", 23)),
    ("temple_part.webm", Variant("temple.mp4", "trimmed, half size", head=0.2, tail=0.1, scale=0.5), Coding("vp9", 34)),
    ("petals_logo.mp4", Variant("petals.mp4", "with a logo"), Coding("h264", 23)),
]


def _variant(film: Film, file: str, change: Variant, coding: Coding) -> Film:
    logo = Logo("bottom left", 1.0, "cross", "teal", 0.15) if "logo" in change.how else film.logo
    return replace(film, file=file, variant=change, coding=coding, original=film.file, logo=logo, sidecar=None)


def _textured(film: Film, textures: tuple[str, ...], place: int) -> Film:
    chosen = [textures[(place + index) % len(textures)] for index in range(len(film.shots))]
    return replace(film, shots=tuple(_retextured(shot, texture) for shot, texture in zip(film.shots, chosen)))


def _retextured(shot: Shot, texture: str) -> Shot:
    if shot.scene.background in PHOTO_CROPS or shot.scene.background == "quadrants":
        return shot
    return replace(shot, scene=replace(shot.scene, background=texture))
