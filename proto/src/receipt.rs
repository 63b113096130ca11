//! Receipts with shard-local values.

use alloy_primitives::{Address, B256, Bloom, BloomInput, Bytes};
use alloy_rlp::{BufMut, Encodable, RlpEncodable};

/// A log of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, RlpEncodable)]
pub struct Log {
    /// The contract that wrote it.
    pub address: Address,
    /// At most four.
    pub topics: Vec<B256>,
    /// Anything.
    pub data: Bytes,
}

/// A receipt: what Ethereum's holds, counted within the shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// EIP-2718 type of the transaction.
    pub tx_type: u8,
    /// False if it was reverted or ran out of gas.
    pub success: bool,
    /// Gas used in the shard up to and including this transaction.
    pub cumulative_gas: u64,
    /// Logs in order.
    pub logs: Vec<Log>,
}

impl Receipt {
    /// Bloom over the logs' addresses and topics.
    pub fn bloom(&self) -> Bloom {
        let mut bloom = Bloom::ZERO;
        self.accrue(&mut bloom);
        bloom
    }

    /// Adds the logs' addresses and topics to `bloom`.
    pub fn accrue(&self, bloom: &mut Bloom) {
        for log in &self.logs {
            bloom.accrue(BloomInput::Raw(log.address.as_slice()));
            for topic in &log.topics {
                bloom.accrue(BloomInput::Raw(topic.as_slice()));
            }
        }
    }

    /// Appends the EIP-2718 encoding, with the bloom: what the receipts root is over.
    pub fn encode_2718(&self, bloom: &Bloom, out: &mut Vec<u8>) {
        if self.tx_type != 0 {
            out.put_u8(self.tx_type);
        }
        let payload_length = self.success.length()
            + self.cumulative_gas.length()
            + bloom.length()
            + self.logs.length();
        alloy_rlp::Header {
            list: true,
            payload_length,
        }
        .encode(out);
        self.success.encode(out);
        self.cumulative_gas.encode(out);
        bloom.encode(out);
        self.logs.encode(out);
    }
}
