"""Tensors in pieces: torch.distributed.checkpoint's storage as safetensors files. Nothing here is ever unpickled.

Every process writes its pieces of a group of tensors into one file, `<group>-<rank>.safetensors`. A piece that is not
its whole tensor says in the file's header where it belongs; so the files describe themselves, and are read back by
any number of processes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, SavePlan, SavePlanner, StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from media import storage

HEADER = "pieces"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class File(NamedTuple):
    name: str
    bytes: int
    crc: int


class Piece(NamedTuple):
    """What a file holds of a tensor: where it begins in it, its own size, the tensor's size, its type."""

    at: tuple[int, ...]
    size: tuple[int, ...]
    of: tuple[int, ...]
    dtype: torch.dtype


def held(path: str) -> dict[str, Piece]:
    """The pieces in a file (local or on a store), by the tensor's name; only its header is read."""
    length = int.from_bytes(storage.read_range(path, 0, 8), "little")
    header = json.loads(storage.read_range(path, 8, length))
    places = json.loads(header.pop("__metadata__", {}).get(HEADER, "{}"))
    found = {}
    for name, one in header.items():
        at, of = places.get(name, ([0] * len(one["shape"]), one["shape"]))
        found[name] = Piece(tuple(at), tuple(one["shape"]), tuple(of), DTYPES[one["dtype"]])
    return found


def put_together(paths: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor whole, one at a time, in order of their names; one that lies in one piece is a map of the file."""
    found: dict[str, list[tuple[str, Piece]]] = defaultdict(list)
    for path in paths:
        for name, piece in held(path).items():
            found[name].append((path, piece))
    for name, places in sorted(found.items()):
        first = places[0][1]
        tensor = None if first.size == first.of else torch.empty(first.of, dtype=first.dtype)
        for path, piece in places:
            with safe_open(path, "pt") as file:
                if tensor is None:
                    tensor = file.get_tensor(name)
                else:
                    tensor[_box(piece.at, piece.size)] = file.get_tensor(name)
        assert tensor is not None
        yield name, tensor


def write_whole(paths: list[str], target: str) -> None:
    """One plain safetensors file out of pieces, without holding more than one tensor at a time."""
    shapes = {name: piece for path in paths for name, piece in held(path).items()}
    header, end = {}, 0
    for name, piece in sorted(shapes.items()):
        start, end = end, end + torch.Size(piece.of).numel() * piece.dtype.itemsize
        header[name] = {"dtype": CODES[piece.dtype], "shape": piece.of, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in put_together(paths):
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def group_of(file: str) -> str:
    return file.removesuffix(".safetensors").split("-")[0]


def file_of(path: str) -> File:
    crc = 0
    with open(path, "rb") as source:
        while block := source.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return File(os.path.basename(path), os.path.getsize(path), crc)


def _box(at: Iterable[int], size: Iterable[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(at, size))


class Writer(StorageWriter):
    """Writes this process's pieces of tensors named <group>/<name> into a folder. begin: called on the first process
    before any writes; after: on each, with the path of a file it wrote; done: on the first, with all processes' files."""

    def __init__(self, folder: str, rank: int, begin: Callable[[], None], after: Callable[[str], None],
                 done: Callable[[list[File]], None]):  # fmt: skip
        self.folder, self.rank, self.begin, self.after, self.done = folder, rank, begin, after, done

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if is_coordinator:
            self.begin()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        os.makedirs(self.folder, exist_ok=True)
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        places: dict[str, dict[str, Any]] = defaultdict(dict)
        for item in plan.items:
            group, name = item.index.fqn.split("/", 1)
            chunk, of = cast(Any, item.tensor_data).chunk, cast(Any, item.tensor_data).size
            if name in groups[group]:
                raise ValueError(f"{item.index.fqn}: one process holds two pieces of it")
            groups[group][name] = cast(Tensor, planner.resolve_data(item)).detach().cpu().contiguous()
            if chunk.sizes != of:
                places[group][name] = [list(chunk.offsets), list(of)]
        files = {}
        for group, tensors in groups.items():
            path = os.path.join(self.folder, f"{group}-{self.rank:05d}.safetensors")
            save_file(tensors, path, {HEADER: json.dumps(places[group])} if places[group] else None)
            files[group] = file_of(path)
            self.after(path)
        results = [WriteResult(item.index, 0, files[item.index.fqn.split("/", 1)[0]]) for item in plan.items]
        return _done(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        self.done(sorted({one.storage_data for rank in results for one in rank}))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class Reader(StorageReader):
    """paths: of the files, by name; fetch: a file's name -> a local path whose bytes have been checked, called for
    those that this process needs."""

    def __init__(self, paths: Mapping[str, str], fetch: Callable[[str], str]):
        self.paths, self.fetch = paths, fetch

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: dict[str, Any] = {}
        places = {}
        for file, path in self.paths.items():
            for name, piece in held(path).items():
                key = f"{group_of(file)}/{name}"
                whole = TensorStorageMetadata(TensorProperties(dtype=piece.dtype), torch.Size(piece.of), [])
                chunk = ChunkStorageMetadata(torch.Size(piece.at), torch.Size(piece.size))
                tensors.setdefault(key, whole).chunks.append(chunk)
                places[MetadataIndex(key, piece.at)] = (file, name)
        return Metadata(tensors, storage_data=places)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.places = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file = defaultdict(list)
        for item in plan.items:
            file, name = self.places[item.storage_index]
            by_file[file].append((name, item))
        for file, wanted in by_file.items():
            with safe_open(self.fetch(file), "pt") as source:
                for name, item in wanted:
                    box = _box(item.storage_offsets, item.lengths)
                    piece = source.get_slice(name)[box] if box else source.get_tensor(name)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(piece)
                    planner.commit_tensor(item, target)
        return _done(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future
