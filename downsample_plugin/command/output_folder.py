# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder that the command line writes in: what a run leaves there, and what may be replaced.

Beside the job with its stacks (``job.py``), or one job for each pixel size in ``pixel_size_1`` and so on::

    particles.star              the particles; there when the run is finished
    result.png                  the result picture
    bad_particles.star          particles that cannot be used
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable

from ..engine.job import BAD_PARTICLES_NAME, Job
from ..engine.job_writing import remove_job
from ..engine.output_stack import STACK_NAME, remove_files
from ..errors import DataError, PlanError
from ..files.whole_files import remove_abandoned

STAR_NAME, PICTURE_NAME = "particles.star", "result.png"
OWN_NAMES = (STAR_NAME, PICTURE_NAME, BAD_PARTICLES_NAME)


class OutputFolder:
    """A folder for the output of a run.

    Attributes
    ----------
    path : of the folder
    star_path, picture_path, bad_path : of what a run leaves there
    """

    def __init__(self, path: str):
        self.path = path
        self.star_path = os.path.join(path, STAR_NAME)
        self.picture_path = os.path.join(path, PICTURE_NAME)
        self.bad_path = os.path.join(path, BAD_PARTICLES_NAME)

    def of_group(self, number: int) -> str:
        """Folder of the job for one of several pixel sizes, from 1."""
        return os.path.join(self.path, f"pixel_size_{number}")

    def make_ready(self, inputs: Iterable[str], force: bool) -> None:
        """Refuse the folder, with a PlanError, if a run may not write in it, or remove a finished run if forced to.

        An unfinished run, or one that has lost stacks, stays, to go on with or to be replaced. `inputs` are not to be
        written over.
        """
        self._check(inputs)
        if force:
            self._remove_run()
        elif self._is_finished():
            problem = f"{self.path}: it already contains a finished run"
            raise PlanError([f"{problem}; add --force to start over, or give another folder."])

    def remove_abandoned(self) -> None:
        """Remove unfinished files of programs that were killed."""
        remove_abandoned(self.path, OWN_NAMES)

    def forget_earlier_star(self, jobs: Iterable[Job]) -> None:
        """Remove a STAR file that names other stacks than those that jobs have still to make."""
        if not all(job.is_finished() for job in jobs):
            remove_files(self.star_path)

    def _check(self, inputs: Iterable[str]) -> None:
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise PlanError([f"-o: {self.path} is a file, expected an output folder; give another name."])
        folder = os.path.realpath(self.path)
        for path in inputs:
            real = os.path.realpath(path)
            own = os.path.basename(real) in OWN_NAMES or STACK_NAME.fullmatch(os.path.basename(real))
            if own and folder in (os.path.dirname(real), os.path.dirname(os.path.dirname(real))):
                raise PlanError([f"{self.path}: it contains the input {path}, expected another folder; give one."])
        if not any(map(_is_run, [self.path, *self._group_folders()])):
            for path in filter(os.path.lexists, (self.star_path, self.picture_path, self.bad_path)):
                problem = f"{path}: it exists and was not made by this program, expected no such file"
                raise PlanError([f"{problem}; give another folder."])

    def _group_folders(self) -> list[str]:
        """Folders of the jobs of several pixel sizes."""
        if not os.path.isdir(self.path):
            return []
        names = sorted(name for name in os.listdir(self.path) if re.fullmatch(r"pixel_size_\d+", name))
        return [path for path in (os.path.join(self.path, name) for name in names) if _is_run(path)]

    def _is_finished(self) -> bool:
        """Whether a run is there with all that it has made."""
        runs = [path for path in (self.path, *self._group_folders()) if _is_run(path)]
        try:
            return os.path.lexists(self.star_path) and all(Job.read(Job.path_in(path)).is_finished() for path in runs)
        except (DataError, PlanError):  # of another version, say
            return True

    def _remove_run(self) -> None:
        """Remove what an earlier run left, and nothing else."""
        groups = self._group_folders()
        runs = [path for path in (self.path, *groups) if _is_run(path)]
        for path in runs:
            remove_job(path)
        for path in groups:
            with contextlib.suppress(OSError):  # somebody keeps other things there
                os.rmdir(path)
        if runs:
            remove_files(self.star_path, self.picture_path, self.bad_path)


def _is_run(folder: str) -> bool:
    return os.path.exists(Job.path_in(folder))
