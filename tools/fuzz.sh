#!/usr/bin/env bash
# Fuzzes every parser of outside bytes with libFuzzer, each for the given time, under ASan and UBSan.
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
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for source in test/fuzz/*_fuzz.cpp; do
    [ -f "$source" ] && names+=("$(basename "$source" _fuzz.cpp)")
  done
fi
if [ ${#names[@]} -eq 0 ]; then
  echo "fuzz: there is no test/fuzz/*_fuzz.cpp" >&2
  exit 1
fi
tools/install_packages.sh build test fuzz
mkdir -p build
if ! cmake --preset fuzz >build/configure.log 2>&1; then
  cat build/configure.log >&2
  exit 1
fi
cmake --build build/fuzz --target "${names[@]/%/_fuzz}"

bad=()
for name in "${names[@]}"; do
  mkdir -p "build/fuzz/corpus/$name" "build/fuzz/found/$name"
  echo "== $name, $seconds s"
  log="build/fuzz/$name.log"
  # One input may take 5 s and 512 MiB: what comes from outside must not cost more.
  if "build/fuzz/${name}_fuzz" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -malloc_limit_mb=512 \
      -artifact_prefix="build/fuzz/found/$name/" "build/fuzz/corpus/$name" "test/fuzz/corpus/$name" >"$log" 2>&1; then
    grep -E '^(Done|#[0-9]+.*(DONE|INITED))' "$log" | tail -n 2
  else
    bad+=("$name")
    tail -n 40 "$log"
  fi
done
echo "fuzz: $((${#names[@]} - ${#bad[@]})) passed, ${#bad[@]} failed${bad[*]:+: ${bad[*]}}"
[ ${#bad[@]} -eq 0 ]
