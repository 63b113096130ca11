//! What happened, as a hash of everything and, where asked for, as a story of the last of it.

use std::collections::VecDeque;
use std::time::Duration;

/// Lines that a story keeps.
const STORY_LINES: usize = 4_000;

/// Every message, disk write, apply and reply of a run, in order.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    /// The hash after every event; for finding where two runs part.
    steps: Option<Vec<u64>>,
    story: Option<VecDeque<String>>,
}

impl Trace {
    /// A trace. `story`: keep the last lines. `steps`: keep the hash after each event.
    pub fn new(story: bool, steps: bool) -> Self {
        Self {
            story: story.then(VecDeque::new),
            steps: steps.then(Vec::new),
            ..Self::default()
        }
    }

    /// Something happened at `at`: `numbers` say what for the hash, `tell` for people.
    pub fn note(&mut self, at: Duration, numbers: &[u64], tell: impl FnOnce() -> String) {
        self.events += 1;
        for number in [at.as_micros() as u64].iter().chain(numbers) {
            self.hash = mix(self.hash ^ number);
        }
        if let Some(steps) = &mut self.steps {
            steps.push(self.hash);
        }
        if let Some(story) = &mut self.story {
            if story.len() == STORY_LINES {
                story.pop_front();
            }
            let (events, at) = (self.events, at.as_secs_f64());
            story.push_back(format!("{events:>8} {at:>10.3} s  {}", tell()));
        }
    }

    /// The hash of all so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events it holds.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The story's lines and the hashes after each event, as far as they were kept.
    pub fn take(&mut self) -> (Vec<String>, Vec<u64>) {
        let story = self.story.take().into_iter().flatten().collect();
        (story, self.steps.take().unwrap_or_default())
    }
}

fn mix(value: u64) -> u64 {
    let mixed = (value ^ (value >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ (mixed >> 29)
}

/// A hash of bytes, for the trace alone.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut hash = bytes.len() as u64;
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks have 8 bytes"));
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    for byte in chunks.remainder() {
        hash = (hash.rotate_left(23) ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_time_and_content_count() {
        let hash = |events: &[(u64, u64)]| {
            let mut trace = Trace::default();
            for (at, number) in events {
                trace.note(Duration::from_micros(*at), &[*number], String::new);
            }
            trace.hash()
        };
        assert_eq!(hash(&[(1, 2), (3, 4)]), hash(&[(1, 2), (3, 4)]));
        assert_ne!(hash(&[(1, 2), (3, 4)]), hash(&[(3, 4), (1, 2)]));
        assert_ne!(hash(&[(1, 2)]), hash(&[(1, 3)]));
        assert_ne!(digest(b"12345678a"), digest(b"12345678b"));
    }
}
