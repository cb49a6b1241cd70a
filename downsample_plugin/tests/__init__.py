# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests that a user of Scipion can start, by ``scipion3 tests``: simulated particles, no download."""
