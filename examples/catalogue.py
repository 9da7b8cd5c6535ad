"""The films of the generated footage: what is in which file. Rendering is elsewhere; this is a list to read."""

from __future__ import annotations

from dataclasses import replace

from .effects import Border, Logo, Look
from .encode import Coding
from .films import Film, Shot, Variant
from .scenes import Scene
from .textures import PHOTO_CROPS

# One line per shot: background, its two colours, camera move, seconds, how the next shot follows.
Line = tuple[str, str, str, str, float, str]


def _shots(
    thing: str, colour: str, *lines: Line, standing: int = 5, moving: int = 4, speed: float = 0.12
) -> tuple[Shot, ...]:
    """Shots of one kind of thing. With a static camera the things move; else they stand and the camera moves."""
    return tuple(_shot(thing, colour, line, standing, moving, speed) for line in lines)


def _shot(thing: str, colour: str, line: Line, standing: int, moving: int, speed: float) -> Shot:
    background, first, second, move, seconds, join = line
    moves_itself = move == "static"
    slow = 0.6 if move.startswith(("around", "zoom")) else 1.0
    scene = Scene(background, (first, second), thing, colour, move=move, speed=speed * slow,
                  standing=0 if moves_itself else standing, moving=moving if moves_itself else 0)  # fmt: skip
    return Shot(scene, seconds, join=join)


def _look(shots: tuple[Shot, ...], *looks: Look | None) -> tuple[Shot, ...]:
    return tuple(replace(shot, look=look or Look()) for shot, look in zip(shots, looks))


def _flat(background: str, move: str, seconds: float, join: str = "cut", speed: float = 0.12) -> Shot:
    """A photograph or a wall filmed without anything before it."""
    return Shot(Scene(background, ("blue", "sand"), standing=0, moving=0, move=move, speed=speed), seconds, join=join)


def films(textures: tuple[str, ...] = ()) -> list[Film]:
    """All films, variants behind their originals. textures: backgrounds to use instead of the procedural ones."""
    originals = [*_moving_things(), *_camera_moves(), *_photographs(), *_joins(), *_faults(), *_containers()]
    if textures:
        originals = [_textured(film, textures, place) for place, film in enumerate(originals)]
    by_name = {film.file: film for film in originals}
    return originals + [_variant(by_name[change.of], file, change, coding) for file, change, coding in VARIANTS]


def _moving_things() -> list[Film]:
    discs = _shots("disc", "red", ("gradient", "blue", "white", "static", 2.5, "cut"), ("tiles", "teal", "navy", "static", 2.5, "cut"),
                   ("clouds", "black", "grey", "static", 2.5, "cut"))  # fmt: skip
    stars = _shots(
        "star",
        "yellow",
        ("clouds", "navy", "purple", "static", 3.0, "cut"),
        ("bricks", "brown", "sand", "static", 2.5, "cut"),
    )
    squares = _shots("square", "blue", ("waves", "sand", "orange", "static", 2.5, "cut"), ("gradient", "white", "pink", "static", 2.0, "cut"),
                     ("dots", "green", "yellow", "static", 2.5, "cut"))  # fmt: skip
    triangles = _shots(
        "triangle",
        "green",
        ("stripes", "white", "grey", "static", 2.5, "cut"),
        ("clouds", "red", "orange", "static", 2.5, "cut"),
    )
    rings = _shots(
        "ring",
        "white",
        ("tiles", "red", "brown", "static", 2.5, "dissolve"),
        ("gradient", "navy", "teal", "static", 2.5, "cut"),
    )
    return [
        Film(
            "discs.mp4",
            320,
            180,
            24,
            discs,
            "discs",
            "Red discs fly over changing backgrounds while the camera stands still.",
        ),
        Film(
            "stars.mp4",
            320,
            180,
            30,
            stars,
            "stars",
            "Yellow stars drift over a dark sky and a brick wall.",
            coding=Coding("hevc", 22),
        ),
        Film(
            "squares.webm",
            256,
            256,
            25,
            squares,
            "squares",
            "Blue squares float over bright patterns.",
            "json",
            coding=Coding("vp9", 24),
        ),
        Film(
            "triangles.mp4",
            180,
            320,
            30,
            triangles,
            "triangles",
            "Green triangles fly over stripes and red clouds, upright video.",
        ),
        Film(
            "rings.mkv",
            320,
            240,
            25,
            rings,
            "rings",
            "White rings turn in front of coloured surfaces.",
            coding=Coding("mpeg4", 4),
        ),
    ]


