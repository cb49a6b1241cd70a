# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of the package; ``python -m downsample_plugin`` is ``downsample-particles``."""

import importlib
import os
import sys


def main() -> int:
    """Run ``downsample-particles``."""
    return _run("downsample_particles")


def restore() -> int:
    """Run ``restore-particles``."""
    return _run("restore_particles")


def volumes() -> int:
    """Run ``downsample-volumes``."""
    return _run("downsample_volumes")


def _run(module: str) -> int:
    """Run a program; stopped while it is still being loaded, it ends quietly."""
    try:
        _forget_the_current_folder()
        import signal  # only now, lest one in the current folder is taken

        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:  # Ctrl-C waits: modules in C that are stopped while they are loaded say something else of it
            program = importlib.import_module(f".command.{module}", __package__)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code: int = program.main()
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
