# SPDX-License-Identifier: GPL-3.0-or-later
"""An output stack on its way, in pieces that any process may make: what is to be done, and what has come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..files.fingerprints import FileState
from .output_stack import OutputStack
from .tables import MADE
from .worker import DONE, Piece, PieceDone


class StackInPieces:
    """An output stack that is made in pieces: its images in the order of the files on disk, so many at a time."""

    def __init__(self, stack: OutputStack, inputs: Mapping[str, FileState | None], part_path: str, per_piece: int):
        """`inputs` are all image files of its job, in their order."""
        self.stack = stack
        #: where a crew shares it out; empty if nobody else works on it
        self.shared_in = ""
        self._part_path, self._per_piece = part_path, per_piece
        self._wanted = stack.wanted()
        file_names, self._files = self._files_of(list(inputs))
        #: the image files that it needs, sorted by their names
        self.inputs = {name: inputs[name] for name in file_names}
        self._inputs = list(self.inputs.items())
        self._order = np.lexsort((self._wanted["index"], self._files))
        #: numbers of pieces that nobody has taken, as far as this process knows
        self.free = deque(range(-(-len(self._order) // per_piece)))

    def _files_of(self, all_names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
        """Names of the files that it needs, sorted, and for each image the place of its file's in them."""
        used, files = np.unique(self._wanted["file"], return_inverse=True)
        names = [all_names[number] for number in used.tolist()]
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(len(names))
        return [names[i] for i in order], rank[files]

    def places(self, number: int) -> NDArray[np.int64]:
        """Places in the stack (from 0) of the images of a piece."""
        places: NDArray[np.int64] = self._order[number * self._per_piece : (number + 1) * self._per_piece]
        return places

    def piece(self, number: int) -> Piece:
        """A piece for a worker."""
        places = self.places(number)
        files = self._files[places]
        first, last = files[0], files[-1] + 1
        return Piece(self._part_path, tuple(self._inputs[first:last]), files - first, self._wanted[places], places)


class StackUnderWay(StackInPieces):
    """An unfinished output stack: what is to be done, and what has come back."""

    def __init__(self, stack: OutputStack, inputs: Mapping[str, FileState | None], per_piece: int, skip_corrupt: bool):
        self._writer = stack.writer()
        super().__init__(stack, inputs, self._writer.part_path, per_piece)
        self._skip_corrupt = skip_corrupt
        self._done = np.zeros(stack.size, dtype=DONE)
        self._bad: dict[int, str] = {}  # problems, by places
        self._left = set(self.free)  # pieces that have not come back

    @property
    def part_path(self) -> str:
        """The unfinished file, which workers write into."""
        return self._part_path

    def begin(self) -> bool:
        """Make the unfinished stack, in the place of what is left of earlier attempts, unless it need not be made.

        Another program on the same job may have made it just now: what it has said to be done, nobody takes away.
        """
        with self.stack.alone():
            if self.stack.may_stay(self._skip_corrupt):
                return False
            self.stack.forget()
            self._writer.create()
            return True

    def take(self, number: int, piece_done: PieceDone) -> int:
        """Take a piece that has come back, and return its number of images; 0 if another process has made it too."""
        if number not in self._left:
            return 0
        done, problems = piece_done
        places = self.places(number)
        self._done[places] = done
        self._bad.update((int(places[i]), problem) for i, problem in problems.items())
        self._left.remove(number)
        return len(places)

    @property
    def is_complete(self) -> bool:
        """Whether all pieces have come back."""
        return not self._left

    def finish(self) -> None:
        """Give the stack its name and leave its tables; only word of the images that cannot be used, if any.

        DataError if another job has taken the place of the stack's meanwhile, with stacks of the same names perhaps.
        """
        with self.stack.alone():
            self._finish()

    def _finish(self) -> None:
        if self._bad:
            self.stack.refuse(sorted(self._bad.items()))
            if not self._skip_corrupt:
                self.discard()
                return
        good = np.ones(self.stack.size, dtype=bool)
        good[list(self._bad)] = False
        self._writer.finish(self._done["statistics"], good)
        made = np.zeros(self.stack.size, dtype=MADE)
        made["index"][good] = np.arange(1, np.count_nonzero(good) + 1)
        made["shift_x"], made["shift_y"] = self._done["shift"].T
        self.stack.finish(self.inputs, made, self._done["words"][good])

    def discard(self) -> None:
        """Remove what there is of the stack."""
        self._writer.discard()
