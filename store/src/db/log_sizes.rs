//! How many bytes of entries the log holds, in pieces, so that it can be purged by bytes.

use std::collections::VecDeque;

/// A piece is closed when it has this many bytes.
const PIECE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
struct Piece {
    first: u64,
    last: u64,
    bytes: u64,
}

/// The sizes of the entries in the log, by runs of about a megabyte.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    pieces: VecDeque<Piece>,
}

impl Sizes {
    /// An entry was appended.
    pub(super) fn push(&mut self, index: u64, bytes: u64) {
        match self.pieces.back_mut() {
            Some(piece) if piece.bytes < PIECE_BYTES => {
                piece.last = index;
                piece.bytes += bytes;
            }
            _ => self.pieces.push_back(Piece {
                first: index,
                last: index,
                bytes,
            }),
        }
    }

    /// All entries from `from` on were removed. A piece that is cut keeps its size: an overestimate of at most a piece.
    pub(super) fn truncate(&mut self, from: u64) {
        while self.pieces.back().is_some_and(|piece| piece.first >= from) {
            self.pieces.pop_back();
        }
        if let Some(piece) = self.pieces.back_mut() {
            piece.last = piece.last.min(from.saturating_sub(1));
        }
    }

    /// All entries up to `upto` were removed.
    pub(super) fn purge(&mut self, upto: u64) {
        while self.pieces.front().is_some_and(|piece| piece.last <= upto) {
            self.pieces.pop_front();
        }
        if let Some(piece) = self.pieces.front_mut() {
            piece.first = piece.first.max(upto + 1);
        }
    }

    /// Bytes of all entries.
    pub(super) fn total(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// The highest index such that at least `keep` bytes of entries come after it; None if there are not that many.
    pub(super) fn purge_point(&self, keep: u64) -> Option<u64> {
        let mut after = 0;
        for piece in self.pieces.iter().rev() {
            if after >= keep {
                return Some(piece.last);
            }
            after += piece.bytes;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_purge_point_keeps_the_bytes_asked_for() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.purge_point(0), None);
        for index in 1..=1000 {
            sizes.push(index, 100_000);
        }
        assert_eq!(sizes.total(), 100_000_000);
        let keep = 10_000_000;
        let point = sizes.purge_point(keep).unwrap();
        assert!((1000 - point) * 100_000 >= keep);
        assert!((1000 - point) * 100_000 <= keep + 2 * PIECE_BYTES);
        sizes.purge(point);
        assert!(sizes.total() >= keep && sizes.total() <= keep + 2 * PIECE_BYTES);
        assert_eq!(sizes.purge_point(keep), None);
        sizes.truncate(point + 1);
        assert_eq!(sizes.total(), 0);
    }
}
