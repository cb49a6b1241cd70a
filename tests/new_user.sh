#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# As a new user: a fresh Debian with its own Python, a fresh clone, and every command of the README, one after the other.
#
#   sudo tests/new_user.sh FOLDER
#
# Makes the system in FOLDER/system (debootstrap), which may be removed afterwards. It takes the package sources, the
# certificates and pip's settings of this machine.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:?"usage: tests/new_user.sh FOLDER"}
system=$folder/system
command -v debootstrap >/dev/null || { echo "install the Debian package debootstrap" >&2; exit 1; }
# shellcheck disable=SC1091
. /etc/os-release

[ -x "$system/bin/sh" ] || debootstrap --variant=minbase "$VERSION_CODENAME" "$system" >"$folder/debootstrap.log"
mount --bind /proc "$system/proc"
trap 'umount "$system/proc"' EXIT

inside() {
    echo "+ $*"
    chroot "$system" /usr/bin/env -i HOME=/user LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        $(env | grep -E '^(PIP_|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|SSL_CERT_FILE)' || true) sh -euc "$*"
}

inside "apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv python3-tk make >/dev/null"
# pip there as it is here: its settings, and every file and folder that they name
for path in /etc/pip.conf $(pip config list 2>/dev/null | sed 's/^[^=]*=//' | grep -oE '/[A-Za-z0-9_./-]+' | sed 's#^///*#/#'); do
    if [ -e "$path" ]; then
        mkdir -p "$system$(dirname "$path")"
        cp -rLT "$path" "$system$path"
    fi
done
mkdir -p "$system/user"
rm -rf "$system/user/project"
git clone -q "$here" "$system/user/project"

inside "cd ~/project && make demo"
inside "cd ~/project && make demo PARTICLES=demo_project/projects/downsample_demo/simulated/simulated.mrcs APIX=1.31"
inside "cd ~ && python3 -m venv own && own/bin/python -m pip install --quiet ~/project"
inside "cd ~ && cp project/demo_project/projects/downsample_demo/simulated/simulated.mrcs particles.mrcs"
inside "cd ~ && . own/bin/activate && downsample-particles particles.mrcs --apix 1.31 -o small --pixel-size 3"
inside "cd ~ && . own/bin/activate && downsample-particles --help >/dev/null"
# the script of the README, on these particles
sed -n '/^```python$/,/^```$/p' "$here/README.md" | sed '/^```/d; s#"/data"#"/user/data"#' >"$system/user/script.py"
inside "cd ~ && mkdir -p data && cp particles.mrcs data && own/bin/python script.py"
echo "All commands of the README ran."
