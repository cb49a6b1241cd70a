# SPDX-License-Identifier: GPL-3.0-or-later
"""Distribution of the plugin. Nothing of the package is imported here: pyworkflow may not be there yet."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "downsample_plugin" / "__init__.py").read_text("utf-8")).group(1)

setup(
    name="scipion-em-downsample",
    version=VERSION,
    description="Downsample cryo-EM particles in Scipion: recentre, crop, Fourier crop, filter",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-3.0-or-later",
    keywords="scipion cryo-em particles downsample fourier-crop",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: GNU General Public License v3 or later (GPLv3+)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
    python_requires=">=3.9,<3.13",  # what scipion-em installs on
    install_requires=["scipion-pyworkflow>=3.11", "scipion-em>=3.11", "numpy", "mrcfile", "emtable", "pyfftw", "tqdm"],
    extras_require={
        "dev": [
            "pytest",
            "pytest-xdist",
            "pytest-cov",
            "coverage>=7.10",
            "hypothesis",
            "psutil",
            "h5py",
            "pillow",
            "scipy",
            "tifffile",
            "ruff==0.17.6",
            "mypy",
            "build",
            "setuptools",
            "wheel",
        ]
    },
    packages=find_packages(include=["downsample_plugin", "downsample_plugin.*"]),
    package_data={"downsample_plugin": ["protocols.conf", "*.png", "templates/*.json.template", "launcher/*.py"]},
    entry_points={
        "pyworkflow.plugin": ["downsample_plugin = downsample_plugin"],
        "console_scripts": [
            "downsample-particles = downsample_plugin.__main__:main",
            "downsample-volumes = downsample_plugin.__main__:main_of_volumes",
        ],
    },
)
