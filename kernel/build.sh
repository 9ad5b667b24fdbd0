#!/usr/bin/env bash
# build.sh ARCH [check|clean]: make the guest kernel, or take it from the cache.
#
#   build.sh x86_64         ../build/kernel/vmlinux-x86_64 and vmlinux-x86_64.zst
#   build.sh x86_64 check   only tell which options of the fragment Kconfig did not accept (exit 1 if any)
#   build.sh x86_64 clean   empty the cache
#
# Cache: ${BOXLITE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/boxlite}/kernel/<hash>/, where the hash covers the
# config, the patches, $recipe, the version of the source package and of the compiler and linker.
# Same hash, same bytes: time stamp, user and host are fixed, and no path of the build gets in.
set -euo pipefail
arch=${1:?usage: build.sh ARCH [check|clean]} mode=${2:-build}
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../build/kernel
cache=${BOXLITE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/boxlite}/kernel
package=linux-source-6.12
config=$here/config/$arch.config
jobs=${BOXLITE_JOBS:-2}
recipe=1 # to be raised with every change to the steps below that changes the bytes that come out

say() { echo "kernel: $*" >&2; }
as_root() { if ((EUID)); then sudo "$@"; else "$@"; fi; }

case $arch in
  x86_64) karch=x86 ;;
  *) say "no config for $arch"; exit 2 ;;
esac

need() { # PACKAGE...: install those that are missing
  local missing=() p
  for p; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
  done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]}"
  as_root apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 ||
    { as_root apt-get update -q >&2 && as_root apt-get install -y -q --no-install-recommends "${missing[@]}" >&2; }
}

if [[ $mode == clean ]]; then
  rm -rf "$cache"
  exit
fi

need gcc make zstd binutils
# The version decides the hash before anything large is fetched: what is installed, else what apt would take.
version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || true)
[[ -n $version ]] || version=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')
if [[ -z $version || $version == '(none)' ]]; then
  as_root apt-get update -q >&2
  version=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')
fi
hash=$({
  sha256sum <"$config"
  echo "recipe $recipe"
  cat "$here"/patches/*.patch | sha256sum
  echo "$package $version"
  gcc --version | head -n 1
  ld --version | head -n 1
} | sha256sum | cut -c 1-16)
kept=$cache/$hash

deliver() {
  mkdir -p "$out"
  local f
  for f in vmlinux vmlinux.zst; do
    local to=$out/vmlinux-$arch${f#vmlinux}
    cmp -s "$kept/$f" "$to" && continue
    cp --reflink=auto --sparse=always "$kept/$f" "$to.new$$" && mv "$to.new$$" "$to"
  done
  say "build/kernel/vmlinux-$arch $(stat -c %s "$kept/vmlinux") bytes, .zst $(stat -c %s "$kept/vmlinux.zst"), cache $hash"
}

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [[ $mode == build && -f $kept/vmlinux.zst ]]; then
  deliver
  exit
fi

need flex bison bc libelf-dev xz-utils patch "$package"
work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "unpacking $package $version"
tar -C "$work" -xf "/usr/src/$package.tar.xz"
src=$work/$package obj=$work/obj
for p in "$here"/patches/*.patch; do
  patch -d "$src" -p1 -s --no-backup-if-mismatch <"$p"
done
mkdir "$obj"
build() {
  env -u MAKEFLAGS -u MAKELEVEL LC_ALL=C ARCH=$karch \
    KBUILD_BUILD_TIMESTAMP="$(date -u -d "@$(stat -c %Y "$src/Makefile")" '+%Y-%m-%d %H:%M:%S UTC')" \
    KBUILD_BUILD_VERSION=1 KBUILD_BUILD_USER=boxlite KBUILD_BUILD_HOST=boxlite \
    make -s -C "$src" O="$obj" "$@" </dev/null
}
build KCONFIG_ALLCONFIG="$config" allnoconfig >/dev/null
refused=$(grep -E '^CONFIG_' "$config" | while IFS='=' read -r name value; do
  is=$(sed -n "s/^$name=//p" "$obj/.config")
  [[ ${is:-n} == "$value" ]] || echo "$name: wanted $value, got ${is:-n}"
done)
if [[ -n $refused ]]; then
  say "options that Kconfig did not take as config/$arch.config says:"
  echo "$refused" >&2
  exit 1
fi
[[ $mode == check ]] && exit

say "building with -j$jobs, cache $hash (6 to 15 minutes)"
build -j"$jobs" vmlinux >&2
mkdir -p "$work/new"
strip -o "$work/new/vmlinux" "$obj/vmlinux"
cp "$obj/.config" "$work/new/config"
cp "$obj/System.map" "$work/new/System.map"
zstd -q -19 -T"$jobs" "$work/new/vmlinux" -o "$work/new/vmlinux.zst"
rm -rf "$kept"
mv "$work/new" "$kept"
deliver
