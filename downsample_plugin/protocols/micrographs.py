# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs by their names, which stay the same where particles leave Scipion and come back; numbers do not."""

from __future__ import annotations

import re

import numpy as np

NAME = "_coordinate._micName"
NUMBERS = ("_micId", "_coordinate._micId")  # Scipion looks at the first, then at the second
_PLACE_IN_STACK = re.compile(r"^\d+@")
_NUMBERED_BY_CRYOSPARC = re.compile(r"^\d{18,}_")  # links to imported files are called so
_MADE_UP = re.compile(r"^fake_micrograph(\d+)$")  # by imports, of the number
_SUFFIXES = re.compile(r"(\.(mrcs?|tiff?|eer|hdf|h5|st|spi|stk|xmp|vol|img|raw|dm[34]|em|ser|gz|bz2))+$", re.I)


def plainName(name):
    """A micrograph's name as all programs leave it: without number in a stack, folder, spaces and suffix.

    None where there is none.
    """
    base = _base(name)
    made_up = _MADE_UP.match(base)
    return (made_up[1] if made_up else base) or None


def plainNames(names):
    """(n,) object, plainName of each of a list of names or None."""
    known = {name: plainName(name) if name else None for name in set(names)}
    found = np.empty(len(names), dtype=object)
    found[:] = [known[name] for name in names]
    return found


def namesOrNumbers(block):
    """(n,) object, plain names for a Block that was read with NAME and NUMBERS.

    Where there is none, the digits of the number: programs that want a name are given these.
    """
    names, numbers = plainNames(block.texts(NAME)), numbersOf(block)
    for i in np.flatnonzero(~areNamed(names) & ~np.isnan(numbers)).tolist():
        names[i] = f"{numbers[i]:.0f}"
    return names


def areNamed(names):
    """(n,) bool: which of names (n,) are there."""
    return np.array([name is not None for name in names], dtype=bool)


def numbersOf(block):
    """(n,) float64, numbers of the micrographs of a Block that was read with NUMBERS; nan where there is none."""
    numbers = block.floats(NUMBERS[0])
    return np.where(np.isnan(numbers), block.floats(NUMBERS[1]), numbers)


def unclearNames(sources):
    """Set of the plain names that stand for more than one micrograph: the same in other folders, or of other numbers.

    Takes a look at each enabled particle of Sources, and keeps what micrographs there are.
    """
    folders: dict = {}
    numbers: dict = {}
    for source in sources:
        for block in source.table.blocks((NAME, *NUMBERS), "enabled=1"):
            for name, number in set(zip(block.texts(NAME), numbersOf(block).tolist())):
                if not name:
                    continue
                plain = plainName(name)
                folders.setdefault(plain, set()).add(_PLACE_IN_STACK.sub("", name).rpartition("/")[0])
                if not np.isnan(number):
                    numbers.setdefault(plain, set()).add(number)
    return {name for name in folders if len(folders[name] - {""}) > 1 or len(numbers.get(name, ())) > 1}


def _base(name):
    base = _PLACE_IN_STACK.sub("", name).rpartition("/")[2].replace(" ", "")
    return _NUMBERED_BY_CRYOSPARC.sub("", _SUFFIXES.sub("", base))
