# SPDX-License-Identifier: GPL-3.0-or-later
"""``python benchmarks/run.py [--rounds R] [--scale S]``: how fast, against what is installed; writes RESULTS.md.

Whole processes on stacks in the page cache, one after the other in turn, so that a machine whose speed drifts
drifts for all; before each, its input is read and what was written goes to the disk. RELION gets its memory
allocator tuned, and on two cores two processes with half of the images each, since none of its programs
spreads a stack over cores. cryoDRGN and ASPIRE, each in an environment of its own, are found by the PATH. Rates
are images per second; each figure is the median of the rounds, each ratio the median of those within a round.
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
from pathlib import Path
from typing import Callable, NamedTuple

import metadata
import mrcfile
import numpy as np

from downsample_plugin.core import DownsamplePlan, Downsampler

HERE = Path(__file__).parent
CASES = ((512, 128), (512, 256), (256, 128), (256, 64))
IMAGES = {512: 1500, 256: 6000}
PARTICLES = (600, 6000, 60000)  # of the stack of 256 px, over and over
SLOW = ("cryoDRGN", "ASPIRE")  # once is enough to see it
FULL_WORK = ["--lowpass", "12", "--normalize", "-1", "--float16"]
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}


class Run(NamedTuple):
    """Seconds and peak memory (MB, of the largest process) of a run."""

    seconds: float
    megabytes: float


def main() -> None:
    """Run all contests and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes that are started
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of images")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        counts = {box: int(count * options.scale) for box, count in IMAGES.items()}
        # in a process of its own: those that are timed begin with the memory of the one that starts them
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.starmap(_write_stack, counts.items())
        for box, cropped in CASES:
            for cores in (1, 2):
                runs = _rounds(_contestants(box, cropped, cores), options.rounds, f"s{box}*.mrcs")
                lines += list(_rows(f"{box} → {cropped}", cores, runs, counts[box], _kernel_rate(box, cropped, cores)))
                print("\n".join(lines[-len(runs) :]), flush=True)
        scaling = []
        for particles in PARTICLES:
            scaling += _scaling(int(particles * options.scale), counts[256], options.rounds)
            print("\n".join(scaling[-2:]), flush=True)
        costs = []
        for particles in metadata.PARTICLES:
            rounds = options.rounds if particles < max(metadata.PARTICLES) else 1  # of many minutes
            costs.append(metadata.row(int(particles * options.scale), rounds))
            print(costs[-1], flush=True)
    (HERE / "RESULTS.md").write_text(_page(lines, scaling, costs, options.rounds, counts), encoding="utf-8")


def _write_stack(box: int, count: int) -> None:
    """White noise, and the same in two halves for programs that use one core."""
    rng = np.random.default_rng(box)
    with mrcfile.new_mmap(f"s{box}.mrcs", (count, box, box), mrc_mode=2) as stack:
        for i in range(count):
            stack.data[i] = rng.standard_normal((box, box), dtype=np.float32)
        half = count // 2
        mrcfile.write(f"s{box}_1.mrcs", stack.data[:half])
        mrcfile.write(f"s{box}_2.mrcs", stack.data[half:])


def _contestants(box: int, cropped: int, cores: int) -> dict[str, Callable[[], Run]]:
    program = [sys.executable, "-m", "downsample_plugin", f"s{box}.mrcs", "--apix", "1", "-o", "out", "--force"]
    ours = [*program, "--box", str(cropped), "--jobs", str(cores)]
    found = {"ours": lambda: _run([ours]), "ours, all work": lambda: _run([[*ours, *FULL_WORK]])}
    if shutil.which("relion_preprocess"):
        stacks = [f"s{box}.mrcs"] if cores == 1 else [f"s{box}_1.mrcs", f"s{box}_2.mrcs"]
        relion = [
            ["relion_preprocess", "--operate_on", stack, "--scale", str(cropped), "--operate_out", f"relion_{stack}"]
            for stack in stacks
        ]
        found["RELION, tuned"] = lambda: _run(relion, TUNED_MALLOC)
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


def _run(commands: list[list[str]], environment: dict[str, str] | None = None) -> Run:
    """Run commands at the same time, as whole processes."""
    shutil.rmtree("out", ignore_errors=True)
    for old in Path().glob("relion_*"):  # each writes new files
        old.unlink()
    start = time.perf_counter()
    started = [
        subprocess.Popen(c, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL) for c in commands
    ]
    ended = [os.wait4(process.pid, 0) for process in started]
    seconds = time.perf_counter() - start
    for process, (_, status, _) in zip(started, ended):
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, process.args
    return Run(seconds, max(usage.ru_maxrss for _, _, usage in ended) / 1024)


