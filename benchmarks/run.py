# SPDX-License-Identifier: GPL-3.0-or-later
"""``python benchmarks/run.py [--rounds R] [--images N]``: how fast, against what is installed; writes RESULTS.md.

Whole processes on stacks in the page cache, one after the other in turn, so that a machine whose speed drifts
drifts for all. RELION gets its memory allocator tuned, and on two cores two processes with half of the images
each, since none of its programs spreads a stack over cores. Rates are images per second; each figure is the
median of the rounds, each ratio the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import importlib.util
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

import mrcfile
import numpy as np

from downsample_plugin.core import DownsamplePlan, Downsampler

HERE = Path(__file__).parent
CASES = ((512, 128), (512, 256), (256, 128), (256, 64))
IMAGES = {512: 1500, 256: 6000}
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
                runs = _rounds(_contestants(box, cropped, cores), options.rounds)
                lines += list(_rows(f"{box} → {cropped}", cores, runs, counts[box], _kernel_rate(box, cropped, cores)))
                print("\n".join(lines[-len(runs) :]), flush=True)
    (HERE / "RESULTS.md").write_text(_page(lines, options.rounds, counts), encoding="utf-8")


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
    if cores == 2 and importlib.util.find_spec("aspire"):
        code = (
            f"from aspire.image import Image; Image.load('s{box}.mrcs').downsample({cropped})"
            ".save('aspire.mrcs', overwrite=True)"
        )
        found["ASPIRE"] = lambda: _run([[sys.executable, "-c", code]])
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


def _rounds(contestants: dict[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, contestant in contestants.items():
            runs[name].append(contestant())
    return {name: found[1:] for name, found in runs.items()}  # the first warms up


def _kernel_rate(box: int, cropped: int, cores: int) -> float:
    """Images per second of the same transforms alone, on an image in memory, in so many processes."""
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        return sum(pool.map(_kernel_rate_of_one, [(box, cropped)] * cores, chunksize=1))


def _kernel_rate_of_one(case: tuple[int, int]) -> float:
    box, cropped = case
    downsampler = Downsampler(DownsamplePlan(box, 1.0, fourier_crop_size=cropped))
    image = np.random.default_rng(0).standard_normal((box, box), dtype=np.float32)
    out = np.empty((cropped, cropped), dtype=np.float32)
    count, end = 0, time.perf_counter() + 2.0
    while time.perf_counter() < end:
        downsampler(image, out=out)
        count += 1
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


def _page(lines: list[str], rounds: int, counts: dict[int, int]) -> str:
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    stacks = ", ".join(f"{count} images of {box}²" for box, count in counts.items())
    head = f"""# Results

Made by `python benchmarks/run.py`: commit {commit.strip()}, {cpus[0]}, {os.cpu_count()} cores, Python
{platform.python_version()}. {stacks}, float32, in the page cache; whole processes, start-up included; median of
{rounds} rounds in turn.

*times as long* is the time against ours in the same round; *of kernel* is the rate against that of the same
transforms on an image in memory in as many processes; *all work* adds a low-pass, background normalisation and
16-bit output. Peak memory is that of the largest process; below 60 MB it is that of what started it.

Why it is done as it is, and what limits it: [NOTES.md](NOTES.md).

| box | cores | program | images/s | times as long | of kernel | peak MB |
|---|---|---|---|---|---|---|
"""
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
