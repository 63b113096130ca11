// viem against a development chain: deploys, sends 200 transactions, reads logs, hears of heads, traces.
import assert from "node:assert/strict";
import { createPublicClient, createWalletClient, defineChain, hexToBigInt, http, parseGwei, webSocket } from "viem";
import { mnemonicToAccount } from "viem/accounts";

const address = process.argv[2];
const chain = defineChain({
  id: 31337,
  name: "Troika dev",
  nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
  rpcUrls: { default: { http: [`http://${address}`], webSocket: [`ws://${address}`] } },
});
const account = mnemonicToAccount("test test test test test test test test test test test junk", { addressIndex: 3 });
const client = createPublicClient({ chain, transport: http(undefined, { batch: { batchSize: 50 } }), pollingInterval: 100 });
const wallet = createWalletClient({ chain, account, transport: http(undefined, { batch: { batchSize: 50 } }) });
const live = createPublicClient({ chain, transport: webSocket() });
const say = (text) => console.log(`   ${text}`);
// Everything here is waited for this long at most.
setTimeout(() => { console.error("FAILED: not done within 120 s"); process.exit(1); }, 120_000).unref();

// slot 0 += 1, in the log under topic 7, and returned
const bytecode = "0x6014600a5f3960145ff35f54600101805f555f52600760205fa160205ff3";
const topic = `0x${"7".padStart(64, "0")}`;

const heads = [];
const unwatch = live.watchBlocks({ onBlock: (block) => heads.push(block), emitMissed: false });

const deployed = await client.waitForTransactionReceipt({ hash: await wallet.deployContract({ abi: [], bytecode }) });
assert.equal(deployed.status, "success");
const contract = deployed.contractAddress;
say(`deployed at ${contract}`);

const COUNT = 200;
const first = await client.getTransactionCount({ address: account.address });
const sending = Array.from({ length: COUNT }, (_, n) =>
  wallet.sendTransaction({
    to: contract, nonce: first + n, gas: 100_000n, maxFeePerGas: parseGwei("10"), maxPriorityFeePerGas: 1n,
  }));
const hashes = await Promise.all(sending);
const receipts = await Promise.all(hashes.map((hash) => client.waitForTransactionReceipt({ hash, timeout: 60_000 })));
assert.ok(receipts.every((receipt) => receipt.status === "success"));
assert.equal(new Set(hashes).size, COUNT);
assert.equal(await client.getTransactionCount({ address: account.address }), first + COUNT);
say(`${COUNT} transactions in ${new Set(receipts.map((r) => r.blockNumber)).size} blocks`);

const { data } = await client.call({ to: contract });
assert.equal(hexToBigInt(data), BigInt(COUNT + 1));
const logs = await client.request({
  method: "eth_getLogs",
  params: [{ address: contract, topics: [topic], fromBlock: "0x0", toBlock: "latest" }],
});
assert.equal(logs.length, COUNT);
logs.forEach((log, n) => assert.equal(hexToBigInt(log.data), BigInt(n + 1)));
const block = await client.getBlock({ blockNumber: receipts[0].blockNumber, includeTransactions: true });
assert.ok(block.transactions.some((transaction) => transaction.hash === hashes[0]));
say(`${logs.length} logs in order`);

const trace = (tracer) => client.request({ method: "debug_traceTransaction", params: [hashes[COUNT - 1], { tracer }] });
const call = await trace("callTracer");
assert.equal(call.type, "CALL");
assert.equal(call.to, contract.toLowerCase());
assert.equal(hexToBigInt(call.output), BigInt(COUNT));
const before = await trace("prestateTracer");
const slot = Object.values(before[contract.toLowerCase()].storage ?? {})[0];
assert.equal(hexToBigInt(slot), BigInt(COUNT - 1));
const number = `0x${receipts[COUNT - 1].blockNumber.toString(16)}`;
const traced = await client.request({ method: "debug_traceBlockByNumber", params: [number, { tracer: "callTracer" }] });
assert.ok(traced.some((entry) => entry.txHash === hashes[COUNT - 1]));
say("traces: call, prestate, block");

const from = heads.length;
while (heads.length < from + 3) await new Promise((done) => setTimeout(done, 50));
unwatch();
for (let i = 1; i < heads.length; i++) {
  assert.equal(heads[i].number, heads[i - 1].number + 1n, "a head was missed");
  assert.equal(heads[i].parentHash, heads[i - 1].hash);
}
say(`${heads.length} heads over WebSocket, each on the one before`);
process.exit(0);
