//! redb as this store uses it: made under a temporary name, small caches, and a checksum of ours in front of every value.
//!
//! redb trusts its pages when it reads them (it checks them only when it repairs after a crash), so every value is stored as
//! the CRC-32C of its key and itself, followed by itself. A value under the wrong key does not pass either.

use std::cell::Cell;

use redb::{Builder, Database, StorageBackend};

use super::{
    error::DbError,
    files::{Files, TEMPORARY},
};
use crate::mutant::{self, Mutant};

/// Bytes of the checksum in front of every value.
pub const CHECKSUM_BYTES: usize = 4;

/// Appends the checksum of `key` and `value`, then `value`.
pub fn seal_into(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), value);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(value);
}

/// The checksum of `key` and `value`, then `value`.
pub fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHECKSUM_BYTES + value.len());
    seal_into(&mut out, key, value);
    out
}

/// The value behind its checksum, or None if the checksum is not that of `key` and the value.
pub fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (checksum, value) = sealed.split_at_checked(CHECKSUM_BYTES)?;
    let expected = crc32c::crc32c_append(crc32c::crc32c(key), value);
    (checksum == expected.to_le_bytes()).then_some(value)
}

/// Makes the database `name`, filled by `fill`: complete or not at all.
pub fn create(
    files: &dyn Files,
    name: &str,
    cache_bytes: usize,
    fill: impl FnOnce(&Database) -> Result<(), DbError>,
) -> Result<(), DbError> {
    let temporary = match mutant::on(Mutant::CreatedInPlace) {
        true => name.to_owned(),
        false => format!("{name}{TEMPORARY}"),
    };
    let database = begin(files, &temporary, cache_bytes)?;
    fill(&database)?;
    close(&temporary, database)?;
    files
        .rename(&temporary, name)
        .map_err(|error| DbError::io(name, "rename", &error))
}

/// A new database under the temporary name `name`.
pub fn begin(files: &dyn Files, name: &str, cache_bytes: usize) -> Result<Database, DbError> {
    let backend = files
        .create(name)
        .map_err(|error| DbError::io(name, "create", &error))?;
    Builder::new()
        .set_cache_size(cache_bytes)
        .create_with_backend(backend)
        .map_err(|error| DbError::redb(name, "create", error))
}

/// Opens the database `name`, repairing it after a crash. `check_pages`: verify every page first, which reads the whole file.
pub fn open(
    files: &dyn Files,
    name: &str,
    cache_bytes: usize,
    check_pages: bool,
) -> Result<Database, DbError> {
    let backend = files
        .open(name)
        .map_err(|error| DbError::io(name, "open", &error))?;
    open_backend(backend, name, cache_bytes, check_pages)
}

/// Opens the database in an open file.
pub fn open_backend(
    backend: impl StorageBackend,
    name: &str,
    cache_bytes: usize,
    check_pages: bool,
) -> Result<Database, DbError> {
    let len = backend
        .len()
        .map_err(|error| DbError::io(name, "measure", &error))?;
    if len == 0 {
        // redb would make a new database of it.
        return Err(DbError::damaged(name, "the file", "it is empty"));
    }
    unpanicked(name, || {
        Builder::new()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(check_pages)
            .create_with_backend(backend)
            .map_err(|error| not_opened(name, error))
    })
}

thread_local! {
    /// How many calls of [`unpanicked`] this thread is in.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
}

/// True while a panic of this thread is caught and told as damage. For a simulation: to it any other is a fault.
pub fn panic_is_caught() -> bool {
    CATCHING.get() > 0
}

/// redb panics where a damaged file contradicts itself; to us that is damage like any other.
pub fn unpanicked<T>(name: &str, work: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
    CATCHING.set(CATCHING.get() + 1);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    CATCHING.set(CATCHING.get() - 1);
    result.unwrap_or_else(|_| {
        let why = "they contradict each other";
        Err(DbError::damaged(name, "its pages", why))
    })
}

/// Why a database was not opened, in our words.
fn not_opened(name: &str, error: redb::DatabaseError) -> DbError {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error.into() {
        redb::Error::Io(error) if error.kind() == InvalidData => {
            DbError::damaged(name, "the file", error)
        }
        redb::Error::Io(error) if error.kind() == UnexpectedEof => {
            DbError::damaged(name, "the file", "it is cut short")
        }
        error => DbError::redb(name, "open", error),
    }
}

/// Closes a database and says whether that worked.
pub fn close(name: &str, database: Database) -> Result<(), DbError> {
    database
        .close()
        .map_err(|error| DbError::redb(name, "close", error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_panic_over_damage_is_known_to_be_caught() {
        let told = unpanicked("a", || {
            assert!(panic_is_caught());
            let inner = unpanicked("b", || -> Result<(), DbError> { panic!("malformed") });
            assert!(inner.is_err() && panic_is_caught());
            Ok(())
        });
        assert!(told.is_ok() && !panic_is_caught());
    }

    proptest! {
        #[test]
        fn a_changed_bit_or_another_key_is_noticed(
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::collection::vec(any::<u8>(), 0..200),
            bit in any::<prop::sample::Index>(),
        ) {
            let mut sealed = seal(&key, &value);
            prop_assert_eq!(unseal(&key, &sealed), Some(&value[..]));
            let mut other = key.clone();
            other.push(1);
            prop_assert_eq!(unseal(&other, &sealed), None);
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(unseal(&key, &sealed), None);
        }
    }
}
