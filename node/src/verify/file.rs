//! Files of blocks: what `troika-node export` writes and `troika-node verify FILE` reads.
//!
//! Gzip of: the line `troika blocks 1`, then protobuf messages, each behind its length as a varint. The first is a
//! `troika.v1.FeedInfo` that names the chain; the others are `troika.v1.FeedItem`s as a feed sends them: of each block its
//! shards that are not empty (their headers and transactions are all that is needed), then the block itself, in the order of numbers.
//! A file is material to be checked, and holds nothing that is believed.

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prost::Message;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::v1;

/// What a file begins with.
const MAGIC: &[u8] = b"troika blocks 1\n";
/// Most bytes of a length.
const MAX_VARINT_BYTES: usize = 5;

/// Reads a file of blocks.
pub struct BlocksReader {
    path: PathBuf,
    bytes: GzDecoder<BufReader<File>>,
}

impl BlocksReader {
    /// Opens a file; answers what it says of its chain too.
    ///
    /// # Errors
    /// A file that cannot be read, or is something else.
    pub fn open(path: &Path) -> anyhow::Result<(v1::FeedInfo, Self)> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("{shown} cannot be read"))?;
        let mut reader = Self {
            path: path.to_owned(),
            bytes: GzDecoder::new(BufReader::new(file)),
        };
        let mut magic = [0; MAGIC.len()];
        let read = reader.bytes.read_exact(&mut magic);
        if read.is_err() || magic != MAGIC {
            bail!(
                "{shown} is not a file of blocks: it does not begin as `troika-node export` begins one"
            );
        }
        let info = reader.message()?;
        let info = info.with_context(|| format!("{shown} ends before it names its chain"))?;
        Ok((info, reader))
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// A file that is damaged or cut off.
    pub fn item(&mut self) -> anyhow::Result<Option<v1::FeedItem>> {
        self.message()
    }

    fn message<M: Message + Default>(&mut self) -> anyhow::Result<Option<M>> {
        let shown = self.path.display().to_string();
        let Some(length) = self
            .length()
            .with_context(|| format!("{shown} is damaged"))?
        else {
            return Ok(None);
        };
        if length > MAX_MESSAGE_BYTES {
            bail!(
                "{shown} is damaged: a message of {length} bytes, the limit is {MAX_MESSAGE_BYTES}"
            );
        }
        let mut bytes = vec![0; length];
        let read = self.bytes.read_exact(&mut bytes);
        read.with_context(|| format!("{shown} is damaged or cut off"))?;
        let message = M::decode(&bytes[..]);
        Ok(Some(
            message.with_context(|| format!("{shown} is damaged"))?,
        ))
    }

    fn length(&mut self) -> anyhow::Result<Option<usize>> {
        let mut length = 0;
        for at in 0..MAX_VARINT_BYTES {
            let mut byte = [0];
            // Only here the end is an end: in a file that was cut off the decoder fails instead.
            if at == 0 && self.bytes.read(&mut byte)? == 0 {
                return Ok(None);
            }
            if at > 0 {
                self.bytes.read_exact(&mut byte)?;
            }
            length |= usize::from(byte[0] & 0x7f) << (7 * at);
            if byte[0] & 0x80 == 0 {
                return Ok(Some(length));
            }
        }
        bail!("a length of more than {MAX_VARINT_BYTES} bytes")
    }
}

/// Writes a file of blocks: under another name until it is whole.
pub struct BlocksWriter {
    path: PathBuf,
    unfinished: PathBuf,
    bytes: GzEncoder<BufWriter<File>>,
}

impl BlocksWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(path: &Path, info: &v1::FeedInfo) -> anyhow::Result<Self> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".part");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished);
        let file = file.with_context(|| format!("{} cannot be written", unfinished.display()))?;
        let mut writer = Self {
            path: path.to_owned(),
            unfinished,
            bytes: GzEncoder::new(BufWriter::new(file), Compression::fast()),
        };
        writer.bytes.write_all(MAGIC)?;
        writer.message(info)?;
        Ok(writer)
    }

    /// Adds an item.
    ///
    /// # Errors
    /// A disk that is full, for instance.
    pub fn item(&mut self, item: &v1::FeedItem) -> anyhow::Result<()> {
        self.message(item)
    }

    fn message(&mut self, message: &impl Message) -> anyhow::Result<()> {
        let written = self
            .bytes
            .write_all(&message.encode_length_delimited_to_vec());
        written.with_context(|| format!("{} cannot be written", self.unfinished.display()))
    }

    /// Ends the file, and gives it its name.
    ///
    /// # Errors
    /// As [`Self::item`].
    pub fn finish(self) -> anyhow::Result<()> {
        let written = || -> std::io::Result<()> {
            let file = self.bytes.finish()?.into_inner()?;
            file.sync_all()?;
            std::fs::rename(&self.unfinished, &self.path)
        };
        written().with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> v1::FeedInfo {
        v1::FeedInfo {
            newest_round: 300,
            ..v1::FeedInfo::default()
        }
    }

    fn item(round: u64) -> v1::FeedItem {
        v1::FeedItem {
            round,
            item: Some(v1::feed_item::Item::CaughtUp(round)),
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks");
        let mut writer = BlocksWriter::create(&path, &info()).unwrap();
        for round in 1..=300 {
            writer.item(&item(round)).unwrap();
        }
        assert!(!path.exists(), "an unfinished file does not have the name");
        writer.finish().unwrap();
        let (read, mut reader) = BlocksReader::open(&path).unwrap();
        assert_eq!(read, info());
        for round in 1..=300 {
            assert_eq!(reader.item().unwrap(), Some(item(round)));
        }
        assert_eq!(reader.item().unwrap(), None);
    }

    #[test]
    fn another_file_and_a_cut_one_are_refused_with_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks");
        let refused = |path: &Path| {
            let read = || -> anyhow::Result<()> {
                let (_, mut reader) = BlocksReader::open(path)?;
                while reader.item()?.is_some() {}
                Ok(())
            };
            let said = format!("{:#}", read().unwrap_err());
            assert!(said.contains(&path.display().to_string()), "{said}");
            said
        };
        refused(&path);
        std::fs::write(&path, b"{}").unwrap();
        assert!(refused(&path).contains("not a file of blocks"));
        let mut writer = BlocksWriter::create(&path, &info()).unwrap();
        writer.item(&item(1)).unwrap();
        writer.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 1..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            refused(&path);
        }
    }
}