def _camera_moves() -> list[Film]:
    pans = _shots("tree", "green", ("city", "teal", "grey", "pan left", 2.5, "cut"), ("clouds", "blue", "white", "pan right", 2.5, "cut"),
                  ("bricks", "red", "sand", "pan up", 2.5, "cut"), ("dots", "sand", "brown", "pan down", 2.5, "cut"))  # fmt: skip
    tilts = _shots("post", "orange", ("city", "navy", "brown", "tilt left", 2.5, "cut"), ("waves", "teal", "white", "tilt right", 2.5, "cut"),
                   ("clouds", "purple", "pink", "tilt up", 2.5, "cut"), ("tiles", "grey", "white", "tilt down", 2.5, "cut"))  # fmt: skip
    zooms = _shots("cross", "purple", ("city", "sand", "blue", "zoom in", 2.5, "cut"), ("stripes", "green", "yellow", "zoom out", 2.5, "cut"),
                   ("dots", "white", "red", "zoom in", 2.5, "cut"))  # fmt: skip
    around = _shots(
        "tree",
        "pink",
        ("clouds", "teal", "sand", "around left", 3.0, "cut"),
        ("tiles", "navy", "grey", "around right", 3.0, "cut"),
    )
    handheld = _shots(
        "post",
        "yellow",
        ("city", "blue", "red", "handheld", 3.0, "cut"),
        ("bricks", "grey", "white", "handheld", 2.5, "cut"),
        speed=0.2,
    )
    roll = _shots(
        "cross",
        "teal",
        ("waves", "orange", "brown", "roll", 2.5, "cut"),
        ("tiles", "pink", "white", "roll", 2.5, "cut"),
    )
    shake = _shots("square", "orange", ("clouds", "green", "white", "shake", 4.0, "cut"), speed=0.9)
    return [
        Film("pans.mp4", 384, 216, 24, pans, "trees", "Green trees before walls and houses; the camera pans."),
        Film(
            "tilts.mp4", 320, 180, 25, tilts, "posts", "Orange posts before coloured walls; the camera tilts.", "json"
        ),
        Film("zooms.mp4", 320, 240, 24, zooms, "crosses", "Purple crosses before bright patterns; the camera zooms."),
        Film(
            "around.mp4",
            384,
            216,
            30,
            around,
            "trees",
            "Pink trees; the camera moves around them.",
            coding=Coding("av1", 32),
        ),
        Film("handheld.mp4", 320, 180, 30, handheld, "posts", "Yellow posts in a city, filmed with a handheld camera."),
        Film("roll.mp4", 256, 256, 24, roll, "crosses", "Teal crosses; the camera rolls.", None),
        Film(
            "shake.mp4", 320, 180, 30, shake, "squares", "Orange squares before green clouds; the camera shakes hard."
        ),
    ]


