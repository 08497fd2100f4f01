#!/usr/bin/env bash
# Installs the Debian packages of the named groups of tools/packages.txt, if any is missing.
# usage: tools/install_packages.sh [--list] [GROUP...]     groups: build run test check fuzz fresh browser proxy; default: build run
# Without root it works when nothing is missing; else it uses sudo, or prints the command to run and exits with 1.
set -euo pipefail
list="$(cd "$(dirname "$0")" && pwd)/packages.txt"
only_list=0
groups=()
for argument in "$@"; do
  case "$argument" in
    -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    --list) only_list=1 ;;
    *)
      if ! grep -q "^$argument " "$list"; then
        echo "install_packages: no group '$argument' in $list" >&2
        exit 2
      fi
      groups+=("$argument") ;;
  esac
done
[ ${#groups[@]} -gt 0 ] || groups=(build run)

wanted=()
for group in "${groups[@]}"; do
  while read -r name; do wanted+=("$name"); done < <(awk -v g="$group" '$1 == g { print $2 }' "$list")
done
if [ "$only_list" = 1 ]; then
  printf '%s\n' "${wanted[@]}"
  exit 0
fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "packages: not a Debian system; make sure that the equivalents of these are installed: ${wanted[*]}" >&2
  exit 0
fi

find_missing() {
  missing=()
  local name
  for name in "${wanted[@]}"; do
    if [ "$(dpkg-query -W -f='${db:Status-Status} ' "$name" 2>/dev/null | awk '{print $1}')" != installed ]; then
      missing+=("$name")
    fi
  done
}
find_missing
if [ ${#missing[@]} -eq 0 ]; then
  echo "packages: all ${#wanted[@]} of ${groups[*]} are installed"
  exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    # sudo drops the environment; apt may depend on its proxy variables.
    as_root=(sudo env)
    for variable in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
      [ -n "${!variable:-}" ] && as_root+=("$variable=${!variable}")
    done
  else
    echo "packages: ${#missing[@]} are missing, and installing needs root. Run this, then start again:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
fi
echo "packages: installing ${missing[*]}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
attempt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 update >"$log" 2>&1 &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
      install --no-install-recommends "${missing[@]}" </dev/null >"$log" 2>&1
}
if ! attempt; then
  sleep 3
  if ! attempt; then
    tail -n 20 "$log" >&2
    echo "packages: apt-get failed (its last words are above); is the network up, and are apt's sources right?" >&2
    exit 1
  fi
fi
find_missing
if [ ${#missing[@]} -ne 0 ]; then
  echo "packages: still missing after the installation: ${missing[*]}" >&2
  exit 1
fi
