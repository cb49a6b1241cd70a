# SPDX-License-Identifier: GPL-3.0-or-later
"""What the parameters are called in the form and on the command line, for sentences that are read there."""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """What parameters are called, and how one sets them, where a sentence is read."""

    apix: str
    crop: str
    pixel_size: str
    fourier_crop: str
    lowpass: str
    highpass: str
    background_radius: str
    #: how to leave a parameter out, to have the background normalised, and to have corrupt particles left out
    leave_out: str
    do_normalize: str
    do_skip_corrupt: str
    like: str
    #: how to go on with a run that has stopped
    go_on: str


FORM = Names(
    apix="Sampling rate of the particles",
    crop="Crop / pad to box size",
    pixel_size="Desired approx. pixel size",
    fourier_crop="Fourier crop to box size",
    lowpass="Lowpass resolution",
    highpass="Highpass resolution",
    background_radius="Background radius",
    leave_out="leave it empty",
    do_normalize="switch on Normalize background",
    do_skip_corrupt="switch on Skip corrupt particles",
    like="Particles or volume to fit",
    go_on="continue the run",
)
COMMAND = Names(
    apix="--apix",
    crop="--crop",
    pixel_size="--pixel-size",
    fourier_crop="--box",
    lowpass="--lowpass",
    highpass="--highpass",
    background_radius="--normalize",
    leave_out="leave it out",
    do_normalize="add --normalize -1",
    do_skip_corrupt="add --skip-corrupt",
    like="--like",
    go_on="run the same command again",
)
