"""Checkpoints: a folder per kept step, there whole or not at all.

checkpoints/step-00000100/  model.safetensors      master weights under the released names, in one file
                            average.safetensors    their moving average
                            optimiser.safetensors  AdamW's state
                            state.json             step, recipe, data, and size and checksum of the others

torch.distributed.checkpoint decides who writes and reads what, and train/pieces.py how: with weights spread over
several processes, average and optimiser are one file a process (average-00003.safetensors), and are read back by
whatever number of processes goes on. Its metadata is in the headers of these files, not in a pickle.

Locally the folder is written beside its place and renamed; on an object store state.json goes last. A folder without
its state.json, or whose files are not those it names, is no checkpoint: it is set aside, never deleted.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from media import storage
from train import fetched, pieces
from train.distributed import World

PREFIX = "step-"
WHOLE = "model"  # the group that always lies in one file
Tensors = dict[str, dict[str, Tensor]]


class Checkpoint(NamedTuple):
    """state: what was given to save(); the tensors are read by load() and restore()."""

    path: str
    step: int
    state: dict[str, Any]


def save(folder: str, step: int, tensors: Tensors, state: dict[str, Any], world: World | None = None) -> str:
    """Write checkpoint `step` into a run's folder; tensors: one dictionary per group. Returns its path.

    Several processes call it together, each with its parts of spread tensors; they share the folder.
    """
    path = storage.join(folder, "checkpoints", f"{PREFIX}{step:08d}")
    with ExitStack() as kept:
        if storage.is_remote(path):
            part = kept.enter_context(tempfile.TemporaryDirectory(prefix="dailies-checkpoint-"))
        else:
            part = os.path.join(os.path.dirname(path), f".{storage.name(path)}.part")
        writer = pieces.Writer(
            part, world.rank if world else 0, begin=lambda: _make_room(part, path),
            after=lambda file: _upload(file, path), done=lambda files: _finish(part, path, files, step, state),
        )  # fmt: skip
        with _alone_or_together(world) as how:
            dcp.save(
                _flat(tensors),
                storage_writer=writer,
                planner=dcp.DefaultSavePlanner(dedup_save_to_lowest_rank=True),
                **how,
            )
    return path


def latest(folder: str) -> Checkpoint | None:
    """The newest whole checkpoint of a run; newer broken ones are set aside and named on stderr."""
    root = storage.join(folder, "checkpoints")
    for name in sorted((one for one in storage.folders(root) if one.startswith(PREFIX)), reverse=True):
        path = storage.join(root, name)
        fault = broken(path)
        if fault is None:
            state = json.loads(storage.read_bytes(storage.join(path, "state.json")))
            return Checkpoint(path, int(state["step"]), state)
        if (aside := _set_aside(path)) is not None:
            print(f"{path}: {fault}; set aside as {aside}", file=sys.stderr)
    return None


def broken(path: str) -> str | None:
    """What is wrong with a checkpoint, or None. Sizes here, checksums when it is loaded."""
    try:
        state = json.loads(storage.read_bytes(storage.join(path, "state.json")))
        for name, wanted in state["files"].items():
            found = storage.stat(storage.join(path, name)).bytes
            if found != wanted["bytes"]:
                return f"{name} must have {wanted['bytes']} bytes, has {found}"
    except FileNotFoundError as error:
        return f"{storage.name(str(error.filename))} is missing"
    except (ValueError, KeyError) as error:
        return f"state.json cannot be read ({error})"
    return None


def load(checkpoint: Checkpoint, wanted: Collection[str] | None = None) -> Tensors:
    """Its tensors, whole, one dictionary per group; only the wanted groups. A tensor that lies in one piece is mapped and
    not copied. Raises ValueError when the bytes are not those written."""
    groups: dict[str, list[str]] = {}
    with _fetching(checkpoint) as fetch:
        for name in checkpoint.state["files"]:
            if wanted is None or pieces.group_of(name) in wanted:
                groups.setdefault(pieces.group_of(name), []).append(fetch(name))
        return {group: dict(pieces.put_together(paths)) for group, paths in groups.items()}


def names(checkpoint: Checkpoint, group: str) -> set[str]:
    """Of the tensors in a group."""
    files = [name for name in checkpoint.state["files"] if pieces.group_of(name) == group]
    return {name for file in files for name in pieces.held(storage.join(checkpoint.path, file))}


def restore(checkpoint: Checkpoint, into: Tensors, world: World | None = None) -> None:
    """Fill tensors, whole or spread, with those of a checkpoint; each process reads what it needs.

    Raises ValueError when the bytes are not those written, or the names or shapes are not those of `into`.
    """
    for group, held in into.items():
        found = names(checkpoint, group)
        if found != set(held):
            missing, extra = sorted(set(held) - found), sorted(found - set(held))
            raise ValueError(f"{checkpoint.path}: {group} of another network: missing {missing[:3]}, not known "
                             f"{extra[:3]}")  # fmt: skip
    flat = _flat(into)
    paths = {name: storage.join(checkpoint.path, name) for name in checkpoint.state["files"]}
    with _fetching(checkpoint) as fetch, _alone_or_together(world) as how:
        try:
            dcp.load(flat, storage_reader=pieces.Reader(paths, fetch), **how)
        except CheckpointException as error:
            reasons = dict.fromkeys(str(failure[0]) for failure in error.failures.values())
            raise ValueError(f"{checkpoint.path}: {'; '.join(reasons)}") from None


def prune(folder: str, keep_last: int, milestones: Collection[int]) -> None:
    """Remove all checkpoints but the newest `keep_last` and the milestones."""
    root = storage.join(folder, "checkpoints")
    names = sorted(one for one in storage.folders(root) if one.startswith(PREFIX) and one[len(PREFIX) :].isdigit())
    for name in names[: -keep_last or None]:
        if int(name.removeprefix(PREFIX)) not in milestones:
            storage.remove(storage.join(root, name))


def _flat(tensors: Tensors) -> dict[str, Tensor]:
    return {f"{group}/{name}": one.detach() for group, held in tensors.items() for name, one in held.items()}


@contextmanager
def _alone_or_together(world: World | None) -> Iterator[dict[str, Any]]:
    """How dcp is to be called. For a process that is alone on purpose its warning about that is noise."""
    if world is not None and world.size > 1:
        yield {"process_group": world.aside}
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield {"no_dist": True}


@contextmanager
def _fetching(checkpoint: Checkpoint) -> Iterator[Callable[[str], str]]:
    """A function from a file's name to a local path, once its bytes are known to be those that were written."""
    with ExitStack() as kept:
        key = [checkpoint.path, checkpoint.state["files"]]
        here = kept.enter_context(fetched.together(key)) if storage.is_remote(checkpoint.path) else None

        def fetch(name: str) -> str:
            path, wanted = storage.join(checkpoint.path, name), checkpoint.state["files"][name]["crc"]
            local = path if here is None else fetched.once(path, os.path.join(here, name))
            if pieces.file_of(local).crc != wanted:
                raise ValueError(f"{path}: not the bytes that were written; move its folder away and the one before "
                                 "is used")  # fmt: skip
            return local

        yield fetch


