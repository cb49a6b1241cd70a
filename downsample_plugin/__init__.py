# SPDX-License-Identifier: GPL-3.0-or-later
"""Downsample cryo-EM particles in Scipion: recentre, crop, Fourier crop, filter.

Importing this package is cheap: the numeric core and the command line must not drag Scipion in.
Scipion finds ``Plugin`` here; it is made when first asked for.
"""

from __future__ import annotations

__version__ = "0.1.0"
_logo = "logo.png"


def __getattr__(name: str) -> object:
    if name == "Plugin":
        from .plugin import Plugin

        return Plugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
