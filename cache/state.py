"""What of a bucket is made: its plan, index and failures, brought into line with the tars that are there.

A tar that is there whole is done; the tables only say quickly what is in it, and are made again from it when a run was
killed before it wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cache import index as tables
from cache.fingerprint import CacheError
from cache.shards import Place, complete, scan, set_aside
from media import storage


class BucketState:
    """made: numbers of the shards that are there. Tables are in memory until save().

    say: told when a broken tar is set aside; None for a process that only adds shards to another one's plan: it leaves
    what is there alone, and the tables too.
    """

    def __init__(self, folder: str, bucket: str, say: Callable[[str], None] | None):
        self.folder, self.bucket, self._owner = folder, bucket, say is not None
        self.plan = tables.read_table(tables.plan_path(folder, bucket), tables.PLAN)
        self._rows = tables.made_table(tables.index_path(folder, bucket), tables.INDEX).to_pylist()
        self._finite = not self._rows or tables.all_finite(tables.index_path(folder, bucket))
        self._failed = tables.read_table(tables.failed_path(folder, bucket), tables.FAILED).to_pylist()
        self.made = tars(self.bucket_folder)
        if say is not None:
            self._reconcile(say)

    @property
    def bucket_folder(self) -> str:
        return storage.join(self.folder, self.bucket)

    def shard_path(self, shard: int) -> str:
        return storage.join(self.folder, self.bucket, tables.shard_name(shard))

    def write_plan(self, plan: pa.Table) -> None:
        self.plan = plan
        tables.write_table(tables.plan_path(self.folder, self.bucket), plan)

    def add(self, shard: int, places: Iterable[Place], failed: dict[str, str], finite: bool) -> None:
        """A shard that is now there. finite: all its numbers are."""
        self._finite = self._finite and finite
        planned = {row["key"]: row for row in self._planned(shard)}
        for place in places:
            row = {**planned[place.key], **place._asdict()}
            self._rows.append({name: row[name] for name in tables.INDEX.names})
        for key, reason in failed.items():
            row = {**planned[key], "reason": reason}
            self._failed.append({name: row[name] for name in tables.FAILED.names})
        self.made.add(shard)

    def counts(self) -> tuple[int, int]:
        """Samples in the shards, and planned ones that could not be made."""
        return len(self._rows), len(self._failed)

    def index(self) -> pa.Table:
        """In the order of shards and of samples in them; of two samples with the same clip and start the later one."""
        latest = {(row["clip_id"], row["start_tick"]): row for row in sorted(self._rows, key=_order)}
        rows = sorted(latest.values(), key=_order)
        return pa.Table.from_pylist(rows, schema=tables.INDEX)

    def failed(self) -> dict[tuple[str, str, int], str]:
        """(bucket, clip_id, start_tick) -> reason, of samples that are in no shard."""
        held = {(row["clip_id"], row["start_tick"]) for row in self._rows}
        found = {(row["clip_id"], row["start_tick"]): row["reason"] for row in self._failed}
        return {(self.bucket, *one): reason for one, reason in found.items() if one not in held}

    def save(self) -> None:
        if not self._owner:
            return
        failed = pa.Table.from_pylist(sorted(self._failed, key=_order), schema=tables.FAILED)
        for path, table, schema, finite in (
            (tables.failed_path(self.folder, self.bucket), failed, tables.FAILED, False),
            (tables.index_path(self.folder, self.bucket), self.index(), tables.INDEX, self._finite),
        ):
            if not tables.made_table(path, schema).equals(table) or not storage.exists(path):
                tables.write_index(path, table, finite)

    def forget_failures(self) -> int:
        """Take the failed samples out of the plan, so that they are planned anew. Their number."""
        keys = pa.array([row["key"] for row in self._failed], pa.string())
        self.plan = self.plan.filter(pc.invert(pc.is_in(self.plan["key"], keys)))
        count, self._failed = len(self._failed), []
        return count

    def rows_of(self, shard: int) -> list[dict[str, Any]]:
        """Index rows of the samples in a shard, in their order."""
        return sorted((row for row in self._rows if row["shard"] == shard), key=_order)

    def drop_shard(self, shard: int, keys: set[str]) -> dict[str, str]:
        """Take a shard out of the tables, and these samples out of the plan, on disk too. Its other failed samples."""
        failed = {row["key"]: row["reason"] for row in self._failed if row["shard"] == shard and row["key"] not in keys}
        self._rows = [row for row in self._rows if row["shard"] != shard]
        self._failed = [row for row in self._failed if row["shard"] != shard]
        self.made.discard(shard)
        self.write_plan(self.plan.filter(pc.invert(pc.is_in(self.plan["key"], pa.array(sorted(keys), pa.string())))))
        self.save()
        return failed

    def _planned(self, shard: int) -> list[dict[str, Any]]:
        return self.plan.filter(pc.equal(self.plan["shard"], shard)).to_pylist()

    def _reconcile(self, say: Callable[[str], None]) -> None:
        there = self.made
        self._rows = [row for row in self._rows if row["shard"] in there]
        self._failed = [row for row in self._failed if row["shard"] in there]
        known = {row["shard"] for row in [*self._rows, *self._failed]}
        self.made = known & there
        for shard in sorted(there - known):
            self._take_up(shard, say)

    def _take_up(self, shard: int, say: Callable[[str], None]) -> None:
        """A tar that no table knows: finished just before a run was killed, or broken."""
        path, keys = self.shard_path(shard), [row["key"] for row in self._planned(shard)]
        try:
            found = scan(path)
        except CacheError:
            found = None
        if found is None or not keys or not complete(found, keys):
            set_aside(path, say)
        else:
            self.add(shard, found.places, found.failed, found.finite)


def tars(folder: str) -> set[int]:
    """Numbers of the shards that lie in a bucket's folder."""
    names = [storage.name(entry.path) for entry in storage.find(folder, ".tar")]
    parts = [name.removeprefix("shard-").removesuffix(".tar") for name in names]
    return {int(part) for part in parts if part.isdigit()}


def _order(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["shard"], row.get("offset", 0), row["key"]
