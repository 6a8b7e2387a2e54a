#!/bin/bash
# A small Debian root file system for the tests and benchmarks of chroot: tests/make_rootfs.sh DIRECTORY [PACKAGE...]
#
# Does nothing where DIRECTORY is one already. Works as root and as an ordinary user (by fakechroot: then all files
# belong to that user). Release and mirror are those of this machine's apt. Needs mmdebstrap, and as an ordinary user
# fakechroot; as root it installs what is missing. About 25 s and 400 MB with the default packages.
# What is made has no device nodes, no set-id programs and an empty /dev and /proc: those are what a sandbox mounts.
set -euo pipefail

[ $# -gt 0 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
directory=$(realpath -m -- "$1")
shift
packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(bash gcc git libc6-dev make python3)

fail() { printf 'make_rootfs: %s\n' "$*" >&2; exit 1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

install_tools() {
    local tools=(mmdebstrap) missing=() tool
    is_root || tools+=(fakechroot fakeroot)
    for tool in "${tools[@]}"; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] && return
    is_root || fail "these packages are missing, and only root can install them: ${missing[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# "URI release" of the first archive that apt is set up for and that has this machine's own release.
find_archive() {
    apt-get indextargets --format "\$(REPO_URI) \$(RELEASE)" "Created-By: Packages" "Component: main" |
        awk -v release="$1" '$2 == release { print $1; exit }'
}

# How this machine's apt reaches its archives: proxies, and what it does not check.
apt_options() {
    apt-config dump | grep -E '^Acquire::(http|https|Check-[A-Za-z-]+)(::| )' | grep -v '""' || true
}

# fakechroot leads absolute links into the directory it works in. Nobody's name or devices belong into a test.
tidy() {
    local root=$1 link
    find "$root" -lname "$root/*" -print0 | while IFS= read -r -d '' link; do
        local target
        target=$(readlink "$link")
        ln -sfn "${target#"$root"}" "$link"
    done
    find "$root/dev" "$root/proc" "$root/sys" -mindepth 1 -delete
    find "$root" -xdev -type f -perm /6000 -exec chmod ug-s {} +
    printf 'rootfs\n' > "$root/etc/hostname"
    : > "$root/etc/resolv.conf"
    chmod 644 "$root/etc/hostname" "$root/etc/resolv.conf"
}

[ -x "$directory/usr/bin/dpkg" ] && exit 0
[ -e "$directory" ] && fail "$directory exists and is no Debian"
# shellcheck disable=SC1091  # the machine's
release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
archive=$(find_archive "$release")
[ -n "$archive" ] || fail "apt knows no archive of Debian ${release:-(this is none)}"
install_tools

work=$(mktemp -d "$directory.XXXXXX")
trap 'rm -rf "$work"' EXIT
options=()
while IFS= read -r line; do
    [ -z "$line" ] || options+=("--aptopt=$line")
done < <(apt_options)
umask 022
export PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive
mmdebstrap --quiet --mode="$(is_root && echo root || echo fakechroot)" --variant=minbase \
    --include="$(IFS=,; echo "${packages[*]}")" --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "${options[@]}" "$release" "$work/root" "$archive"
tidy "$work/root"
mv -T "$work/root" "$directory"
