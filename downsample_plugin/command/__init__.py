# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs: arguments, words, exit codes, and what they do outside Scipion."""