def _rounds(contestants: dict[str, Callable[[], Run]], rounds: int, inputs: str) -> dict[str, list[Run]]:
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


def _scaling(particles: int, images: int, rounds: int) -> list[str]:
    """Rows for so many particles of the images of 256 px, on one and on two workers."""
    lines = [f"{i % images + 1:06d}@s256.mrcs 1" for i in range(particles)]
    Path("many.star").write_text(
        "\ndata_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnImageSize\n1 1.0 256\n\n"
        "data_particles\n\nloop_\n_rlnImageName\n_rlnOpticsGroup\n" + "\n".join(lines) + "\n"
    )
    program = [sys.executable, "-m", "downsample_plugin", "many.star", "-o", "out", "--force", "--box", "128", "--jobs"]
    contestants = {workers: lambda workers=workers: _run([[*program, str(workers)]]) for workers in ("1", "2")}
    runs = _rounds(contestants, rounds, "s256.mrcs")
    rows = []
    for workers, of_workers in runs.items():
        rate = particles / statistics.median(run.seconds for run in of_workers)
        gain = statistics.median(one.seconds / run.seconds for one, run in zip(runs["1"], of_workers))
        memory = max(run.megabytes for run in of_workers)
        rows.append(f"| {particles} | {workers} | {rate:.0f} | {gain:.2f} | {memory:.0f} |")
    return rows


def _kernel_rate(box: int, cropped: int, cores: int) -> float:
    """Images per second of the same transforms alone, on an image in memory, in so many processes."""
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        return sum(pool.map(_kernel_rate_of_one, [(box, cropped)] * cores, chunksize=1))


def _kernel_rate_of_one(case: tuple[int, int]) -> float:
    box, cropped = case
    downsampler = Downsampler(DownsamplePlan(box, 1.0, fourier_crop_size=cropped))
    block = downsampler.block
    image = np.random.default_rng(0).standard_normal((box, box), dtype=np.float32)
    for place in range(block):
        downsampler.put(place, image, (0, 0), (0.0, 0.0))
    out = np.empty((block, cropped, cropped), dtype=np.float32)
    count, end = 0, time.perf_counter() + 2.0
    while time.perf_counter() < end:
        downsampler.run(block, out)
        count += block
    return count / 2.0


def _rows(case: str, cores: int, runs: dict[str, list[Run]], count: int, kernel: float) -> list[str]:
    rows = []
    for name, of_name in runs.items():
        rate = count / statistics.median(run.seconds for run in of_name)
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(of_name, runs["ours"]))
        share = f"{rate / kernel:.0%}" if name.startswith("ours") else ""
        memory = max(run.megabytes for run in of_name)
        rows.append(f"| {case} | {cores} | {name} | {rate:.0f} | {ratio:.2f} | {share} | {memory:.0f} |")
    return rows


def _page(lines: list[str], scaling: list[str], costs: list[str], rounds: int, counts: dict[int, int]) -> str:
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    stacks = ", ".join(f"{count} images of {box}²" for box, count in counts.items())
    head = f"""# Results

Made by `python benchmarks/run.py`: commit {commit.strip()}, {cpus[0]}, {os.cpu_count()} cores, Python
{platform.python_version()}. {stacks}, float32, in the page cache; whole processes, start-up included; median of
{rounds} rounds in turn.

*times as long* is the time against ours in the same round; *of kernel* is the rate against that of the same
transforms on an image in memory in as many processes; *all work* adds a low-pass, background normalisation and
16-bit output. cryoDRGN and ASPIRE ran once. Peak memory is that of the largest process; below 60 MB it is that of what
started it.

Why it is done as it is, and what limits it: [NOTES.md](NOTES.md).

| box | cores | program | images/s | times as long | of kernel | peak MB |
|---|---|---|---|---|---|---|
"""
    tables = f"""
## Particles and workers

256 → 128, a STAR file of particles that share the stack of {counts[256]} images. *times one worker* is the gain in the
same round.

| particles | workers | images/s | times one worker | peak MB |
|---|---|---|---|---|
{chr(10).join(scaling)}

## What particles cost beside their pixels

Made by `metadata.py`: from a Scipion set to the job and from the results to the output set (*ours*), against bare
pwem `copyItems` of the same set in the same round; and the program on two workers with images of {metadata.BOX}², whose
pixels cost next to nothing. Peak memory of each process.

{metadata.HEAD}{chr(10).join(costs)}
"""
    return head + "\n".join(lines) + "\n" + tables


if __name__ == "__main__":
    main()
