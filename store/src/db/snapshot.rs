//! A state as a stream: what goes to a member that is far behind, and what a backup file holds.
//!
//! A stream is frames. A frame is at most [`SNAPSHOT_FRAME_BYTES`] long:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the payload, little endian |
//! | 4 | CRC-32C of kind and payload |
//! | 1 | kind: 1 head, 2 records, 3 end |
//! | rest | payload |
//!
//! - *Head*, first: `TROIKASN`, format (4 bytes), cluster id (16 bytes), then what is applied (`troika.log.v1.AppliedState`).
//! - *Records*: pieces of one long run of records in the order of their keys, cut anywhere. A record is the length of its key
//!   (4 bytes), the length of its value (4 bytes), key, value.
//! - *End*, last: number of records (8 bytes), bytes of the run (8 bytes), CRC-32C of the run (4 bytes).
//!
//! The [`SnapshotReader`] makes frames from a view of the state file; writers go on meanwhile. The [`SnapshotWriter`] takes the
//! bytes however they are cut, checks all of it, and makes a complete state file under a temporary name, with bounded memory.
//! Nothing is replaced before the end mark was seen and every sum was right.

use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use redb::Database;

use super::{
    database::{self, seal_into},
    error::{DbError, SnapshotError, hex},
    files::{Files, TEMPORARY},
    state_file::{RECORDS, fill_empty, put_applied},
    state_view::StateView,
};
use crate::limits::{
    SNAPSHOT_FRAME_BYTES, SNAPSHOT_RECORD_BYTES, SNAPSHOT_TRANSACTION_BYTES, STATE_CACHE_BYTES,
};

/// The format that this build writes, and the newest that it reads.
pub const SNAPSHOT_FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"TROIKASN";
const FRAME_HEAD: usize = 9;
const HEAD: u8 = 1;
const RECORDS_PIECE: u8 = 2;
const END: u8 = 3;
const PIECE_BYTES: usize = SNAPSHOT_FRAME_BYTES - FRAME_HEAD;

/// What the head of a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Whose state it is.
    pub cluster: [u8; 16],
    /// Last applied log id and membership.
    pub applied: Bytes,
}

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(FRAME_HEAD + payload.len());
    bytes.put_u32_le(payload.len() as u32);
    bytes.put_u32_le(crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload));
    bytes.put_u8(kind);
    bytes.put_slice(payload);
    bytes.freeze()
}

/// Sums over the run of records, on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    records: u64,
    bytes: u64,
    checksum: u32,
}

impl Sums {
    fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, piece);
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend_from_slice(&self.records.to_le_bytes());
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.checksum.to_le_bytes());
        bytes
    }
}

/// Makes the frames of a state, one at a time. Blocks while it reads.
pub struct SnapshotReader {
    view: Arc<StateView>,
    head: Option<Bytes>,
    /// Records that are read and not yet framed.
    pending: BytesMut,
    last_key: Option<Vec<u8>>,
    read_all: bool,
    sums: Sums,
    ended: bool,
}

impl SnapshotReader {
    /// The stream of a view. None before the first checkpoint: there is no state to send.
    pub fn new(view: Arc<StateView>, cluster: [u8; 16]) -> Result<Option<Self>, DbError> {
        let Some(applied) = view.applied()? else {
            return Ok(None);
        };
        let mut head = Vec::with_capacity(28 + applied.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&SNAPSHOT_FORMAT.to_le_bytes());
        head.extend_from_slice(&cluster);
        head.extend_from_slice(&applied);
        Ok(Some(Self {
            view,
            head: Some(frame(HEAD, &head)),
            pending: BytesMut::new(),
            last_key: None,
            read_all: false,
            sums: Sums::default(),
            ended: false,
        }))
    }

    /// The next frame; None after the end mark.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, DbError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        if self.ended {
            return Ok(None);
        }
        if self.pending.len() < PIECE_BYTES && !self.read_all {
            self.read_more()?;
        }
        if self.pending.is_empty() {
            self.ended = true;
            return Ok(Some(frame(END, &self.sums.encode())));
        }
        let piece = self.pending.split_to(self.pending.len().min(PIECE_BYTES));
        self.sums.add(&piece);
        Ok(Some(frame(RECORDS_PIECE, &piece)))
    }

    fn read_more(&mut self) -> Result<(), DbError> {
        let (pending, sums) = (&mut self.pending, &mut self.sums);
        let mut last_key = None;
        let mut cut = false;
        self.view.visit(self.last_key.as_deref(), |key, value| {
            pending.put_u32_le(key.len() as u32);
            pending.put_u32_le(value.len() as u32);
            pending.put_slice(key);
            pending.put_slice(&value);
            sums.records += 1;
            last_key = Some(key.to_vec());
            cut = pending.len() >= PIECE_BYTES;
            !cut
        })?;
        self.read_all = !cut;
        self.last_key = last_key.or(self.last_key.take());
        Ok(())
    }
}

