#!/bin/bash
# Gathers what must travel to a machine with a GPU that has none of this one's libraries: programs of a build, stripped,
# and the shared libraries that they load, but those of the C library.
#
# usage: tools/gpu_bundle.sh FOLDER PROGRAM...
# There: LD_LIBRARY_PATH=FOLDER/lib FOLDER/PROGRAM
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
folder=$1; shift
mkdir -p "$folder/lib"
for program in "$@"; do
  strip -o "$folder/$(basename "$program")" "$program"
  ldd "$program" | awk '$3 ~ /^\// {print $3}' | grep -vE '/(libc|libm|libpthread|libdl|librt|ld-linux[^/]*)\.so' |
    while read -r library; do strip -o "$folder/lib/$(basename "$library")" "$library"; done
done
du -sh "$folder"
