"""The tables of a workspace: their columns, their fingerprints, their parts.

A table is a folder `<name>-<fp8>/` of immutable Parquet parts, one part per unit of work. The fingerprint covers the
settings that made the rows and a version that changes only when the rows change; the settings lie beside the parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from media import storage
from pipelines import Recipe, fingerprint

VIDEOS_VERSION = 1  # raised when a row of `videos` changes for reasons that no setting tells

text, real, whole, flag = pa.string(), pa.float64(), pa.int64(), pa.bool_()

SCHEMAS: dict[str, pa.Schema] = {
    "files": pa.schema(
        {"path": text, "bytes": whole, "tag": text, "video_id": text, "unit": pa.int32(), "alias": flag}
    ),
    "videos": pa.schema(
        {"video_id": text, "path": text, "bytes": whole, "tag": text, "media": text, "container": text, "codec": text}
        | {"width": pa.int32(), "height": pa.int32(), "fps_num": whole, "fps_den": whole, "duration_s": real}
        | {"rotation_deg": real, "transfer": text, "primaries": text, "color_range": text}
        | {"sar_num": whole, "sar_den": whole, "audio_tracks": pa.int32()}
        | {"frames_declared": whole, "frames_decoded": whole, "status": text, "reason": text}
    ),
    "clips": pa.schema(
        {"clip_id": text, "video_id": text, "path": text, "media": text, "shot": pa.int32(), "span": pa.int32()}
        | {"shot_start_s": real, "shot_end_s": real, "shot_start_tick": whole, "shot_end_tick": whole}
        | {"tb_num": whole, "tb_den": whole, "start_s": real, "end_s": real, "start_tick": whole, "frames": pa.int32()}
        | {"start_kind": text, "end_kind": text, "start_confidence": real, "end_confidence": real}
        | {"width": pa.int32(), "height": pa.int32(), "fps": real, "status": text, "reason": text}
    ),
    "proxies": pa.schema({"clip_id": text, "times_s": pa.list_(real), "jpegs": pa.list_(pa.binary())}),
    "hashes": pa.schema({"clip_id": text, "times_s": pa.list_(real), "hashes": pa.list_(pa.uint64())}),
    "embeddings": pa.schema({"clip_id": text, "vector": pa.list_(pa.float32())}),
    "captions": pa.schema({"clip_id": text, "caption": text, "source": text, "texts": pa.list_(text)}),
    "concepts": pa.schema(
        {"clip_id": text, "concept": pa.int32(), "distance": real, "duplicate_of": text, "similarity": real}
    ),
    "ledger": pa.schema({"clip_id": text, "kept": flag, "reason": text, "weight": real, "split": text}),
}

ORDER = ("clip_id", "path", "video_id")  # what a table is sorted by: the first of these it has


def part_name(unit: int) -> str:
    return f"unit-{unit:05d}.parquet"


def scores_schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema({"clip_id": text} | columns)


def typed(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows -> a table of exactly this schema. Raises ValueError on a column the schema lacks."""
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are not in the table's schema {schema.names}")
    return pa.Table.from_pylist(rows, schema=schema)


def write_part(path: str, table: pa.Table, notes: dict[str, str] | None = None) -> None:
    """A part, whole or not at all; notes travel in the file's own metadata."""
    with storage.writing(path) as file:
        pq.write_table(_noted(table, notes), file, compression="zstd")


def read_part(path: str, columns: list[str] | None = None) -> pa.Table:
    with storage.open_read(path) as file:
        return pq.read_table(file, columns=columns)


def part_notes(path: str) -> dict[str, str]:
    """The notes of a part that exists, else nothing."""
    if not storage.exists(path):
        return {}
    with storage.open_read(path) as file:
        metadata = pq.read_schema(file).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def _noted(table: pa.Table, notes: dict[str, str] | None) -> pa.Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **(notes or {})})


def sort(table: pa.Table) -> pa.Table:
    key = next(name for name in ORDER if name in table.column_names)
    return table.sort_by(key)


