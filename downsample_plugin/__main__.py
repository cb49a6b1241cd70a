# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m downsample_plugin`` is the command ``downsample-particles``."""

import importlib
import os
import sys
import threading


def main() -> int:
    """Run the command; stopped while it is still being loaded, it ends quietly."""
    return _command("cli")


def main_of_volumes() -> int:
    """The same for the command ``downsample-volumes``."""
    return _command("cli_volumes")


def _command(module: str) -> int:
    try:
        _forget_the_current_folder()
        code: int = importlib.import_module(f"{__package__}.{module}").main()
        # Of a run that was stopped, threads still end worker processes. Python wakes those threads when it ends itself,
        # and complains if they close what it wakes them by.
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        return code
    except KeyboardInterrupt:
        return 130


def _forget_the_current_folder() -> None:
    """Have Python import nothing from there, as it does by ``-m``."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]


if __name__ == "__main__":
    sys.exit(main())
