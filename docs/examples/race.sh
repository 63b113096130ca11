#!/bin/sh
# The race for a shard, by hand: no EVM, no executor, just a cluster and this script.
#
#   TROIKA_ENDPOINTS=http://127.0.0.1:7001 docs/examples/race.sh
#
# Needs a cluster whose chain was started with genesis.json beside this file, or none yet. Every command's exit code is
# checked: 0 means done (or won), 1 means that the store answered no (lost, conflict, refused).
set -eu
ctl=${TROIKACTL:-troikactl}
here=$(cd "$(dirname "$0")" && pwd)
contract=0x00000000000000000000000000000000000000cc
# The hash of the transaction 0x7f00.
transaction=0x00f4e84b56024a482a023685dc409482de5ab522de72b7c8304e9096e2623bf8
log=$(mktemp)
trap 'rm -f "$log"' EXIT

say() { printf '\n# %s\n' "$*"; }

# expect CODE COMMAND...: runs the command, which must end with that exit code.
expect() {
  want=$1
  shift
  got=0
  "$@" || got=$?
  if [ "$got" != "$want" ]; then
    echo "expected exit code $want, got $got: $*" >&2
    exit 1
  fi
}

say "start the chain (harmless if it is there)"
expect 0 $ctl init "$here/genesis.json"

say "open a round"
round=$($ctl -o json round open --opener script | sed 's/.*"round":\([0-9]*\).*/\1/')
opened=$($ctl -o json round get "$round" | sed 's/.*"opened_at":\([0-9]*\).*/\1/')
echo "round $round"

say "in another terminal: watch it all"
$ctl watch --after "$((opened - 1))" --until-closed "$round" >"$log" &
watcher=$!

say "executor a proposes for shard 0: slot 0 of the contract becomes 1 (it wins)"
expect 0 $ctl submit --round "$round" --shard 0 --executor a --write "$contract/0=$round" --tx 7f00

say "executor b proposes something else for the same shard (it is told that a won)"
expect 1 $ctl submit --round "$round" --shard 0 --executor b --write "$contract/0=99" --tx 7f00

say "executor a lost the answer and asks again (it hears the same)"
expect 0 $ctl submit --round "$round" --shard 0 --executor a --write "$contract/0=$round" --tx 7f00

say "executor c wants the same slot in shard 1 (the conflict names the key and its holder)"
expect 1 $ctl submit --round "$round" --shard 1 --executor c --write "$contract/0=3" --tx 7f01

say "shard 1 takes a lock ahead; shard 2 wants it too (the conflict is named)"
expect 0 $ctl lock acquire --round "$round" --shard 1 "$contract/0x1"
expect 1 $ctl lock acquire --round "$round" --shard 2 "$contract/0x1"
expect 0 $ctl lock list "$round"

say "a proposal from a file, for shard 2"
expect 0 $ctl submit --round "$round" --shard 2 --executor c --file "$here/proposal.json"

say "seal: shard 1 is filled with the empty shard"
expect 0 $ctl round seal "$round" --wait

say "the round, and the newest ones"
expect 0 $ctl round get "$round"
expect 0 $ctl round list --from "$round"

say "the block, and what it changed"
expect 0 $ctl block head
expect 0 $ctl state get "$contract/0" "$contract/5" 0x00000000000000000000000000000000000000bb
block=$($ctl -o json block head | sed 's/.*"hash":"\(0x[0-9a-f]*\)".*/\1/')
expect 0 $ctl state diff "$block"

say "what executor a won with: its transaction and its diff"
expect 0 $ctl shard "$round" 0 --transactions --diff

say "where that transaction stands, and one that nobody has sent"
expect 0 $ctl find "$transaction"
expect 1 $ctl find "0x$(printf '%064d' 0)"

say "what the watcher saw"
wait "$watcher"
cat "$log"

say "the same, of shard 2 alone"
expect 0 $ctl watch --after "$((opened - 1))" --shards 2-2 --until-closed "$round"