def _photographs() -> list[Film]:
    temple = (_flat("temple", "pan left", 4.0),)
    roofs = (
        _flat("temple_left", "zoom in", 2.5, speed=0.06),
        _flat("temple_right", "tilt right", 2.5),
        _flat("garden_right", "zoom out", 2.5, speed=0.06),
    )
    flower = (_flat("flower", "zoom out", 3.0, "dissolve", 0.07), _flat("leaves", "pan right", 3.0))
    petals = _shots(
        "disc",
        "blue",
        ("petals", "red", "red", "static", 3.0, "cut"),
        ("garden_left", "red", "red", "static", 3.0, "cut"),
        moving=5,
    )
    return [
        Film(
            "temple.mp4",
            640,
            360,
            24,
            temple,
            "photograph",
            "A photograph of a Chinese temple; the camera pans left.",
            coding=Coding("h264", 18),
        ),
        Film("roofs.mov", 384, 256, 24, roofs, "photograph", "Photographs of a Chinese temple and its garden."),
        Film(
            "flower.mp4",
            480,
            320,
            25,
            flower,
            "photograph",
            "A photograph of an orange flower with green leaves.",
            "json",
        ),
        Film("petals.mp4", 320, 240, 30, petals, "photograph", "Blue discs fly over photographs."),
    ]


def _joins() -> list[Film]:
    dissolves = _shots("star", "pink", ("tiles", "navy", "blue", "static", 2.6, "dissolve"), ("clouds", "orange", "yellow", "static", 2.6, "dissolve"),
                       ("stripes", "black", "green", "static", 2.6, "dissolve"), ("gradient", "white", "teal", "static", 2.6, "cut"))  # fmt: skip
    dissolves = tuple(replace(shot, join_frames=frames) for shot, frames in zip(dissolves, (8, 16, 24, 0)))
    fades = _shots("triangle", "red", ("waves", "white", "teal", "static", 2.4, "fade"), ("city", "sand", "navy", "pan right", 2.4, "fade"),
                   ("dots", "yellow", "orange", "static", 2.4, "cut"))  # fmt: skip
    fades = tuple(replace(shot, join_frames=frames) for shot, frames in zip(fades, (16, 28, 0)))
    flashes = _look(_shots("ring", "purple", ("clouds", "green", "sand", "static", 3.0, "cut"), ("bricks", "blue", "white", "static", 3.0, "cut")),
                    Look(flashes=(0.3, 0.7)), Look(flashes=(0.5,)))  # fmt: skip
    rapid = _shots("disc", "green", ("tiles", "white", "black", "static", 1.2, "cut"), ("clouds", "red", "white", "static", 1.2, "cut"),
                   ("gradient", "yellow", "orange", "static", 1.2, "cut"), ("waves", "navy", "blue", "static", 1.2, "cut"),
                   ("city", "pink", "grey", "static", 0.5, "cut"), ("dots", "teal", "sand", "static", 1.2, "cut"))  # fmt: skip
    return [
        Film("dissolves.mp4", 320, 180, 24, dissolves, "stars", "Pink stars; the pictures melt into each other."),
        Film(
            "fades.mp4",
            320,
            180,
            30,
            fades,
            "triangles",
            "Red triangles; the pictures fade to black and back.",
            opens=12,
            closes=15,
        ),
        Film("flashes.mp4", 320, 240, 30, flashes, "rings", "Purple rings under flashing light."),
        Film("rapid.mp4", 256, 144, 60, rapid, "discs", "Green discs in quick succession of backgrounds.", None),
    ]


