# SPDX-License-Identifier: GPL-3.0-or-later
"""Records what RELION makes of an image, for test_relion.py: run this beside an installed RELION 3.1.3."""

import subprocess
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

TARGET = Path(__file__).with_name("relion_3.1.3.npz")


def main():
    rng = np.random.default_rng(20261122)
    ramp = np.linspace(0, 2, 64)[None, None, :] + 3
    image = (rng.normal(size=(1, 64, 64)) + ramp).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:

        def run(*command):
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            return command

        def read(name):
            return mrcfile.read(Path(folder, name))

        mrcfile.write(Path(folder, "in.mrcs"), image, voxel_size=1.5)
        preprocess = ("relion_preprocess", "--operate_on", "in.mrcs", "--operate_out")
        run(*preprocess, "scaled.mrcs", "--scale", "32")
        no_dust = ("--white_dust", "-1", "--black_dust", "-1")
        run(*preprocess, "normalized.mrcs", "--norm", "--bg_radius", "20", *no_dust)
        run("relion_image_handler", "--i", "in.mrcs", "--o", "lowpass", "--lowpass", "6", "--angpix", "1.5")
        np.savez_compressed(
            TARGET,
            image=image,
            scaled=read("scaled.mrcs"),
            normalized=read("normalized.mrcs"),
            lowpass=read("in_lowpass.mrcs"),
        )


if __name__ == "__main__":
    main()
