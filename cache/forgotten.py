"""Which clips a workspace has forgotten (`curate forget`): readers honour a tombstone at once, `cache.gc` rewrites."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from cache import index as tables
from curate.tables import forgotten
from media import storage


def forgotten_clips(workspace: str) -> set[str]:
    """Ids of the clips with a tombstone, those of forgotten videos included, whatever settings cut them."""
    stones = forgotten(workspace)
    clips = set(stones["clips"])
    if not stones["videos"]:
        return clips
    gone = pa.array(sorted(stones["videos"]), pa.string())
    for name in storage.folders(workspace):
        if name.startswith("clips-"):
            for entry in storage.find(storage.join(workspace, name), ".parquet"):
                rows = tables.read_table(entry.path, pa.schema({"clip_id": pa.string(), "video_id": pa.string()}))
                clips |= set(rows.filter(pc.is_in(rows["video_id"], gone))["clip_id"].to_pylist())
    return clips
