# SPDX-License-Identifier: GPL-3.0-or-later
"""The command as one process of a launch, with small pieces, slow, of short patience: rank.py PAUSE PATIENCE ARGUMENT …

PAUSE is in s, before each piece; so is PATIENCE. The process ends with its launcher.
"""

import os
import sys
import time

from downsample_plugin import __main__
from downsample_plugin.engine import crew_folder, hands, runner, worker

PAUSE, PATIENCE = map(float, sys.argv[1:3])


def slow_piece(piece):
    time.sleep(PAUSE)
    return worker.run_piece(piece)


if __name__ == "__main__":
    worker.end_with(os.getppid())
    hands.run_piece = slow_piece
    runner.BYTES_PER_PIECE = 1 << 16
    crew_folder.PATIENCE = PATIENCE
    del sys.argv[1:3]
    sys.exit(__main__.main())
