# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on the disk: images, maps, STAR files; read, written whole, and compared."""