/// A complete, checked state file under a temporary name, ready to take the place of the state.
#[derive(Debug)]
pub struct Received {
    file: TemporaryFile,
    /// What the stream's head said.
    pub head: SnapshotHead,
    /// How many records it holds.
    pub records: u64,
    /// Bytes of all records.
    pub bytes: u64,
}

impl Received {
    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file.name
    }
}

/// A file that is removed when nobody needs it any more. After it was renamed there is nothing to remove.
#[derive(Debug)]
struct TemporaryFile {
    files: Arc<dyn Files>,
    name: String,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        if let Err(error) = self.files.remove(&self.name)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = self.name, %error, "cannot remove a temporary file");
        }
    }
}

/// Takes a stream in and makes a state file of it. Blocks while it writes.
pub struct SnapshotWriter {
    database: Database,
    file: TemporaryFile,
    /// Bytes that do not make a frame yet.
    input: BytesMut,
    head: Option<SnapshotHead>,
    /// Records that are not written yet, the last one perhaps incomplete.
    run: BytesMut,
    last_key: Option<Vec<u8>>,
    sums: Sums,
    taken: u64,
    ended: bool,
}

impl SnapshotWriter {
    /// Begins a new state file under a temporary name.
    pub fn new(files: Arc<dyn Files>) -> Result<Self, DbError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("incoming-{number}{TEMPORARY}");
        let database = database::begin(&*files, &name, STATE_CACHE_BYTES)?;
        fill_empty(&database)?;
        Ok(Self {
            database,
            file: TemporaryFile { files, name },
            input: BytesMut::new(),
            head: None,
            run: BytesMut::new(),
            last_key: None,
            sums: Sums::default(),
            taken: 0,
            ended: false,
        })
    }

    /// Takes the next bytes of the stream, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.taken += bytes.len() as u64;
        self.input.extend_from_slice(bytes);
        while let Some((kind, payload)) = self.next_frame()? {
            self.take(kind, &payload)?;
        }
        Ok(())
    }

    /// What the head said, once it has arrived.
    pub fn head(&self) -> Option<&SnapshotHead> {
        self.head.as_ref()
    }

    /// The stream is over: checks that it is whole, and closes the file.
    pub fn finish(self) -> Result<Received, SnapshotError> {
        let Some(head) = self.head.filter(|_| self.ended && self.input.is_empty()) else {
            return Err(SnapshotError::CutOff { bytes: self.taken });
        };
        let name = self.file.name.clone();
        let seal = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            put_applied(&transaction, &head.applied)?;
            Ok(transaction.commit()?)
        };
        seal().map_err(|error| DbError::redb(&name, "write", error))?;
        database::close(&name, self.database)?;
        Ok(Received {
            file: self.file,
            head,
            records: self.sums.records,
            bytes: self.sums.bytes,
        })
    }

    fn next_frame(&mut self) -> Result<Option<(u8, Bytes)>, SnapshotError> {
        if self.input.len() < FRAME_HEAD {
            return Ok(None);
        }
        let mut head = &self.input[..FRAME_HEAD];
        let (len, checksum, kind) = (head.get_u32_le() as usize, head.get_u32_le(), head.get_u8());
        if len > PIECE_BYTES {
            // The first frame tells a damaged stream from something else altogether.
            return Err(match self.head {
                None => SnapshotError::Foreign,
                Some(_) => SnapshotError::Damaged(format!("a frame of {len} bytes")),
            });
        }
        if self.input.len() < FRAME_HEAD + len {
            return Ok(None);
        }
        let mut frame = self.input.split_to(FRAME_HEAD + len);
        let payload = frame.split_off(FRAME_HEAD).freeze();
        if crc32c::crc32c_append(crc32c::crc32c(&[kind]), &payload) != checksum {
            return Err(match self.head {
                None => SnapshotError::Foreign,
                Some(_) => SnapshotError::Damaged(format!(
                    "the checksum of the frame that ends at byte {} does not match",
                    self.taken - self.input.len() as u64
                )),
            });
        }
        Ok(Some((kind, payload)))
    }

    fn take(&mut self, kind: u8, payload: &Bytes) -> Result<(), SnapshotError> {
        match (kind, self.head.is_some(), self.ended) {
            (HEAD, false, false) => {
                self.head = Some(read_head(payload)?);
                Ok(())
            }
            (RECORDS_PIECE, true, false) => {
                self.sums.add(payload);
                self.run.extend_from_slice(payload);
                self.write_records(SNAPSHOT_TRANSACTION_BYTES)
            }
            (END, true, false) => {
                self.write_records(0)?;
                if !self.run.is_empty() {
                    return Err(SnapshotError::Damaged(
                        "its last record is cut off".to_owned(),
                    ));
                }
                if payload[..] != self.sums.encode() {
                    return Err(SnapshotError::Damaged("its sums do not match".to_owned()));
                }
                self.ended = true;
                Ok(())
            }
            (_, false, _) => Err(SnapshotError::Foreign),
            _ => Err(SnapshotError::Damaged(format!(
                "an unexpected frame of kind {kind}"
            ))),
        }
    }

    /// Writes the complete records of the run once there are more than `at_least` bytes of them.
    fn write_records(&mut self, at_least: usize) -> Result<(), SnapshotError> {
        let wanted = self.first_record()?;
        if self.run.len() <= at_least.max(wanted.saturating_sub(1)) || self.run.is_empty() {
            return Ok(());
        }
        let name = self.file.name.clone();
        let failed = |error: redb::Error| DbError::redb(&name, "write", error);
        let transaction = self
            .database
            .begin_write()
            .map_err(|error| failed(error.into()))?;
        {
            let mut table = transaction
                .open_table(RECORDS)
                .map_err(|error| failed(error.into()))?;
            let mut end = table
                .upper_bound_mut(Bound::<&[u8]>::Unbounded)
                .map_err(|error| failed(error.into()))?;
            let mut sealed = Vec::new();
            while let Some((key, value)) = next_record(&mut self.run)? {
                if self
                    .last_key
                    .as_ref()
                    .is_some_and(|last| last[..] >= key[..])
                {
                    return Err(SnapshotError::Damaged(
                        "its records are out of order".to_owned(),
                    ));
                }
                sealed.clear();
                seal_into(&mut sealed, &key, &value);
                end.insert_before(&key[..], sealed.as_slice())
                    .map_err(|error| {
                        failed(redb::Error::Io(std::io::Error::other(error.to_string())))
                    })?;
                self.last_key = Some(key.to_vec());
                self.sums.records += 1;
            }
            end.close().map_err(|error| failed(error.into()))?;
        }
        transaction.commit().map_err(|error| failed(error.into()))?;
        Ok(())
    }

    /// How many bytes the first record of the run needs; refuses one above the limit before it is gathered.
    fn first_record(&self) -> Result<usize, SnapshotError> {
        let Some(mut head) = self.run.get(..8) else {
            return Ok(8);
        };
        record_bytes(head.get_u32_le(), head.get_u32_le())
    }
}

