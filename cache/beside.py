"""A table once more beside its Parquet file, as an Arrow file that is mapped and not parsed.

A million rows of Parquet take a tenth of a second to unpack, and eight rows a millisecond; of a map only what is looked
at is read. The Parquet file is what counts: the copy names the XXH3 of all its bytes and is not used beside another one.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import pyarrow as pa
import xxhash

from media import storage

OF = b"of"  # in the schema's metadata
CODED = ("tar", "bucket")  # names that repeat, read as codes


def path_of(path: str) -> str:
    return path.removesuffix(".parquet") + ".arrow"


def write(path: str, table: pa.Table, written: pa.Buffer) -> None:
    """written: the bytes of the Parquet file at path, which is there already. Whole or not at all."""
    for name in CODED:
        if name in table.column_names:
            at = table.column_names.index(name)
            table = table.set_column(at, name, table[name].dictionary_encode())
    noted = {**(table.schema.metadata or {}), OF: xxhash.xxh3_64_hexdigest(written).encode()}
    table = table.combine_chunks().replace_schema_metadata(noted)
    with storage.writing(path_of(path)) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read(path: str, names: Sequence[str]) -> pa.Table | None:
    """Columns, each in one piece; None where there is no copy of this very file, or it lacks one of them."""
    try:
        with open(path_of(path), "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with open(path, "rb") as file:
            digest = _digest(file.fileno())
        reader = pa.ipc.open_file(pa.py_buffer(data))
        known = (reader.schema.metadata or {}).get(OF) == digest
        if not known or not set(names) <= set(reader.schema.names) or reader.num_record_batches != 1:
            return None
        return pa.Table.from_batches([reader.get_batch(0)]).select(list(names))
    except (OSError, ValueError, pa.ArrowInvalid):
        return None


def _digest(file: int) -> bytes:
    size = os.fstat(file).st_size
    if not size:
        return b""
    with mmap.mmap(file, size, access=mmap.ACCESS_READ) as data:
        return xxhash.xxh3_64_hexdigest(data).encode()
