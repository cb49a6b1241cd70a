# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures for people: particles and maps before and after, spectra, shifts."""
