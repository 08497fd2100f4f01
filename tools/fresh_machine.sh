#!/usr/bin/env bash
# Proves that a bare Debian 12 is enough: makes a minimal root, clones HEAD of this repository into it, and runs
# ./quickstart.sh and ./test.sh there with nothing installed by hand.
# usage: tools/fresh_machine.sh [--keep] [--dir DIR] [--run COMMAND]...
#   --dir DIR      where the root is made (default: a new folder under ${TMPDIR:-/tmp}); needs about 4 GB
#   --run COMMAND  run these instead of the two commands, in order
#   --keep         leave the root in place
# Needs root (chroot and bind mounts, in a mount namespace of its own) and mmdebstrap. apt sources and options,
# resolver, proxies, certificates and pip's settings are those of this machine, read when it runs.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
keep=0
dir=""
commands=()
while [ $# -gt 0 ]; do
  case "$1" in
    --keep) keep=1; shift ;;
    --dir) dir="$2"; shift 2 ;;
    --run) commands+=("$2"); shift 2 ;;
    -h|--help) sed -n '2,9s/^# //p' "$0"; exit 0 ;;
    *) echo "fresh_machine: unknown argument '$1' (see --help)" >&2; exit 2 ;;
  esac
done
[ ${#commands[@]} -gt 0 ] || commands=("./quickstart.sh" "./test.sh")
if [ "$(id -u)" != 0 ]; then
  echo "fresh_machine: needs root for chroot; run it as root or with sudo" >&2
  exit 1
fi
"$here/tools/install_packages.sh" fresh check

[ -n "$dir" ] || dir="$(mktemp -d "${TMPDIR:-/tmp}/heddle-fresh.XXXXXX")"
root="$dir/root"
mkdir -p "$dir"
clean_up() {
  if [ "$keep" = 1 ]; then
    echo "fresh_machine: kept $root"
  else
    rm -rf --one-file-system "$dir"
  fi
}
trap clean_up EXIT

# This machine's Debian sources, one file of each format, and the options that tell apt how to reach them.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  [ -f "$file" ] || continue
  if grep -qE '^[^#]*\bbookworm\b' "$file" && grep -qE '^[^#]*\bmain\b' "$file"; then sources+=("$file"); fi
done
if [ ${#sources[@]} -eq 0 ]; then
  echo "fresh_machine: no apt source for bookworm on this machine; it takes its sources from there" >&2
  exit 1
fi
options=()
while read -r option; do
  options+=("--aptopt=$option")
done < <(apt-config dump | grep -E '^Acquire::([a-z]+::)?(Proxy|Check-Valid-Until|Check-Date|CAInfo|Verify-[A-Za-z]+)[ :]' |
           grep -v '""')
started=$SECONDS
echo "fresh_machine: making a minimal Debian 12 in $root"
if ! mmdebstrap --quiet --mode=root --variant=minbase "${options[@]}" bookworm "$root" "${sources[@]}" \
    >"$dir/mmdebstrap.log" 2>&1; then
  tail -n 20 "$dir/mmdebstrap.log" >&2
  echo "fresh_machine: mmdebstrap failed" >&2
  exit 1
fi
echo "fresh_machine: $(du -sm "$root" | cut -f1) MB in $((SECONDS - started)) s"

# What reaches the network here must reach it there. A variable that names a file or folder gets a copy of it, since
# installing packages in the new root writes its own certificates.
mkdir -p "$root/opt/host"
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
  [ -f "$file" ] && cp -L "$file" "$root$file"
done
environment=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
             "TERM=${TERM:-dumb}")
for variable in $(compgen -e); do
  case "$variable" in
    PIP_CACHE_DIR|PIP_TARGET|PIP_PREFIX|PIP_USER|PIP_REQUIRE_VIRTUALENV) continue ;;
    PIP_*|*_proxy|*_PROXY|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE) ;;
    *) continue ;;
  esac
  value="${!variable}"
  if [ "${value#/}" != "$value" ] && [ -e "$value" ]; then
    mkdir -p "$root/opt/host/$variable"
    cp -rL "$value" "$root/opt/host/$variable/"
    value="/opt/host/$variable/$(basename "$value")"
  fi
  environment+=("$variable=$value")
done
git clone --quiet "file://$here" "$root/root/heddle"
echo "fresh_machine: cloned $(git -C "$root/root/heddle" log -1 --format='%h %s')"

# In a mount namespace of their own, the mounts end with the command, however it ends.
enter() {
  unshare --mount --propagation private bash -euc '
    root="$1"; shift
    for mount in proc sys dev; do mount --rbind "/$mount" "$root/$mount"; done
    exec chroot "$root" "$@"' enter "$root" env -i "${environment[@]}" bash -c "cd /root/heddle && $1" </dev/null
}
failed=0
for command in "${commands[@]}"; do
  started=$SECONDS
  echo "fresh_machine: --- $command"
  status=0
  enter "$command" || status=$?
  echo "fresh_machine: --- $command: exit status $status after $((SECONDS - started)) s"
  [ "$status" = 0 ] || failed=$((failed + 1))
done
echo "fresh_machine: $((${#commands[@]} - failed)) passed, $failed failed"
[ "$failed" = 0 ]
