#!/bin/bash
# On a machine with a GPU: every test with the label gpu, compute-sanitizer over short ones, the kernel bench.
#
# usage: tools/gpu_suite.sh FOLDER [RESULTS]
# FOLDER holds the programs: build/cuda, or what tools/gpu_bundle.sh gathered. Logs and bench.jsonl go to RESULTS
# (default: FOLDER/results). Exits with 1 if a test failed, the sanitizer complained, or there is no GPU.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
folder=$(cd "$1" && pwd); results=${2:-$folder/results}; failed=0
mkdir -p "$results"
[ -d "$folder/lib" ] && export LD_LIBRARY_PATH=$folder/lib
"$folder/heddle" info | grep '^cuda'
"$folder/heddle" info | grep -q '^cuda:0' || exit 1
for suite in "$folder"/*_gpu_test; do
  name=$(basename "$suite")
  "$suite" >"$results/$name.log" 2>&1 || { failed=1; grep -E '^\[  FAILED|Failure' "$results/$name.log"; }
  grep -E '^\[  (PASSED|SKIPPED)' "$results/$name.log" | sed "s/^/$name /"
done
short='Elementwise*Add*:Matmul*Accumulates*:*CuttingAndCompany*/heads'
for tool in memcheck racecheck initcheck; do
  compute-sanitizer --tool "$tool" --error-exitcode 1 "$folder/ops_gpu_test" --gtest_filter="$short" \
    >"$results/$tool.log" 2>&1 || failed=1
  echo "$tool: $(grep -E 'SUMMARY' "$results/$tool.log")"
done
"$folder/heddle" bench kernels --device cuda:0 --json >"$results/bench.jsonl" || failed=1
exit $failed