class Tables:
    """The tables that a recipe's settings name in its workspace, forgotten rows taken out."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.workspace = storage.absolute(recipe.workspace)

    # ------------------------------------------------------------------------------------------------- fingerprints

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """For every table the settings that make its rows: what its fingerprint covers."""
        from curate.caption import RENDER_VERSION
        from curate.colours import COLOURS_VERSION
        from curate.concepts import concepts_settings
        from curate.embed import embed_settings, same
        from curate.hashes import HASH_VERSION
        from curate.proxies import PROXY_VERSION
        from curate.shots import SHOTS_VERSION
        from curate.signals import SIGNALS

        curate = self.recipe.curate
        plain = curate.model_dump(mode="json")
        clips = {"shots": plain["shots"], "start": plain["start"], "version": SHOTS_VERSION}
        found: dict[str, dict[str, Any]] = {
            "videos": {"version": VIDEOS_VERSION},
            "clips": clips,
            "proxies": {"clips": clips, "proxies": plain["proxies"], "version": PROXY_VERSION},
            "hashes": {"clips": clips, "version": HASH_VERSION},
        }
        for name in self.signals:
            signal = SIGNALS[name]
            upon = found["proxies"] if signal.source == "proxies" else clips
            found[f"scores.{name}"] = {"upon": upon, "signal": plain["signals"][name], "version": signal.encode_version}
        found["embeddings"] = {
            "proxies": found["proxies"],
            "embed": embed_settings(curate.embed),
        }
        scores = {name: fingerprint(found[f"scores.{name}"]) for name in self.signals}
        found["captions"] = {
            "proxies": found["proxies"],
            "colours": COLOURS_VERSION,
            "scores": scores,
            "variants": self.recipe.cache.caption_variants,
            "version": RENDER_VERSION,
        }
        found["concepts"] = {
            "embeddings": found["embeddings"],
            "hashes": found["hashes"],
            "concepts": concepts_settings(curate.concepts, same(curate.embed)),
            "scores": scores,
        }
        return found

    @property
    def signals(self) -> list[str]:
        """Names of the signals that are on, in the order of SIGNALS."""
        from curate.signals import SIGNALS

        return [name for name in SIGNALS if getattr(self.recipe.curate.signals, name) is not None]

    def schema(self, name: str) -> pa.Schema:
        if name.startswith("scores."):
            from curate.signals import SIGNALS

            return scores_schema(SIGNALS[name.removeprefix("scores.")].columns)
        return SCHEMAS[name]

    def folder(self, name: str) -> str:
        if name in ("files", "forgotten"):
            return storage.join(self.workspace, name)
        return storage.join(self.workspace, f"{name}-{fingerprint(self.settings[name])}")

    def part(self, name: str, unit: int) -> str:
        return storage.join(self.folder(name), part_name(unit))

    def whole(self, name: str) -> str:
        """The single file of a table that is made in one piece (concepts)."""
        return storage.join(self.folder(name), "all.parquet")

    def set_settings(self, set_name: str) -> dict[str, Any]:
        """What decides a set's ledger, its picks left out (they are data)."""
        from curate.select import LEDGER_VERSION

        recipe, chosen = self.recipe, self.recipe.sets[set_name]
        bounds = {score: bound.model_dump() for score, bound in sorted(recipe.bounds(set_name).items())}
        return {
            "concepts": fingerprint(self.settings["concepts"]),
            "bounds": bounds,
            "media": recipe.media(set_name),
            "picked": chosen.clips is not None,
            "law": recipe.curate.concepts.law,
            "val_share": recipe.curate.val_share,
            "version": LEDGER_VERSION,
        }

    def ledger_path(self, set_name: str) -> str:
        made_by = fingerprint(self.set_settings(set_name))
        return storage.join(self.workspace, "sets", f"{set_name}-{made_by}", "all.parquet")

    def write_settings(self, name: str) -> None:
        """settings.json beside the parts: what the fingerprint stands for, in full."""
        path = storage.join(self.folder(name), "settings.json")
        if not storage.exists(path):
            storage.write_bytes(path, json.dumps(self.settings[name], indent=1, sort_keys=True).encode())

    # ------------------------------------------------------------------------------------------------------ reading

    def parts(self, name: str) -> list[str]:
        return [entry.path for entry in storage.find(self.folder(name), ".parquet")]

    def iter_parts(self, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """One part at a time, forgotten and superseded rows left out. Raises FileNotFoundError when there is none."""
        parts = self.parts(name)
        if not parts:
            raise FileNotFoundError(f"{self.folder(name)}: no such table, run `curate` first")
        for path in parts:
            yield self.alive(read_part(path, columns))

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole table, sorted by its key."""
        wanted = None if columns is None else list(dict.fromkeys([*columns, *self._keys(name)]))
        table = pa.concat_tables(list(self.iter_parts(name, wanted)))
        return sort(table) if columns is None else sort(table).select(columns)

    def ledger(self, set_name: str) -> pa.Table:
        """Every clip, kept or dropped, of a set. Forgotten clips are not in it, at once."""
        path = self.ledger_path(set_name)
        if not storage.exists(path):
            raise FileNotFoundError(f"{path}: set '{set_name}' is not made yet, run `curate` first")
        return sort(self.alive(read_part(path)))

    def _keys(self, name: str) -> list[str]:
        """What rows are forgotten by, and what the table is sorted by."""
        names = self.schema(name).names
        return [key for key in names if key in ("clip_id", "video_id")] + [next(key for key in ORDER if key in names)]

    @cached_property
    def _gone_videos(self) -> pa.Array:
        return pa.array(sorted(forgotten(self.workspace)["videos"] | superseded(self.files())), text)

    @cached_property
    def _gone_clips(self) -> pa.Array:
        return pa.array(sorted(forgotten(self.workspace)["clips"] | self._clips_of_gone_videos()), text)

    def _clips_of_gone_videos(self) -> set[str]:
        if not len(self._gone_videos):
            return set()
        clips: set[str] = set()
        for path in self.parts("clips"):
            part = read_part(path, ["clip_id", "video_id"])
            clips |= set(part.filter(pc.is_in(part["video_id"], self._gone_videos))["clip_id"].to_pylist())
        return clips

    def alive(self, table: pa.Table) -> pa.Table:
        """The rows that are neither forgotten nor superseded."""
        if "video_id" in table.column_names and len(self._gone_videos):
            table = table.filter(pc.invert(pc.is_in(table["video_id"], self._gone_videos)))
        if "clip_id" in table.column_names and len(self._gone_clips):
            table = table.filter(pc.invert(pc.is_in(table["clip_id"], self._gone_clips)))
        return table

    def crops(self) -> dict[str, tuple[int, int, int, int]]:
        """clip_id -> px that curation cuts off (left, top, right, bottom of the upright picture), where it cuts something."""
        from curate.grouping import scored

        cut = scored(self, None).select(["clip_id", "crop_left", "crop_top", "crop_right", "crop_bottom"])
        columns = [cut[name].to_pylist() for name in cut.column_names]
        return {row[0]: row[1:] for row in zip(*columns, strict=True) if any(row[1:])}

    def files(self) -> pa.Table:
        """Every file ever seen, the newest row of a path last."""
        parts = [read_part(path) for path in self.parts("files")]
        return pa.concat_tables([SCHEMAS["files"].empty_table(), *parts])


def superseded(files: pa.Table) -> set[str]:
    """Videos whose every path now holds other content."""
    latest: dict[str, str] = dict(zip(files["path"].to_pylist(), files["video_id"].to_pylist(), strict=True))
    return set(files["video_id"].to_pylist()) - set(latest.values())


def forgotten(workspace: str) -> dict[str, set[str]]:
    """Tombstones: {"videos": ids, "clips": ids}."""
    found: dict[str, set[str]] = {"videos": set(), "clips": set()}
    for entry in storage.find(storage.join(workspace, "forgotten"), ".json"):
        stone = json.loads(storage.read_bytes(entry.path))
        found[stone["kind"]].add(stone["id"])
    return found
