# SPDX-License-Identifier: GPL-3.0-or-later
"""``python benchmarks/run.py [--rounds R] [--scale S]``: how fast, against what is installed; writes RESULTS.md.

Whole processes on stacks in the page cache, one after the other in turn, so that a machine whose speed drifts
drifts for all; before each, its input is read and what was written goes to the disk. RELION gets its memory
allocator tuned, and on two cores two processes with half of the images each, since none of its programs
spreads a stack over cores. cryoDRGN and ASPIRE, each in an environment of its own, are found by the PATH. Rates
are images per second; each figure is the median of the rounds, each ratio the median of those within a round.
What more images take is the time of a stack less that of its first half, each the shortest of the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, NamedTuple

import metadata
import mrcfile
import numpy as np

from downsample_plugin.core import DownsamplePlan, Downsampler
from downsample_plugin.core.memory import aligned_zeros
from downsample_plugin.engine.worker import BYTES_PER_WRITE

HERE = Path(__file__).parent
CASES = ((512, 128), (512, 256), (256, 128), (256, 64))
LIMITED = ((512, 128), (256, 64))  # whose limits of speed-up are told
IMAGES = {512: 1500, 256: 6000}
PARTICLES = (600, 6000, 60000)  # of 256 px
SLOW = ("cryoDRGN", "ASPIRE")  # once is enough to see it
FULL_WORK = ["--lowpass", "12", "--normalize", "-1", "--float16"]
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}
HEADER_BYTES = 1024


class Run(NamedTuple):
    """Seconds, processor time (s) and peak memory (MB, of the largest process) of a run."""

    seconds: float
    processor: float = 0.0
    megabytes: float = 0.0


Contestant = Callable[[], Run]
Contestants = dict[str, Contestant]


def main() -> None:
    """Run all contests and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes that are started
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a program that is installed is compiled
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of images")
    options = parser.parse_args()
    rounds, scale = options.rounds, options.scale
    counts = {box: int(count * scale) for box, count in IMAGES.items()}
    tables: dict[str, list[str]] = {"more": [], "whole": [], "particles": []}

    def add(table: str, lines: Sequence[str]) -> None:
        tables.setdefault(table, []).extend(lines)
        print("\n".join(lines), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for box, count in counts.items():  # in a process of its own: those that are timed begin with our memory
            _alone(_write_stacks, box, count)
        processor = {}
        for case in CASES:
            processor[case], lines = _more_rows(*case, counts[case[0]], rounds)
            add("more", lines)
        for case in CASES:
            for cores in (1, 2):
                add("whole", _whole_rows(*case, cores, counts[case[0]], rounds))
        for particles in PARTICLES:
            add("particles", _particle_rows(int(particles * scale), counts[256], rounds))
        serial = {}
        for particles in (int(count * scale) for count in metadata.PARTICLES):
            bare, lines = metadata.protocol_rows(particles, rounds)
            add("protocols", lines)
            serial["protocol, alignment connected"] = _cell(lines[0], 3)
            for columns in metadata.STAR_COLUMNS:
                line = metadata.star_row(particles, columns, rounds, bare / particles)
                add("star", [line])
                serial[f"STAR file of {columns} columns"] = _cell(line, 3)
        for case in LIMITED:
            add("limits", _limit_rows(*case, serial, processor[case]))
    (HERE / "RESULTS.md").write_text(_page(tables, options, counts), encoding="utf-8")


def _write_stacks(box: int, count: int) -> None:
    """White noise; the same in two halves; and its first image."""
    rng = np.random.default_rng(box)
    with mrcfile.new_mmap(f"s{box}.mrcs", (count, box, box), mrc_mode=2) as stack:
        for i in range(count):
            stack.data[i] = rng.standard_normal((box, box), dtype=np.float32)
        half = count // 2
        mrcfile.write(f"s{box}_1.mrcs", stack.data[:half])
        mrcfile.write(f"s{box}_2.mrcs", stack.data[half:])
        mrcfile.write(f"s{box}_one.mrcs", stack.data[:1])


# ---- what more images take ---------------------------------------------------------------------------------


def _more_rows(box: int, cropped: int, count: int, rounds: int) -> tuple[float, list[str]]:
    """Processor time of one more image, and rows of the table."""
    sizes = {f"s{box}.mrcs": count, f"s{box}_1.mrcs": count // 2, f"s{box}_one.mrcs": 1}
    whole, half, one = (
        _rounds(_on_one_core(stack, size, box, cropped), rounds, stack) for stack, size in sizes.items()
    )
    more = count - count // 2
    rows = []
    ours = _least(whole["ours"]).seconds - _least(half["ours"]).seconds
    for name in whole:
        seconds = _least(whole[name]).seconds - _least(half[name]).seconds
        processor = 1e6 * (_least(whole[name]).processor - _least(half[name]).processor) / more
        start = _least(one[name]).seconds
        alone = f"{processor:.0f} | {start:.2f}" if name != "bare loop" else " | "
        rows.append(f"| {box} → {cropped} | {name} | {more / seconds:.0f} | {ours / seconds:.2f} | {alone} |")
    return (_least(whole["ours"]).processor - _least(half["ours"]).processor) / more, rows


def _least(runs: Sequence[Run]) -> Run:
    """The least of each figure: of a difference between two runs, whatever disturbs either is a large part."""
    return Run(*map(min, zip(*runs)))


def _on_one_core(stack: str, count: int, box: int, cropped: int) -> Contestants:
    """All that runs on one core, and our program with two workers on two."""
    ours, relion = _ours(stack, cropped), _relion(stack, cropped)
    found: Contestants = {
        "ours": lambda: _run([[*ours, "--jobs", "1"]], cores={0}),
        "ours, all work": lambda: _run([[*ours, "--jobs", "1", *FULL_WORK]], cores={0}),
        "ours, two workers": lambda: _run([[*ours, "--jobs", "2"]]),
        "bare loop": lambda: Run(_alone(_bare_loop, stack, count, box, cropped)),
    }
    if shutil.which("relion_preprocess"):
        found["RELION, tuned"] = lambda: _run([relion], TUNED_MALLOC, {0})
    return found


def _bare_loop(stack: str, count: int, box: int, cropped: int) -> float:
    """Seconds to read, Fourier crop and write all images on one core, through the buffers of the program."""
    os.sched_setaffinity(0, {0})
    downsampler = Downsampler(DownsamplePlan(box, 1.0, fourier_crop_size=cropped))
    cropper, windows, at_once = downsampler._cropper, downsampler._windows, downsampler._at_once
    assert cropper is not None
    block = min(len(windows), count)
    blocks = max(BYTES_PER_WRITE // (4 * len(windows) * cropped**2), 1)
    images = aligned_zeros((blocks * len(windows), cropped, cropped), "float32")
    start = time.perf_counter()
    source, target = os.open(stack, os.O_RDONLY), os.open("bare.mrcs", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.ftruncate(target, HEADER_BYTES + count * images[0].nbytes)
    for first in range(0, count, len(images)):
        for place in range(0, min(len(images), count - first), block):
            os.preadv(source, [windows[:block].data.cast("B")], HEADER_BYTES + (first + place) * windows[0].nbytes)
            for some in range(0, block, at_once):
                into = images[place + some : place + some + at_once]
                cropper.crop(windows[some : some + at_once], None, into)
        os.pwrite(target, images[: count - first].data.cast("B"), HEADER_BYTES + first * images[0].nbytes)
    os.close(source)
    os.close(target)
    return time.perf_counter() - start


# ---- whole runs --------------------------------------------------------------------------------------------


def _whole_rows(box: int, cropped: int, cores: int, count: int, rounds: int) -> list[str]:
    runs = _rounds(_contestants(box, cropped, cores), rounds, f"s{box}*.mrcs")
    rows = []
    for name, of_name in runs.items():
        rate = count / statistics.median(run.seconds for run in of_name)
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(of_name, runs["ours"]))
        memory = max(run.megabytes for run in of_name)
        rows.append(f"| {box} → {cropped} | {cores} | {name} | {rate:.0f} | {ratio:.2f} | {memory:.0f} |")
    return rows


def _contestants(box: int, cropped: int, cores: int) -> Contestants:
    ours = [*_ours(f"s{box}.mrcs", cropped), "--jobs", str(cores)]
    found: Contestants = {"ours": lambda: _run([ours]), "ours, all work": lambda: _run([[*ours, *FULL_WORK]])}
    if shutil.which("relion_preprocess"):
        stacks = [f"s{box}.mrcs"] if cores == 1 else [f"s{box}_1.mrcs", f"s{box}_2.mrcs"]
        found["RELION, tuned"] = lambda: _run([_relion(stack, cropped) for stack in stacks], TUNED_MALLOC)
    if cores == 2 and shutil.which("cryodrgn"):
        cryodrgn = ["cryodrgn", "downsample", f"s{box}.mrcs", "-D", str(cropped), "-o", "cryodrgn.mrcs", "-b", "100"]
        found["cryoDRGN"] = lambda: _run([cryodrgn])
    aspire = shutil.which("aspire")
    if cores == 2 and aspire:
        code = (
            f"from aspire.image import Image; Image.load('s{box}.mrcs').downsample({cropped})"
            ".save('aspire.mrcs', overwrite=True)"
        )
        found["ASPIRE"] = lambda: _run([[str(Path(aspire).with_name("python")), "-c", code]])
    return found


def _ours(source: str, cropped: int) -> list[str]:
    program = [sys.executable, "-m", "downsample_plugin", source, "-o", "out", "--force", "--box", str(cropped)]
    program.append("--no-picture")  # which the others have not either
    return program if source.endswith(".star") else [*program, "--apix", "1"]


def _relion(stack: str, cropped: int) -> list[str]:
    return [
        "relion_preprocess", "--operate_on", stack, "--scale", str(cropped), "--operate_out", f"relion_{stack}"
    ]  # fmt: skip


def _run(commands: list[list[str]], environment: dict[str, str] | None = None, cores: set[int] | None = None) -> Run:
    """Run commands at the same time, as whole processes, on some cores or all."""
    shutil.rmtree("out", ignore_errors=True)
    for old in Path().glob("relion_*"):  # each writes new files
        old.unlink()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)  # what is started has the same
    start = time.perf_counter()
    started = [
        subprocess.Popen(c, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL) for c in commands
    ]
    ended = [os.wait4(process.pid, 0) for process in started]
    seconds = time.perf_counter() - start
    os.sched_setaffinity(0, before)
    for process, (_, status, _) in zip(started, ended):
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, process.args
    usages = [usage for _, _, usage in ended]
    processor = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Run(seconds, processor, max(usage.ru_maxrss for usage in usages) / 1024)


def _rounds(contestants: Contestants, rounds: int, inputs: str) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for number in range(rounds + 1):  # the first warms up
        for name, contestant in contestants.items():
            if name in SLOW and number != 1:
                continue
            _read(inputs)
            os.sync()
            run = contestant()
            if number:
                runs[name].append(run)
    return runs


def _read(inputs: str) -> None:
    """Bring files into the page cache, from which some machines drop them within minutes."""
    buffer = bytearray(1 << 22)
    for path in Path().glob(inputs):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _alone(work: Callable[..., float | None], *arguments: object) -> float:
    """Do some work in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments) or 0.0


# ---- particles ---------------------------------------------------------------------------------------------


def _particle_rows(particles: int, images: int, rounds: int) -> list[str]:
    """Rows for so many particles of 256 px, each an image of its own to the program, on one and on two workers."""
    for number in range(-(-particles // images)):
        if not os.path.lexists(f"link_{number}.mrcs"):
            os.symlink("s256.mrcs", f"link_{number}.mrcs")
    lines = [f"{i % images + 1:06d}@link_{i // images}.mrcs 1" for i in range(particles)]
    Path("many.star").write_text(
        "\ndata_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnImageSize\n1 1.0 256\n\n"
        "data_particles\n\nloop_\n_rlnImageName\n_rlnOpticsGroup\n" + "\n".join(lines) + "\n"
    )
    program = [*_ours("many.star", 128), "--jobs"]
    contestants = {workers: lambda workers=workers: _run([[*program, workers]]) for workers in ("1", "2")}
    runs = _rounds(contestants, rounds, "s256.mrcs")
    rows = []
    for workers, of_workers in runs.items():
        rate = particles / statistics.median(run.seconds for run in of_workers)
        gain = statistics.median(one.seconds / run.seconds for one, run in zip(runs["1"], of_workers))
        memory = max(run.megabytes for run in of_workers)
        rows.append(f"| {particles} | {workers} | {rate:.0f} | {gain:.2f} | {memory:.0f} |")
    return rows


def _limit_rows(box: int, cropped: int, serial: dict[str, float], processor: float) -> list[str]:
    """How much faster many workers can be than one, where all but the images is done by one process."""
    parallel = processor * 1e6
    return [
        f"| {box} → {cropped} | {what} | {alone:.0f} | {parallel:.0f} | {(alone + parallel) / alone:.0f} |"
        for what, alone in serial.items()
    ]


def _cell(line: str, number: int) -> float:
    return float(line.split("|")[number])


# ---- the page ----------------------------------------------------------------------------------------------


def _page(tables: dict[str, list[str]], options: argparse.Namespace, counts: dict[int, int]) -> str:
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    stacks = ", ".join(f"{count} images of {box}²" for box, count in counts.items())
    text = {name: "\n".join(lines) for name, lines in tables.items()}
    open_sets = re.findall(r"## Following an open set\n.*?(?=## )", (HERE / "RESULTS.md").read_text("utf-8"), re.DOTALL)
    return f"""# Results

Made by `python benchmarks/run.py --scale {options.scale:g} --rounds {options.rounds}`: commit {commit.strip()},
{cpus[0]}, {os.cpu_count()} cores, Python {platform.python_version()}. {stacks}, float32,
in the page cache; median of the rounds in turn, but where it says otherwise.

*all work* adds a low-pass, background normalisation and 16-bit output. Why it is done as it is, and what limits it:
[NOTES.md](NOTES.md).

## More images

What each image more takes, without the start: the time of whole processes on a stack less that on its first half, each
the shortest of the rounds. On one core, but for *two workers*. *times ours* is the rate against that of ours; the *bare
loop* reads, Fourier crops and writes through the same buffers, and does nothing else. *processor* is the time that all
processes have of it together. *start* is a run of one image.

| box | program | images/s | times ours | processor, µs | start, s |
|---|---|---|---|---|---|
{text["more"]}

## Whole runs

Start-up included. *times as long* is the time against ours in the same round. cryoDRGN and ASPIRE ran once. Peak memory
is that of the largest process; below 60 MB it is that of what started it.

| box | cores | program | images/s | times as long | peak MB |
|---|---|---|---|---|---|
{text["whole"]}

## Particles and workers

256 → 128, a STAR file of particles, each an image of its own. *times one worker* is the gain in the same round, with
the start and what one process does alone.

| particles | workers | images/s | times one worker | peak MB |
|---|---|---|---|---|
{text["particles"]}

{"".join(open_sets)}## What particles cost beside their pixels

Made by `metadata.py`: processor time of all but the workers; of protocols against pwem's bare `copyItems` of the same
set in the same round, and of STAR files on a machine where that takes 85 µs a particle. Peak memory of each process.

{metadata.HEAD}{text["protocols"]}

{metadata.STAR_HEAD}{text["star"]}

## What limits the gain of workers

Processor time of a particle, µs: *serial* by one process, from the table above, and *parallel* by workers. However many
workers there are, they are together at most *limit* times as fast as one.

| box | from | serial | parallel | limit |
|---|---|---|---|---|
{text["limits"]}
"""


if __name__ == "__main__":
    main()
