# SPDX-License-Identifier: GPL-3.0-or-later
"""An output stack of a job: where it is, what it is made of, and what of it is done.

Its files, in the folder of the job::

    particles_000001.mrcs       the images
    tables/made_000001.npy      what became of each image that was wanted (MADE)
    tables/record_000001.json   what made the stack, and its checksum; there when it is whole
    tables/bad_000001.json      its images that cannot be used, by their places in it, and why
    tables/error_000001.txt     why it could not be made at all, for people
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..core.plan import DownsamplePlan
from ..errors import DataError
from ..files.fingerprints import FileState, checksum, word_sums
from ..files.image_readers import open_stack
from ..files.stack_writer import StackWriter
from ..files.whole_files import remove_abandoned, whole_file
from .tables import MADE, WANTED, read_array, read_bad, write_array, write_bad

STACK_NAME = re.compile(r"particles_\d{6,}(_\d+)?\.mrcs")
IMAGES_NAME = "images.npy"  # of the images that a job wants, in its folder of tables


class Record(NamedTuple):
    """What is known of a stack that is whole."""

    #: how many it has; without any, there is no stack
    images: int
    bytes: int
    checksum: str
    #: the image files that it was made of
    inputs: dict[str, FileState | None]


@dataclass(frozen=True)
class OutputStack:
    """One of the stacks that a job makes, a unit of its own.

    Attributes
    ----------
    folder, tables : those of the job
    generation : of the jobs in the folder, whose stacks have names of their own
    stack_number : from 1
    first, size : number (from 0, in the job) of its first image, and how many are wanted
    plan, fingerprint : those of the job
    """

    folder: str
    tables: str
    generation: int
    stack_number: int
    first: int
    size: int
    plan: DownsamplePlan
    fingerprint: str

    @property
    def path(self) -> str:
        """The stack: named by number, so that no two inputs can collide."""
        return os.path.join(self.folder, stack_name(self.stack_number, self.generation))

    @property
    def name(self) -> str:
        """The name of its file."""
        return os.path.basename(self.path)

    def _table(self, kind: str, suffix: str) -> str:
        return os.path.join(self.tables, f"{kind}_{self.stack_number:06d}.{suffix}")

    @property
    def made_path(self) -> str:
        """Table of what became of its images."""
        return self._table("made", "npy")

    @property
    def record_path(self) -> str:
        """What made it, and its checksum."""
        return self._table("record", "json")

    @property
    def bad_path(self) -> str:
        """List of its images that cannot be used."""
        return self._table("bad", "json")

    @property
    def error_path(self) -> str:
        """Why it could not be made, for people."""
        return self._table("error", "txt")

    # ---- what is wanted and what is there ----------------------------------------------------------------

    def wanted(self) -> NDArray[np.void]:
        """Its images (WANTED), in their order."""
        return read_array(os.path.join(self.tables, IMAGES_NAME), WANTED, self.first, self.size)

    def made(self) -> NDArray[np.void]:
        """What became of them (MADE), in the same order."""
        return read_array(self.made_path, MADE, count=self.size)

    def record(self) -> Record | None:
        """Its record, if there is one that belongs to this job."""
        try:
            with open(self.record_path, encoding="utf-8") as file:
                found = json.load(file)
            inputs = {path: state and FileState(*state) for path, state in found["inputs"].items()}
            record = Record(int(found["images"]), int(found["bytes"]), str(found["checksum"]), inputs)
            fits = found["fingerprint"] == self.fingerprint
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if fits else None

    def image_count(self) -> int:
        """How many images it has; 0 if it is not done, or all were left out."""
        record = self.record()
        return record.images if record else 0

    def is_done(self) -> bool:
        """Whether it is there, with its table, and fits its record in size, header and count."""
        record = self.record()
        if record is None or not os.path.exists(self.made_path):
            return False
        if not record.images:
            return True
        try:
            with open_stack(self.path) as stack:
                fits = stack.count == record.images and stack.box == (self.plan.box_out, self.plan.box_out)
            return fits and os.path.getsize(self.path) == record.bytes
        except (DataError, OSError):
            return False

    def is_intact(self) -> bool:
        """Whether, besides, all its pixels are those that were written: it is read through."""
        record = self.record()
        if record is None or not self.is_done():
            return False
        if not record.images:
            return True
        try:
            with open_stack(self.path) as stack:
                sums = [word_sums(stack.read(image)[None])[0] for image in range(stack.count)]
        except DataError:
            return False
        return bool(checksum(np.array(sums, dtype=np.uint64)) == record.checksum)

    def may_stay(self, skip_corrupt: bool) -> bool:
        """Whether it need not be made again: it is intact, and has all that it is to have."""
        return (skip_corrupt or not self.has_bad()) and self.is_intact()

    def has_bad(self) -> bool:
        """Whether some of its images could not be used."""
        return os.path.exists(self.bad_path)

    def bad(self) -> list[list[Any]]:
        """Places (from 0) of its images that cannot be used, and why."""
        return read_bad(self.bad_path, 2) if self.has_bad() else []

    def error(self) -> str:
        """Why it could not be made; empty if nobody has said so."""
        try:
            with open(self.error_path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    # ---- while it is made ----------------------------------------------------------------------------------

    def forget(self) -> None:
        """Remove it if it was finished once. One without a record may be about to get it."""
        if os.path.exists(self.record_path):
            remove_files(self.record_path, self.made_path, self.path)

    def remove(self) -> None:
        """Remove it, whatever there is of it."""
        remove_files(self.path)
        remove_abandoned(self.folder or ".", [self.name])

    def tidy(self) -> None:
        """Remove what earlier attempts at it have to say."""
        remove_files(self.bad_path, self.error_path)

    def writer(self) -> StackWriter:
        """What writes it."""
        dtype = np.dtype(np.float16 if self.plan.float16 else np.float32)
        return StackWriter(self.path, self.size, self.plan.box_out, dtype, self.plan.apix_out)

    def refuse(self, bad: Sequence[tuple[int, str]]) -> None:
        """Leave word of images that cannot be used: places (from 0) and why."""
        write_bad(self.bad_path, bad)

    def finish(self, inputs: Mapping[str, FileState | None], made: NDArray[np.void], sums: NDArray[np.uint64]) -> None:
        """Leave the table and the record of a stack that is whole.

        `inputs` are the image files that it was made of, as they were; `made` tells of all images that were wanted
        (MADE), `sums` are those of the images that it has.
        """
        write_array(self.made_path, made)
        images = int(np.count_nonzero(made["index"]))
        record = {
            "version": __version__,
            "fingerprint": self.fingerprint,
            "plan": self.plan.to_dict(),
            "inputs": inputs,
            "images": images,
            "bytes": os.path.getsize(self.path) if images else 0,
            "checksum": checksum(sums),
        }
        write_json(self.record_path, record)
        remove_files(self.error_path)

    def leave_word(self, error: Exception) -> None:
        """Leave the reason where who started the program looks for it; a full disk may not have room even for that."""
        with (
            contextlib.suppress(OSError),
            open(self.error_path, "w", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(str(error))

    def flush(self) -> None:
        """Wait until it is on the disk."""
        if self.image_count():
            file = os.open(self.path, os.O_RDONLY)
            os.fsync(file)
            os.close(file)


def stack_name(stack_number: int, generation: int) -> str:
    """Name of an output stack, by its number, from 1, and the generation of its job."""
    return f"particles_{stack_number:06d}" + (f"_{generation}" if generation > 1 else "") + ".mrcs"


def remove_files(*paths: str) -> None:
    """Remove those of some files that are there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def write_json(path: str, content: Any) -> None:
    """Write a description, which appears under its name when it is whole."""
    with whole_file(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")