fn record_bytes(key: u32, value: u32) -> Result<usize, SnapshotError> {
    let bytes = 8 + key as usize + value as usize;
    if bytes > SNAPSHOT_RECORD_BYTES {
        return Err(SnapshotError::Damaged(format!(
            "a record of {bytes} bytes, at most {SNAPSHOT_RECORD_BYTES} are possible"
        )));
    }
    Ok(bytes)
}

/// Takes the first record off the run, if it is complete.
fn next_record(run: &mut BytesMut) -> Result<Option<(Bytes, Bytes)>, SnapshotError> {
    let Some(mut head) = run.get(..8) else {
        return Ok(None);
    };
    let (key, value) = (head.get_u32_le(), head.get_u32_le());
    let bytes = record_bytes(key, value)?;
    if run.len() < bytes {
        return Ok(None);
    }
    let mut record = run.split_to(bytes).freeze();
    record.advance(8);
    let key = record.split_to(key as usize);
    Ok(Some((key, record)))
}

fn read_head(payload: &Bytes) -> Result<SnapshotHead, SnapshotError> {
    if payload.len() < 12 || &payload[..8] != MAGIC {
        return Err(SnapshotError::Foreign);
    }
    let found = u32::from_le_bytes(payload[8..12].try_into().expect("4 bytes"));
    if found > SNAPSHOT_FORMAT {
        return Err(SnapshotError::NewerFormat {
            found,
            supported: SNAPSHOT_FORMAT,
        });
    }
    if payload.len() < 28 {
        return Err(SnapshotError::Damaged("its head is too short".to_owned()));
    }
    Ok(SnapshotHead {
        cluster: payload[12..28].try_into().expect("16 bytes"),
        applied: payload.slice(28..),
    })
}

/// Refuses a snapshot of another cluster.
pub fn check_cluster(head: &SnapshotHead, cluster: [u8; 16]) -> Result<(), SnapshotError> {
    if head.cluster == cluster {
        return Ok(());
    }
    Err(SnapshotError::OtherCluster {
        found: hex(&head.cluster),
        expected: hex(&cluster),
    })
}
