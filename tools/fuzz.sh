#!/usr/bin/env bash
# Fuzzes every parser of outside bytes with libFuzzer, each for the given time, under ASan and UBSan, one on each core.
# usage: tools/fuzz.sh SECONDS [NAME...]      NAME as in test/fuzz/NAME_fuzz.cpp; default: all
# What it finds stays in build/fuzz/found/NAME: crash-*, timeout-* and oom-* are inputs to fix and then to keep in
# test/fuzz/corpus/NAME; new inputs that reach new code are collected in build/fuzz/corpus/NAME.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  ''|*[!0-9]*) sed -n '2,5s/^# //p' "$0"; exit 2 ;;
esac
seconds="$1"
shift
for name in "$@"; do
  if [ ! -f "test/fuzz/${name}_fuzz.cpp" ]; then
    echo "fuzz: there is no test/fuzz/${name}_fuzz.cpp" >&2
    exit 2
  fi
done
tools/install_packages.sh build test fuzz
mkdir -p build
if ! cmake --preset fuzz -DHEDDLE_FUZZ_SECONDS="$seconds" >build/configure.log 2>&1; then
  cat build/configure.log >&2
  exit 1
fi
targets=("${@/%/_fuzz}")
[ $# -gt 0 ] || targets=(slow_tests)
cmake --build build/fuzz --target "${targets[@]}"
names="$(IFS='|'; echo "${*:-.*}")"
ctest --test-dir build/fuzz --output-on-failure --no-tests=error -j "$(nproc)" -R "^fuzz\\.($names)\$"
