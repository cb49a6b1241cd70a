# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``downsample-particles`` as a file, to be started by its path.

Scipion runs it in the project's folder: by ``python -m`` Python would import whatever lies there by the name of one of
its own modules. This folder, which Python puts first instead, holds nothing else.
"""

import sys

from downsample_plugin.__main__ import main

sys.exit(main())
