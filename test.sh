#!/usr/bin/env bash
# Builds Heddle and runs its tests, installing what is missing.
# usage: ./test.sh [fast|slow|all|threads] [--preset NAME] [--build-only] [-- CTEST_ARGUMENTS]
#   fast      unit, contract and property tests: under a minute
#   slow      goldens, real models, end to end
#   all       both (default)
#   threads   the fast suites whose code shares data between threads, for --preset tsan
#   --preset  one of CMakePresets.json (default: dev), built in build/NAME
# Exit status 0 only if every test ran and passed. Real models are fetched once into $HEDDLE_MODELS_DIR
# (default: ~/.cache/heddle/models); Python packages go to build/venv.
set -euo pipefail
cd "$(dirname "$0")"
what=all
preset=dev
build_only=0
extra=()
while [ $# -gt 0 ]; do
  case "$1" in
    fast|slow|all|threads) what="$1"; shift ;;
    --preset) preset="${2:?--preset needs a name}"; shift 2 ;;
    --build-only) build_only=1; shift ;;
    --) shift; extra=("$@"); break ;;
    -h|--help) sed -n '2,10s/^# //p' "$0"; exit 0 ;;
    *) echo "test.sh: unknown argument '$1' (see --help)" >&2; exit 2 ;;
  esac
done
models="${HEDDLE_MODELS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/heddle/models}"
build="build/$preset"
step() { printf '\n== %s\n' "$*"; }

step "packages"
tools/install_packages.sh build run test

step "configure and build: $preset"
mkdir -p build
if ! cmake --preset "$preset" -DHEDDLE_MODELS_DIR="$models" >build/configure.log 2>&1; then
  cat build/configure.log >&2
  exit 1
fi
case "$what" in
  fast) targets=(fast_tests) ;;
  slow) targets=(slow_tests) ;;
  threads) targets=(threaded_tests) ;;
  all) targets=(fast_tests slow_tests) ;;
esac
cmake --build "$build" --target "${targets[@]}"
[ "$build_only" = 0 ] || exit 0

if [ "$what" = slow ] || [ "$what" = all ]; then
  step "what slow tests need: real models and Python packages"
  for model in smollm2 gemma3; do
    HEDDLE_MODELS_DIR="$models" tools/fetch_model.py "$model"
  done
  # The stamp holds the list that was installed: a changed list is installed again.
  if ! cmp -s tools/test-requirements.txt build/venv/installed.txt; then
    echo "creating build/venv (about half a minute)"
    rm -rf build/venv
    python3 -m venv build/venv
    build/venv/bin/python3 -m pip install --quiet --no-cache-dir -r tools/test-requirements.txt
    cp tools/test-requirements.txt build/venv/installed.txt
  fi
  echo "build/venv is ready"
fi

arguments=(--test-dir "$build" --output-on-failure --no-tests=error -j "$(nproc)")
case "$what" in
  fast) arguments+=(-L '^fast$') ;;
  slow) arguments+=(-L '^slow$') ;;
  threads) arguments+=(-L '^fast$' -R "$(cat "$build/threaded_suites")") ;;
esac
skipped_gpu=0
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
  arguments+=(-LE '^gpu$')
  skipped_gpu=$(ctest --test-dir "$build" -N -L '^gpu$' | sed -n 's/^Total Tests: //p')
fi
step "tests: $what"
status=0
if [ -t 1 ]; then
  ctest "${arguments[@]}" --progress "${extra[@]}" || status=$?
else
  ctest "${arguments[@]}" "${extra[@]}" | grep -vE '^ +Start +[0-9]+: ' || status=$?
fi
if [ "${skipped_gpu:-0}" != 0 ]; then
  printf '\nNOT RUN: %s tests need an NVIDIA GPU, and this machine has none\n' "$skipped_gpu"
fi
exit "$status"
