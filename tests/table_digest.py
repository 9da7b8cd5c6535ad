"""What a workspace's tables hold, for comparing workspaces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq


def digest(workspace: Path) -> dict[str, str]:
    """Every table's part -> a digest of its rows (the notes inside name paths of the workspace)."""
    found = {}
    for path in sorted(workspace.rglob("*.parquet")):
        rows = pq.read_table(path).replace_schema_metadata(None).to_pylist()
        found[str(path.relative_to(workspace))] = hashlib.sha256(repr(rows).encode()).hexdigest()
    return found