def _make_room(part: str, path: str) -> None:
    """What a kill left behind is removed; so is, on a store, a checkpoint that is about to be written anew."""
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    if storage.is_remote(path):
        storage.remove(path)


def _upload(file: str, path: str) -> None:
    if storage.is_remote(path):
        storage.put(file, storage.join(path, os.path.basename(file)))


def _finish(part: str, path: str, files: list[pieces.File], step: int, state: dict[str, Any]) -> None:
    """On the first process, when all have written: model.safetensors in one file, state.json, and into place."""
    named = {file.name: file for file in files}
    for group in sorted({pieces.group_of(name) for name in named}):
        mine = [name for name in named if pieces.group_of(name) == group]
        if len(mine) == 1 or group == WHOLE:
            whole = _as_one(part, path, group, [named.pop(name) for name in mine])
            named[whole.name] = whole
    listed = {name: {"bytes": file.bytes, "crc": file.crc} for name, file in sorted(named.items())}
    document = json.dumps({"step": step, "files": listed, **state}, indent=1) + "\n"
    if storage.is_remote(path):
        storage.write_bytes(storage.join(path, "state.json"), document.encode())
        return
    Path(part, "state.json").write_text(document, encoding="utf-8")
    _rename(Path(part), path)


def _as_one(part: str, path: str, group: str, files: list[pieces.File]) -> pieces.File:
    """The files of a group become <group>.safetensors; a single one is only renamed."""
    remote, target = storage.is_remote(path), os.path.join(part, f"{group}.safetensors")
    locals_ = [os.path.join(part, file.name) for file in files]
    if remote:
        for local in locals_:
            storage.get(storage.join(path, os.path.basename(local)), local)
    if len(files) == 1:
        os.rename(locals_[0], target)
        made = files[0]._replace(name=os.path.basename(target))
    else:
        pieces.write_whole(locals_, target)
        made = pieces.file_of(target)
        for local in locals_:
            os.remove(local)
    if remote:
        storage.put(target, storage.join(path, made.name))
        for file in files:
            storage.remove(storage.join(path, file.name))
    return made


def _rename(part: Path, path: str) -> None:
    for file in (*part.iterdir(), part):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    if os.path.exists(path):  # a run that went back to an earlier step comes by here again
        shutil.rmtree(path)
    os.rename(part, path)


def _set_aside(path: str) -> str | None:
    """Where it lies now; None when another process of the run, which looks at the same time, has moved it."""
    aside = storage.join(os.path.dirname(path), f"broken-{storage.name(path)}")
    if storage.is_remote(path):
        return f"{path} itself (object stores rename nothing)"
    while os.path.exists(aside):
        aside += "x"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return None
    return aside
