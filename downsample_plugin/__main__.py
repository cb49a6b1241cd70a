# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m downsample_plugin`` is the command ``downsample-particles``."""

import sys


def main() -> int:
    """Run the command; stopped while it is still being loaded, it ends quietly."""
    try:
        from .cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
