#!/usr/bin/env bash
# What failures cost: three members, three executors and a gateway as separate processes on loopback.
#   - transfers included a second with all executors up, and with one that is killed and started again every 3 s, in turns of one
#     unbroken load: counted from block to block, so that neither its beginning nor its end is in the figures;
#   - seconds until two more blocks after kill -9 of the leading member, and of two of the three executors.
# usage: tests/bench/failures.sh [TURNS [SECONDS]]      (3 turns, each of 12 s with all up and 12 s with restarts)
# Prints a line of JSON for each. Needs a release build (cargo build --release --workspace --bins). Leaves nothing running.
#   TROIKA_BIN     folder of the binaries (target/release)
#   BENCH_DIR      where the data goes: must be on a real disk (a temporary folder)
#   BENCH_PORT     first of twenty ports (7400)
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
bin=${TROIKA_BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
port=${BENCH_PORT:-7400}
turns=${1:-3} seconds=${2:-12}
for name in troika-store troika-node troikactl; do
  [[ -x $bin/$name ]] || { echo "$bin has no $name: cargo build --release --workspace --bins" >&2; exit 2; }
done
data=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/troika-failures.XXXX")
declare -A pids
stop() {
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$data"
}
trap stop EXIT

members="" endpoints="" executors=""
for n in 1 2 3; do
  members+="${members:+,}$n=127.0.0.1:$((port + 10 + n))"
  endpoints+="${endpoints:+,}http://127.0.0.1:$((port + n))"
  executors+="${executors:+,}http://127.0.0.1:$((port + 4 + n))"
done
export TROIKA_ENDPOINTS=$endpoints
member() {
  "$bin/troika-store" serve --id "$1" --data "$data/$1" --listen "127.0.0.1:$((port + $1))" \
    --peer-listen "127.0.0.1:$((port + 10 + $1))" --members "$members" >>"$data/member-$1.log" 2>&1 &
  pids[member-$1]=$!
}
executor() {
  "$bin/troika-node" executor --store "$endpoints" --shards 0-3 --listen "127.0.0.1:$((port + 4 + $1))" \
    --name "executor-$1" >>"$data/executor-$1.log" 2>&1 &
  pids[executor-$1]=$!
}
end() {
  kill -9 "${pids[$1]}" && wait "${pids[$1]}" 2>/dev/null || true
}
blocks() {
  curl -sf -m 5 -H 'content-type: application/json' "http://127.0.0.1:$port" \
    -d '{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}' | grep -o '0x[0-9a-f]*' || echo 0x0
}
# Waits until there is a block of this number or a later one, at most a minute; says the newest.
at_least() {
  local now=$(($(blocks))) end=$((SECONDS + 60))
  while ((now < $1)); do
    if ((SECONDS > end)); then
      echo "there is no block $1 after a minute, the newest is $now: see the end of each log" >&2
      tail -n 3 "$data"/*.log >&2
      kill $$
      exit 1
    fi
    sleep 0.02
    now=$(($(blocks)))
  done
  echo $now
}
new_head() {
  at_least $(($(blocks) + 1))
}
# Seconds until there are two blocks more than now.
two_blocks() {
  local now=$EPOCHREALTIME
  at_least $(($(blocks) + 2)) >/dev/null
  awk "BEGIN { printf \"%.2f\", $EPOCHREALTIME - $now }"
}
transactions() {
  curl -sf -m 5 -H 'content-type: application/json' "http://127.0.0.1:$port" \
    -d "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_getBlockTransactionCountByNumber\",\"params\":[\"$(printf '0x%x' "$1")\"]}" |
    grep -o "0x[0-9a-f]*" || echo 0x0
}
# Transactions included a second, over about so many seconds.
rate() {
  local first last from to count=0 number
  first=$(new_head) from=$EPOCHREALTIME
  sleep "$1"
  last=$(new_head) to=$EPOCHREALTIME
  for ((number = first + 1; number <= last; number++)); do
    count=$((count + $(transactions "$number")))
  done
  awk "BEGIN { printf \"%d\", $count / ($to - $from) }"
}

for n in 1 2 3; do member $n; done
"$bin/troikactl" health --wait >/dev/null
"$bin/troika-node" genesis --shards 4 >"$data/genesis.json"
"$bin/troikactl" init "$data/genesis.json" >/dev/null
for n in 1 2 3; do executor $n; done
"$bin/troika-node" gateway --store "$endpoints" --rpc "127.0.0.1:$port" --executors "$executors" >"$data/gateway.log" 2>&1 &
pids[gateway]=$!
at_least 2 >/dev/null

# More than is included in the time.
"$bin/troika-node" bench transfers --rpc "http://127.0.0.1:$port" \
  --transfers $((turns * seconds * 2 * 14000 + 100000)) >/dev/null 2>&1 &
pids[load]=$!
for _ in {1..600}; do
  (($(transactions "$(($(blocks)))") == 0)) || break
  sleep 0.1
done
sleep 5
for ((turn = 1; turn <= turns; turn++)); do
  up=$(rate "$seconds")
  rate "$seconds" >"$data/rate" &
  counting=$! restarts=0 n=0
  while kill -0 $counting 2>/dev/null; do
    n=$((n % 3 + 1))
    end executor-$n
    sleep 0.5
    executor $n
    restarts=$((restarts + 1))
    for _ in 1 2 3 4 5; do kill -0 $counting 2>/dev/null && sleep 0.5; done
  done
  wait $counting
  under=$(cat "$data/rate")
  echo "{\"included_a_second\":{\"all_up\":$up,\"one_killed_every_3_s\":$under},\"restarts\":$restarts,\"less_percent\":$(
    awk "BEGIN { printf \"%.1f\", 100 - 100 * $under / $up }"
  )}"
done
end load

leader=$("$bin/troikactl" -o json status | grep -o '"leader": *[0-9]*' | grep -o '[0-9]*$' | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
end "member-$leader"
echo "{\"killed\":\"the leading member\",\"seconds_to_two_blocks\":$(two_blocks)}"
member "$leader"
"$bin/troikactl" health --wait >/dev/null
end executor-1
end executor-2
echo "{\"killed\":\"two of three executors\",\"seconds_to_two_blocks\":$(two_blocks)}"