def _faults() -> list[Film]:
    talk = _look(_shots("tree", "brown", ("city", "teal", "sand", "pan right", 3.0, "cut"), ("clouds", "grey", "white", "tilt left", 3.0, "cut")),
                 Look(subtitle="Where did all the trees go?"), Look(subtitle="Nobody knows for sure."))  # fmt: skip
    title = _look(_shots("star", "white", ("gradient", "purple", "navy", "static", 2.5, "cut"), ("waves", "green", "teal", "static", 2.5, "cut")),
                  Look(title="CHAPTER ONE"), None)  # fmt: skip
    logo = _shots("cross", "red", ("bricks", "teal", "white", "pan left", 2.5, "cut"), ("stripes", "orange", "brown", "static", 2.5, "cut"),
                  ("clouds", "navy", "grey", "zoom in", 2.5, "cut"))  # fmt: skip
    mark = _shots("square", "green", ("dots", "pink", "white", "static", 2.5, "cut"), ("city", "yellow", "brown", "pan up", 2.5, "cut"),
                  ("tiles", "blue", "teal", "static", 2.5, "cut"))  # fmt: skip
    letter = _shots(
        "disc",
        "orange",
        ("waves", "blue", "teal", "static", 2.5, "cut"),
        ("city", "purple", "grey", "tilt right", 2.5, "cut"),
    )
    pillar = _shots("triangle", "yellow", ("clouds", "brown", "red", "pan down", 3.0, "cut"))
    frame = _shots("ring", "blue", ("stripes", "sand", "white", "static", 3.0, "cut"))
    blurred = _look(_shots("star", "red", ("bricks", "sand", "green", "static", 2.5, "cut"), ("dots", "grey", "navy", "pan left", 2.5, "cut")),
                    Look(blur_px=4.0), Look(blur_px=5.5))  # fmt: skip
    half = _look(
        _shots(
            "cross",
            "yellow",
            ("tiles", "purple", "black", "static", 2.5, "cut"),
            ("waves", "pink", "red", "static", 2.5, "cut"),
        ),
        Look(blur_px=4.5),
        None,
    )
    noisy = _look(_shots("square", "white", ("gradient", "teal", "navy", "static", 2.5, "cut"), ("clouds", "orange", "red", "pan right", 2.5, "cut")),
                  Look(noise=18), Look(noise=28))  # fmt: skip
    light = _look(_shots("disc", "purple", ("dots", "sand", "yellow", "static", 2.5, "cut"), ("stripes", "blue", "green", "static", 2.5, "cut"),
                         ("bricks", "orange", "white", "static", 2.5, "cut")), Look(gain=2.6, lift=40), Look(gain=0.16), None)  # fmt: skip
    still = (_flat("tiles", "static", 3.0), _flat("garden_left", "static", 3.0), _flat("stripes", "static", 2.5))
    return [
        Film("subtitles.mp4", 480, 270, 24, talk, "trees", "Brown trees in a city, with subtitles."),
        Film("title.mp4", 480, 270, 24, title, "stars", "White stars with a title in large letters.", None),
        Film(
            "logo.mp4",
            384,
            216,
            25,
            logo,
            "crosses",
            "Red crosses before walls, with a logo in the corner.",
            logo=Logo("top right", 1.0, "star", "yellow", 0.2),
        ),
        Film(
            "watermark.mp4",
            384,
            216,
            24,
            mark,
            "squares",
            "Green squares under a watermark.",
            logo=Logo("middle", 0.5, "ring", "white", 0.4),
        ),
        Film(
            "letterbox.mp4",
            320,
            240,
            25,
            letter,
            "discs",
            "Orange discs between black bars.",
            border=Border(top=30, bottom=30),
        ),
        Film(
            "pillarbox.mp4",
            426,
            240,
            25,
            pillar,
            "triangles",
            "Yellow triangles between grey pillars.",
            border=Border(left=62, right=64, colour=(90, 90, 90)),
        ),
        Film(
            "frame.mp4",
            320,
            240,
            24,
            frame,
            "rings",
            "Blue rings in a white frame.",
            None,
            border=Border(16, 12, 16, 12, (235, 235, 235)),
        ),
        Film("blurred.mp4", 320, 240, 25, blurred, "stars", "Red stars, out of focus.", None),
        Film("half_blurred.mp4", 320, 180, 24, half, "crosses", "Yellow crosses, first out of focus, then sharp."),
        Film("noisy.mp4", 320, 180, 24, noisy, "squares", "White squares, grainy picture.", coding=Coding("h264", 24)),
        Film("light.mp4", 320, 180, 25, light, "discs", "Purple discs in too much and too little light.", None),
        Film("still.mp4", 320, 240, 24, still, "still", "Pictures without any motion."),
    ]


