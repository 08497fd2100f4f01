#!/usr/bin/env bash
# From a clone to answers: installs what is missing, builds Heddle, obtains a small real model, and talks to it.
# usage: ./quickstart.sh        starts the server, asks two questions of one conversation over HTTP, shows the speed
#        ./quickstart.sh chat   opens a chat in the terminal
# Can be run again: what is there already is kept. Needs no root when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")"
mode="${1:-ask}"
case "$mode" in
  ask|chat) ;;
  -h|--help) sed -n '2,5s/^# //p' "$0"; exit 0 ;;
  *) echo "quickstart: unknown argument '$mode' (see --help)" >&2; exit 2 ;;
esac
build=build/release
step() { printf '\n== %s\n' "$*"; }

step "1/4 packages"
tools/install_packages.sh build run

step "2/4 build"
mkdir -p build
if ! cmake --preset release >build/configure.log 2>&1; then
  cat build/configure.log >&2
  exit 1
fi
cmake --build "$build" --target heddle

step "3/4 model"
model="$(tools/fetch_model.py smollm2)"
echo "$model"

if [ "$mode" = chat ]; then
  step "4/4 chat (Ctrl-D ends it)"
  exec "$build/heddle" chat --model "$model"
fi

step "4/4 server and two questions"
log="$build/quickstart-server.log"
server=""
stop_server() {
  [ -n "$server" ] || return 0
  kill -TERM "$server" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  if kill -KILL "$server" 2>/dev/null; then echo "quickstart: the server did not stop on SIGTERM" >&2; fi
  server_status=0
  wait "$server" || server_status=$?
  server=""
}
trap stop_server EXIT
trap 'exit 130' INT TERM

# A port that is free now may be taken a moment later, hence the second try.
for try in 1 2 3; do
  port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
  "$build/heddle" serve --model "$model" --host 127.0.0.1 --port "$port" >"$log" 2>&1 </dev/null &
  server=$!
  if tools/ask_server.py --url "http://127.0.0.1:$port" --wait-for-pid "$server"; then break; fi
  stop_server
  if [ "$try" = 3 ] || ! grep -qi 'in use' "$log"; then
    echo "quickstart: the server did not become ready; the end of $log:" >&2
    tail -n 20 "$log" >&2
    exit 1
  fi
done
echo "build/release/heddle serve --model ... --port $port is ready"

status=0
tools/ask_server.py --url "http://127.0.0.1:$port" \
  "What is the capital of France?" "And which river runs through it?" || status=$?
stop_server
if [ "$status" != 0 ]; then
  echo "quickstart: the end of $log:" >&2
  tail -n 20 "$log" >&2
  exit "$status"
fi
if [ "$server_status" != 0 ]; then
  echo "quickstart: the server ended with status $server_status instead of 0; see $log" >&2
  exit 1
fi
printf '\nserver stopped. Next: ./quickstart.sh chat, or %s/heddle --help\n' "$build"
