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
        // Logs of one kind share emitter and first topic, and hashing them is most of a bloom's cost. What the log
        // before had in the same place is in already.
        let mut before: Option<&Log> = None;
        for log in &self.logs {
            if before.is_none_or(|b| b.address != log.address) {
                bloom.accrue(BloomInput::Raw(log.address.as_slice()));
            }
            for (place, topic) in log.topics.iter().enumerate() {
                if before.is_none_or(|b| b.topics.get(place) != Some(topic)) {
                    bloom.accrue(BloomInput::Raw(topic.as_slice()));
                }
            }
            before = Some(log);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bloom_has_every_address_and_topic_however_they_repeat() {
        let log = |address, topics: &[u8]| Log {
            address: Address::repeat_byte(address),
            topics: topics.iter().map(|t| B256::repeat_byte(*t)).collect(),
            data: Bytes::new(),
        };
        let logs = vec![
            log(1, &[1, 2]),
            log(1, &[1, 3]),
            log(2, &[1]),
            log(1, &[2, 3, 4]),
            log(1, &[]),
            log(1, &[5]),
        ];
        let mut plain = Bloom::ZERO;
        for log in &logs {
            plain.accrue(BloomInput::Raw(log.address.as_slice()));
            for topic in &log.topics {
                plain.accrue(BloomInput::Raw(topic.as_slice()));
            }
        }
        let receipt = Receipt {
            logs,
            ..Receipt::default()
        };
        assert_eq!(receipt.bloom(), plain);
    }
}
