#!/usr/bin/env bash
# The shard race on three members as separate processes on loopback, data on disk with fsync, a fresh cluster for each load.
# usage: tests/bench/race.sh ["CLIENTS SLOTS BYTES RACERS [WINDOW [stream]]"]...   (without any load, the standard ones)
# Prints a line of JSON for each load. Needs a release build (cargo build --release -p troika-store). Leaves nothing running.
#   TROIKA_BIN     folder of the binaries (target/release)
#   BENCH_DIR      where the data goes: must be on a real disk (a temporary folder)
#   BENCH_PORT     first of six ports (7300)
#   BENCH_ARGS     further arguments of `troikactl bench race`
#   SERVE_ARGS     further arguments of `troika-store serve`
#   BENCH_HOLD     a command that is run before the members are stopped; their process ids are its arguments
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
bin=${TROIKA_BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
port=${BENCH_PORT:-7300}
[[ -x $bin/troika-store && -x $bin/troikactl ]] || {
  echo "$bin has no troika-store and troikactl: cargo build --release --workspace --bins" >&2
  exit 2
}
data=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/troika-bench.XXXX")
pids=()
stop() {
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  pids=()
}
trap 'stop; rm -rf "$data"' EXIT

members="" endpoints=""
for n in 1 2 3; do
  members+="${members:+,}$n=127.0.0.1:$((port + 10 + n))"
  endpoints+="${endpoints:+,}http://127.0.0.1:$((port + n))"
done

loads=("$@")
[[ ${#loads[@]} -gt 0 ]] || loads=("1 1000 256 3" "64 10000 256 3" "64 40000 256 3 16 stream" "256 20000 256 3" "64 2000 32768 3" "64 2000 32768 3 1 stream")
for load in "${loads[@]}"; do
  read -r clients slots bytes racers window stream <<<"$load"
  for n in 1 2 3; do
    "$bin/troika-store" serve ${SERVE_ARGS:-} --id $n --data "$data/$n" --listen "127.0.0.1:$((port + n))" \
      --peer-listen "127.0.0.1:$((port + 10 + n))" --members "$members" >"$data/$n.log" 2>&1 &
    pids+=($!)
  done
  "$bin/troikactl" --endpoints "$endpoints" health --wait >/dev/null || { tail -n 5 "$data"/*.log >&2; exit 1; }
  # shellcheck disable=SC2086
  "$bin/troikactl" --endpoints "$endpoints" bench race --clients "$clients" --slots "$slots" --bytes "$bytes" \
    --racers "$racers" --window "${window:-1}" ${stream:+--stream} --json ${BENCH_ARGS:-} ||
    { tail -n 5 "$data"/*.log >&2; exit 1; }
  [[ -z ${BENCH_HOLD:-} ]] || $BENCH_HOLD "${pids[@]}"
  stop
  rm -rf "${data:?}"/[123]
done
