# SPDX-License-Identifier: GPL-3.0-or-later
"""Any bytes in headers, STAR files, tables and jobs: our own errors or none, soon, and no memory on their word.

``make fuzz`` tries a hundred times as many.
"""

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from downsample_plugin.command.downsampling import Request, convert
from downsample_plugin.core import DownsamplePlan
from downsample_plugin.core.plan import Recenter
from downsample_plugin.engine.job import Job
from downsample_plugin.engine.tables import ROW, read_array, read_bad, read_files, write_array
from downsample_plugin.errors import DownsampleError
from downsample_plugin.files.image_readers import open_stack
from downsample_plugin.files.relion_star import RelionStar

from .scipion_sets import Row, write_job, write_stack

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
LONGEST = 5000  # ms of one example
MOST_MEMORY = 64 << 20  # bytes that one example may take

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=LONGEST,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
words = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.sampled_from([0, 1, 2, 6, 12, 32, 2**20, 2**31 - 1, -1, -(2**31), 10**6])
)
changes = st.dictionaries(st.integers(0, 255), words, max_size=6)
endings = st.integers(0, 1024 + 4 * 32**2 + 9)


@pytest.fixture
def plain(here):
    return here / write_stack("plain.mrcs", np.ones((1, 32, 32)))


def refused_or_done(work):
    """Run something that may raise our own errors only, within bounds; whether it was done."""
    tracemalloc.start()
    try:
        work()
    except DownsampleError as error:
        text = str(error)
        assert text
        assert "Traceback" not in text
        return False
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_MEMORY
    return True


def read_all(path):
    with open_stack(path) as stack:
        for index in (0, 1, 2, stack.count):
            image = stack.read(stack.number_of(index))
            assert image.shape == stack.shape


@fuzz
@given(changes, endings, st.sampled_from(["<i4", ">i4"]))
def test_headers(plain, changes, ending, order):
    data = bytearray(plain.read_bytes())
    for word, value in changes.items():
        data[4 * word : 4 * word + 4] = np.array(value, dtype=order).tobytes()
    with open("fuzzed.mrcs", "wb") as file:
        file.write(data[:ending])
    refused_or_done(lambda: read_all("fuzzed.mrcs"))


@fuzz
@given(st.binary(max_size=3000), st.sampled_from([".mrcs", ".tif"]))
def test_files_of_any_bytes(here, data, suffix):
    with open("fuzzed" + suffix, "wb") as file:
        file.write(data)
    refused_or_done(lambda: read_all("fuzzed" + suffix))


LABELS = (
    "rlnImageName rlnOpticsGroup rlnImagePixelSize rlnImageSize rlnOriginXAngst rlnOriginYAngst rlnOriginX rlnOriginY "
    "rlnMagnification rlnDetectorPixelSize rlnCoordinateX rlnMicrographPixelSize rlnOriginXPrior rlnPixelSize "
    "downsampleImage downsampleShiftXAngst downsampleShiftYAngst rlnImageDimensionality rlnOther"
)
labels = st.sampled_from(LABELS.split(" "))
values = st.one_of(
    st.sampled_from(["1@plain.mrcs", "000001@plain.mrcs", "0@plain.mrcs", "plain.mrcs", "9@gone.mrcs", "@", "x@y"]),
    st.sampled_from(
        ["1", "2", "1.5", "0", "-3.2", "nan", "inf", "1e400", "''", '"a b"', "a'b", "'b", "# x", "é", "32"]
    ),
    st.text(max_size=6),
)
lines = st.one_of(
    st.sampled_from(["data_", "data_optics", "data_particles", "loop_", "", "# comment", "data_other", "_rlnX"]),
    labels.map("_{}".format),
    st.tuples(labels, values).map(lambda pair: f"_{pair[0]} {pair[1]}"),
    st.lists(values, min_size=1, max_size=4).map(" ".join),
)
STARTS = [
    "",
    "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 1.5\n\ndata_particles\n\nloop_\n"
    "_rlnImageName\n_rlnOpticsGroup\n_rlnOriginXAngst\n_rlnOriginYAngst\n1@plain.mrcs 1 0.5 -2\n",
    "data_\n\nloop_\n_rlnImageName\n_rlnMagnification\n_rlnDetectorPixelSize\n_rlnOriginX\n_rlnOriginY\n"
    "1@plain.mrcs 10000 1.5 1 2\n",
]


@fuzz
@given(st.sampled_from(STARTS), st.lists(lines, max_size=8), st.booleans())
def test_star_files(plain, start, added, recenter):
    with open("fuzzed.star", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(start + "\n".join(added) + "\n")

    def work():
        with RelionStar("fuzzed.star") as star:
            list(star.particles())
        wishes = {"fourier_crop_size": 16, "recenter": Recenter.EXACT if recenter else Recenter.NONE}
        with open(os.devnull, "w") as nowhere:
            convert(
                Request("fuzzed.star", "out", None, wishes, force=True, skip_corrupt=True, picture=False), 1, nowhere
            )
        with RelionStar("out/particles.star") as star:
            list(star.particles())

    refused_or_done(work)


@fuzz
@given(
    st.dictionaries(st.integers(0, 200), st.integers(0, 255), max_size=8), st.integers(0, 300), st.binary(max_size=90)
)
def test_tables(here, changes, ending, other):
    write_array("table.npy", np.zeros(5, dtype=ROW))
    data = bytearray(Path("table.npy").read_bytes())
    for place, value in changes.items():
        data[place] = value
    for content in (data[:ending], other, b"\x93NUMPY" + other):
        Path("fuzzed.npy").write_bytes(content)
        refused_or_done(lambda: read_array("fuzzed.npy", ROW))
        refused_or_done(lambda: read_files("fuzzed.npy", 4))
        refused_or_done(lambda: read_bad("fuzzed.npy", 2))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
)
KEYS = ["plan", "particles", "images", "imagesPerStack", "fingerprint", "generation"]
PLAN_KEYS = list(DownsamplePlan(32, 1.0).to_dict())


@fuzz
@given(st.dictionaries(st.sampled_from(KEYS), json_values), st.dictionaries(st.sampled_from(PLAN_KEYS), json_values))
def test_jobs(plain, changes, plan_changes):
    shutil.rmtree("job", ignore_errors=True)
    job = write_job("job", DownsamplePlan(32, 1.0, fourier_crop_size=16), [Row(1, 1, "plain.mrcs", 0, 0)], 5)
    with open(job.path) as file:
        description = json.load(file)
    description["plan"].update(plan_changes)
    description.update(changes)
    with open(job.path, "w") as file:
        json.dump(description, file)

    def work():
        found = Job.read(job.path)
        found.check_worked_on(found.share(1, max(found.image_count // found.images_per_stack // 3, 1)))

    refused_or_done(work)
    assert sorted(os.listdir("."))[:2] == ["job", "plain.mrcs"], "nothing is written elsewhere"


def test_that_memory_is_watched():
    with pytest.raises(AssertionError):
        refused_or_done(lambda: bytearray(MOST_MEMORY + 1))
