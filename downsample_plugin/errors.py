# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong, in words for the user: every message is a sentence that can be shown as it is."""

from __future__ import annotations

from collections.abc import Sequence


class DownsampleError(Exception):
    """Base of all errors that are told to the user without a traceback."""


class PlanError(DownsampleError):
    """The request cannot be carried out: its numbers do not fit each other or the particles."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class DataError(DownsampleError):
    """A file, an image or a table is not what it should be."""
