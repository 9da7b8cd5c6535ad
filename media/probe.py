"""What a file is, from its head: video, image, or nothing of ours. A broken file is an answer, not an exception."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from typing import Any

import av
import av.error

from media import storage
from media.colour import PRIMARIES, RANGES, TRANSFERS
from media.upright import Upright, from_matrix

# The decoder may open these containers and nothing else: no playlists, no devices, no text that is drawn as video.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,flv,live_flv,mpegts,mpegtsraw,mpeg,mpegvideo,ogg,asf,asf_o,mxf,nut,gif,apng,ivf,obu,h261,h263,"
    "h264,hevc,vvc,m4v,vc1,dv,gxf,rm,wtv,yuv4mpegpipe,cavsvideo,dirac,mjpeg,mjpeg_2000,av1,swf,nsv,bink,smk,roq,film_cpk"
)
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".flv", ".f4v", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg",
    ".m2v", ".ogv", ".ogg", ".wmv", ".asf", ".mxf", ".3gp", ".3g2", ".nut", ".y4m", ".ivf", ".vob", ".dv", ".gif",
    ".h264", ".h265", ".hevc", ".264", ".265", ".rm", ".rmvb", ".wtv", ".av1", ".obu",
))  # fmt: skip
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm",
    ".jp2",
))  # fmt: skip
IMAGE_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"P5\n",
    b"P6\n",
    b"\x00\x00\x00\x0cjP  ",
)


@dataclass(frozen=True)
class Probe:
    """The header of a file. width, height: px of the upright picture with square pixels; unknown is None.

    status: ok | failed | unsupported; reason says why it is not ok. frames_declared: what the container promises.
    """

    media: str
    status: str = "ok"
    reason: str | None = None
    container: str | None = None
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    fps_num: int | None = None
    fps_den: int | None = None
    duration_s: float | None = None
    rotation_deg: int = 0
    transfer: str | None = None
    primaries: str | None = None
    color_range: str | None = None
    sar_num: int = 1
    sar_den: int = 1
    audio_tracks: int = 0
    frames_declared: int | None = None


def probe(path: str) -> Probe:
    """The header of a local file or an object; never raises for what is in it. Decodes one picture at most."""
    kind, reason = classify(path)
    if kind == "unsupported":
        return Probe("unsupported", "unsupported", reason)
    if reason:
        return Probe(kind, "failed", reason)
    if kind == "image":
        from media.still import probe_still

        return probe_still(path)
    try:
        with open_container(path) as container:
            return _first_picture(container, path)
    except Unplayable as why:
        return why.verdict


class Unplayable(Exception):
    """A container that gives no video; `verdict` is its Probe."""

    def __init__(self, verdict: Probe):
        super().__init__(verdict.reason)
        self.verdict = verdict


def classify(path: str) -> tuple[str, str | None]:
    """(video | image | unsupported, reason why it can't be read or None), from the first bytes and the name."""
    suffix = os.path.splitext(path)[1].lower()
    named = "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else "unsupported"
    try:
        head = _head(path)
    except (OSError, ValueError) as error:
        return (named, f"cannot be read: {error}")
    if not head:
        return (named, "the file is empty" if named != "unsupported" else "not media: the file is empty")
    if head.startswith(IMAGE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] == b"ftypavif":
        return ("image", None)
    if named == "image":
        return ("image", "no image format is known that starts like this")
    return ("video", None)


def _head(path: str) -> bytes:
    if not storage.is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a regular file")
    with storage.open_read(path) as file:
        return file.read(64)


def open_container(path: str, threads: int = 1) -> Any:
    """An open PyAV input whose decoder is set up; the caller closes it. Raises Unplayable."""
    named = os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    source = storage.open_read(path) if storage.is_remote(path) else "file:" + os.path.abspath(path)
    try:
        container = av.open(source, options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if named:
            raise Unplayable(Probe("video", "failed", f"cannot be opened: {_say(error)}")) from error
        raise Unplayable(Probe("unsupported", "unsupported", "not media: neither a video nor an image")) from error
    try:
        stream = video_stream(container)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
    except Unplayable:
        container.close()
        raise
    return container


def video_stream(container: Any) -> Any:
    """The first moving-picture stream (cover art is none). Raises Unplayable."""
    pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not pictures:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no stream"
        raise Unplayable(Probe("unsupported", "unsupported", f"no video stream ({kinds})", container.format.name))
    playable = [s for s in pictures if s.codec_context is not None]
    if not playable:
        verdict = Probe("video", "failed", "no decoder for its codec", container.format.name)
        raise Unplayable(verdict)
    return playable[0]


def header(container: Any) -> Probe:
    """Probe of an open container, without the rotation: that is known with the first picture."""
    stream = video_stream(container)
    codec, rate = stream.codec_context, stream.average_rate or stream.guessed_rate
    sar = _square(stream.sample_aspect_ratio)
    return Probe(
        "video", container=container.format.name, codec=codec.name,
        width=codec.width or None, height=codec.height or None,
        fps_num=rate.numerator if rate else None, fps_den=rate.denominator if rate else None,
        duration_s=declared_s(container, stream), transfer=TRANSFERS.get(int(codec.color_trc)),
        primaries=PRIMARIES.get(int(codec.color_primaries)), color_range=RANGES.get(int(codec.color_range)),
        sar_num=sar[0], sar_den=sar[1], audio_tracks=len(container.streams.audio),
        frames_declared=stream.frames or None,
    )  # fmt: skip


def declared_s(container: Any, stream: Any) -> float | None:
    """Length in seconds that the header promises for the video, else for the whole file."""
    if stream.duration is not None and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION")
    if tag:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return container.duration / 1e6 if container.duration and container.duration > 0 else None


def turned(head: Probe, upright: Upright, width: int, height: int) -> Probe:
    """Width, height and rotation as a decoded picture of width x height stored px shows them."""
    width, height = upright.size(*display_size(width, height, head.sar_num, head.sar_den))
    return replace(head, width=width, height=height, rotation_deg=upright.rotation_deg)


def display_size(width: int, height: int, sar_num: int, sar_den: int) -> tuple[int, int]:
    """Stored size -> size with square pixels: the height stays, the width is stretched."""
    return max(1, round(width * sar_num / sar_den)), height


def upright_of(picture: Any) -> Upright:
    """From the display matrix in a picture's side data."""
    try:
        matrix = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know every kind of side data that the library under it has: the angle remains
        return {-90: Upright(True, True, False), 90: Upright(True, False, True), 180: Upright(False, True, True),
                -180: Upright(False, True, True)}.get(round(picture.rotation / 90) * 90, Upright())  # fmt: skip
    return from_matrix(bytes(matrix)) if matrix is not None else Upright()


def _square(sar: Any) -> tuple[int, int]:
    """Sample aspect ratio, 1:1 where it is absent or absurd."""
    if not sar or not 0.25 <= sar <= 4:
        return 1, 1
    return sar.numerator, sar.denominator


def _first_picture(container: Any, path: str) -> Probe:
    head = header(container)
    try:
        picture = next(iter(container.decode(video_stream(container))), None)
    except (av.error.FFmpegError, ValueError) as error:
        return replace(head, status="failed", reason=f"no frame could be decoded: {_say(error)}")
    if picture is None:
        return replace(head, status="failed", reason="no frame could be decoded")
    return turned(head, upright_of(picture), picture.width, picture.height)


def _say(error: BaseException) -> str:
    """The decoder's words without its numbers and the file's path."""
    text = getattr(error, "strerror", None) or str(error)
    return text.strip() or type(error).__name__
