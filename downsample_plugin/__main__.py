# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m downsample_plugin`` is the command ``downsample-particles``."""

import sys

from .cli import main

sys.exit(main())
