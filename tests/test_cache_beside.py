"""The mapped copy of a table says what the Parquet file says, or nothing."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache import beside
from cache import index as tables


@pytest.fixture
def path(tmp_path: Path) -> str:
    return tables.text_index_path(str(tmp_path), "1x64x64", "abc")


def rows(count: int, sums: int = 0) -> pa.Table:
    return pa.Table.from_pylist(
        [{"clip_id": f"{i:016x}", "start_tick": i, "shard": i // 3, "offset": 512, "bytes": 9, "xxh3": sums + i,
          "key": f"{i:x}", "tar": f"shard-{i // 3}", "captions": ["a"], "lengths": [i, 2]} for i in range(count)],
        tables.TEXT_INDEX,
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 8])
def test_it_gives_the_columns_of_the_parquet_file(path: str, count: int) -> None:
    tables.write_table(path, rows(count))
    names = ["clip_id", "start_tick", "shard", "xxh3", "key", "tar", "lengths"]
    found = beside.read(path, names)
    assert found is not None and found.cast(tables.read_table(path, tables.TEXT_INDEX).select(names).schema) == rows(
        count
    ).select(names)
    assert tables.read_columns(path, names).equals(found)
    assert beside.read(path, ["captions"]) is None  # no reader asks for them
    assert tables.read_columns(path, ["captions"])["captions"].to_pylist() == [["a"]] * count


def test_it_is_not_used_beside_another_parquet_file(path: str) -> None:
    """Even of equal size, time and footer: only the bytes count. One checksum differs."""
    tables.write_table(path, rows(8))
    other = rows(8, sums=1)
    pq.write_table(other, path, compression="zstd")
    assert beside.read(path, ["xxh3"]) is None
    assert tables.read_columns(path, ["xxh3"])["xxh3"].to_pylist() == other["xxh3"].to_pylist()


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0", None])
def test_one_that_is_broken_or_gone_is_not_missed(path: str, damage: bytes | None) -> None:
    tables.write_table(path, rows(8))
    copy = Path(beside.path_of(path))
    copy.write_bytes(damage) if damage is not None else copy.unlink()
    assert tables.read_columns(path, ["xxh3"])["xxh3"].to_pylist() == list(range(8))


def test_what_an_index_says_of_its_numbers_is_said_by_both(path: str) -> None:
    for finite in (True, False):
        tables.write_index(path, rows(4), finite)
        assert tables.all_finite(path) is finite
        Path(beside.path_of(path)).unlink()
        assert tables.all_finite(path) is finite
    assert tables.all_finite(path.replace("abc", "none"))  # nothing is there that is not
