#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Tests start a real SLURM, a real mpirun, and a screen for windows: install them where that can be done, else say what
# is missing.
set -eu
for program in mpirun munged slurmctld slurmd sbatch xvfb-run xauth; do
    command -v "$program" >/dev/null || PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || missing=$program
done
[ -n "${missing:-}" ] || exit 0
packages="openmpi-bin munge slurm-wlm xvfb xauth"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
else
    echo "$missing is missing, which tests start: install the Debian packages $packages, then run make test again" >&2
    exit 1
fi
