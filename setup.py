# SPDX-License-Identifier: GPL-3.0-or-later
"""Distribution of the plugin. Nothing of the package is imported here: pyworkflow may not be there yet."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
URL = "https://github.com/scipion-em/scipion-em-downsample"
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "downsample_plugin" / "__init__.py").read_text("utf-8")).group(1)

setup(
    name="scipion-em-downsample",
    version=VERSION,
    description="Downsample cryo-EM particles in Scipion: recentre, crop, Fourier crop, filter",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The scipion-em-downsample developers",
    url=URL,
    project_urls={
        "Documentation": f"{URL}/blob/main/docs/index.md",
        "Changes": f"{URL}/blob/main/CHANGES.md",
        "Source": URL,
        "Issues": f"{URL}/issues",
    },
    license="GPL-3.0-or-later",
    license_files=["LICENSE"],
    keywords="scipion cryoem cryo-em electron-microscopy image-processing structural-biology particles downsample "
    "binning fourier-crop relion",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(9, 13)),
        "Topic :: Scientific/Engineering :: Bio-Informatics",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
    python_requires=">=3.9,<3.13",  # what scipion-em installs on
    install_requires=["scipion-pyworkflow>=3.11", "scipion-em>=3.11", "numpy", "mrcfile", "emtable", "pyfftw", "tqdm"],
    extras_require={
        "dev": [
            "pytest<9.2",  # pytest-xdist 3.8 does not keep groups of tests together under 9.2
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
            "setuptools>=77",
            "wheel",
        ]
    },
    packages=find_packages(include=["downsample_plugin", "downsample_plugin.*"]),
    package_data={"downsample_plugin": ["protocols.conf", "*.png", "templates/*.json.template", "launcher/*.py"]},
    entry_points={
        "pyworkflow.plugin": ["downsample_plugin = downsample_plugin"],
        "console_scripts": [
            "downsample-particles = downsample_plugin.__main__:main",
            "restore-particles = downsample_plugin.__main__:restore",
            "downsample-volumes = downsample_plugin.__main__:volumes",
        ],
    },
)