def _containers() -> list[Film]:
    uneven = _shots("triangle", "pink", ("city", "green", "sand", "pan left", 3.5, "cut"), ("gradient", "black", "blue", "static", 3.0, "cut"),
                    ("tiles", "orange", "yellow", "static", 3.0, "cut"))  # fmt: skip
    turned = _shots(
        "ring",
        "white",
        ("quadrants", "red", "red", "static", 2.5, "cut"),
        ("bricks", "purple", "pink", "static", 2.5, "cut"),
        moving=3,
    )
    slow = _shots(
        "tree",
        "navy",
        ("clouds", "sand", "yellow", "pan right", 4.0, "cut"),
        ("waves", "grey", "green", "around right", 4.0, "cut"),
    )
    lossless = _shots(
        "star",
        "orange",
        ("dots", "navy", "teal", "static", 2.5, "cut"),
        ("stripes", "purple", "white", "zoom out", 2.5, "cut"),
    )
    stream = _shots(
        "cross",
        "green",
        ("tiles", "sand", "brown", "pan up", 2.5, "cut"),
        ("clouds", "pink", "purple", "static", 2.5, "cut"),
    )
    broken = _shots(
        "square",
        "yellow",
        ("waves", "navy", "purple", "static", 3.0, "cut"),
        ("bricks", "green", "black", "static", 3.0, "cut"),
    )
    return [
        Film("uneven.mp4", 320, 180, 60, uneven, "triangles", "Pink triangles, at a variable frame rate.", uneven=True),
        Film(
            "turned.mp4",
            180,
            320,
            24,
            turned,
            "rings",
            "White rings over four coloured fields, filmed upright.",
            rotation=90,
        ),
        Film(
            "slow.avi",
            320,
            180,
            12,
            slow,
            "trees",
            "Dark trees before pale clouds, few frames per second.",
            coding=Coding("mpeg4", 3),
        ),
        Film(
            "lossless.mkv", 256, 144, 24, lossless, "stars", "Orange stars, stored without loss.", coding=Coding("ffv1")
        ),
        Film(
            "stream.ts",
            320,
            180,
            30000 / 1001,
            stream,
            "crosses",
            "Green crosses, a stream whose clock starts late.",
            None,
        ),
        Film("truncated.mp4", 320, 180, 25, broken, "squares", "Yellow squares; the file is cut off in the middle."),
    ]


VARIANTS: list[tuple[str, Variant, Coding]] = [
    ("discs_again.mkv", Variant("discs.mp4", "re-encoded"), Coding("hevc", 30)),
    ("pans_small.mp4", Variant("pans.mp4", "half size", scale=0.5), Coding("h264", 26)),
    ("flower_cropped.mp4", Variant("flower.mp4", "10 % crop", crop=0.1), Coding("h264", 22)),
    ("squares_bright.mp4", Variant("squares.webm", "brighter", gain=1.1, lift=14), Coding("h264", 23)),
    (
        "temple_part.webm",
        Variant("temple.mp4", "trimmed and re-encoded", head=0.2, tail=0.1, scale=0.5),
        Coding("vp9", 34),
    ),
    ("petals_logo.mp4", Variant("petals.mp4", "with a logo"), Coding("h264", 23)),
]


def _variant(film: Film, file: str, change: Variant, coding: Coding) -> Film:
    logo = Logo("bottom left", 1.0, "cross", "teal", 0.15) if "logo" in change.how else film.logo
    return replace(film, file=file, variant=change, coding=coding, original=film.file, logo=logo, sidecar=None)


def _textured(film: Film, textures: tuple[str, ...], place: int) -> Film:
    shots = tuple(_retextured(shot, textures[(place + index) % len(textures)]) for index, shot in enumerate(film.shots))
    return replace(film, shots=shots)


def _retextured(shot: Shot, texture: str) -> Shot:
    if shot.scene.background in PHOTO_CROPS or shot.scene.background == "quadrants":
        return shot
    return replace(shot, scene=replace(shot.scene, background=texture))
