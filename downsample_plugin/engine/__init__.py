# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: what is to be done with which particles, the processes that do it, and what they leave on the disk."""
