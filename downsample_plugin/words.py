# SPDX-License-Identifier: GPL-3.0-or-later
"""Words for people that several modules need."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number of things, such as "1 particle" or "2 particles"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
