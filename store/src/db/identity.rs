//! Whose directory this is: the file `identity`.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `TROIKADB` |
//! | 4 | format of the directory, little endian |
//! | 8 | member id |
//! | 16 | incarnation: random, new for every new directory |
//! | 1 | 1 if the cluster id is known |
//! | 16 | cluster id, or zeroes |
//! | 4 | CRC-32C of all before |
//!
//! It is the last file that a new directory gets, so a directory without it was never a member.

use super::{
    error::{DbError, OpenError, hex},
    files::{Files, write_whole},
};

/// The file's name.
pub const IDENTITY: &str = "identity";
/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"TROIKADB";
const BYTES: usize = 57;

/// Whose directory this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member's id.
    pub member: u64,
    /// Random, new for every new directory: tells a wiped member from the one that voted.
    pub incarnation: [u8; 16],
    /// Known from the bootstrap or the join on.
    pub cluster: Option<[u8; 16]>,
}

impl Identity {
    /// Reads the file; None if there is none.
    pub fn read(files: &dyn Files) -> Result<Option<Self>, OpenError> {
        match files.read(IDENTITY) {
            Ok(bytes) => Self::decode(&bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DbError::io(IDENTITY, "read", &error).into()),
        }
    }

    /// Writes the file, replacing what was there. On disk when it returns.
    pub fn write(&self, files: &dyn Files) -> Result<(), DbError> {
        write_whole(files, IDENTITY, &self.encode())
            .map_err(|error| DbError::io(IDENTITY, "write", &error))
    }

    /// Refuses a directory of another member or of another cluster than expected.
    pub fn check(&self, member: u64, cluster: Option<[u8; 16]>) -> Result<(), OpenError> {
        if self.member != member {
            return Err(OpenError::OtherMember {
                found: self.member,
                expected: member,
            });
        }
        match (self.cluster, cluster) {
            (Some(found), Some(expected)) if found != expected => Err(OpenError::OtherCluster {
                found: hex(&found),
                expected: hex(&expected),
            }),
            _ => Ok(()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.member.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation);
        bytes.push(u8::from(self.cluster.is_some()));
        bytes.extend_from_slice(&self.cluster.unwrap_or_default());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let damaged =
            |reason: &str| OpenError::from(DbError::damaged(IDENTITY, "the file", reason));
        if bytes.len() < 12 || &bytes[..8] != MAGIC {
            return Err(damaged("it does not begin as it should"));
        }
        // The format stands outside what a newer one may change, so it is read before the length and the checksum.
        let found = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes"));
        if found > FORMAT {
            return Err(OpenError::NewerFormat {
                found,
                supported: FORMAT,
            });
        }
        if bytes.len() != BYTES {
            return Err(damaged("it has the wrong length"));
        }
        let (body, checksum) = bytes.split_at(BYTES - 4);
        if crc32c::crc32c(body).to_le_bytes() != checksum {
            return Err(damaged("its checksum does not match"));
        }
        Ok(Self {
            member: u64::from_le_bytes(body[12..20].try_into().expect("8 bytes")),
            incarnation: body[20..36].try_into().expect("16 bytes"),
            cluster: (body[36] == 1).then(|| body[37..53].try_into().expect("16 bytes")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            member: 3,
            incarnation: [7; 16],
            cluster: Some([9; 16]),
        }
    }

    #[test]
    fn identity_survives_the_round_trip_and_no_bit_can_change() {
        let bytes = identity().encode();
        assert_eq!(Identity::decode(&bytes).unwrap(), identity());
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&changed).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Identity::decode(&bytes[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = identity().encode();
        bytes[8] = 2;
        let error = Identity::decode(&bytes).unwrap_err().to_string();
        assert!(
            error.contains("format 2") && error.contains("up to 1"),
            "{error}"
        );
    }

    #[test]
    fn another_member_or_cluster_is_refused() {
        assert!(identity().check(3, None).is_ok());
        assert!(identity().check(3, Some([9; 16])).is_ok());
        assert!(matches!(
            identity().check(4, None),
            Err(OpenError::OtherMember {
                found: 3,
                expected: 4
            })
        ));
        assert!(matches!(
            identity().check(3, Some([8; 16])),
            Err(OpenError::OtherCluster { .. })
        ));
    }
}
