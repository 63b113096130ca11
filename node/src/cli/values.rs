//! Values of options: what they are, and what is said of a wrong one.

use std::time::Duration;
use troika_proto::limits::{MAX_NAME_CHARS, MAX_SEAL_AFTER_MS, MAX_SHARDS};

/// Shard indices, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRange {
    /// The lowest.
    pub first: u32,
    /// The highest.
    pub last: u32,
}

pub(super) fn shard_range(text: &str) -> Result<ShardRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let index = |text: &str| match text.parse::<u32>() {
        Ok(index) if index < MAX_SHARDS => Ok(index),
        Ok(index) => Err(format!(
            "shard {index} is out of range, the highest is {}",
            MAX_SHARDS - 1
        )),
        Err(_) => Err("expected the first and the last shard, for instance 0-3".to_owned()),
    };
    let (first, last) = (index(first)?, index(last)?);
    if first > last {
        return Err(format!(
            "the first shard ({first}) is above the last ({last})"
        ));
    }
    Ok(ShardRange { first, last })
}

pub(super) fn members(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err("expected 3 or 5, or 1 for a store that survives nothing".to_owned()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => {
            return Err("expected a number with its unit, for instance 500ms, 1s or 2m".to_owned());
        }
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("`{digits}` is not a number"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

pub(super) fn block_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    // Sealing may take twice the block time, and has a limit of its own.
    let most = Duration::from_millis(MAX_SEAL_AFTER_MS / 2);
    if time > most {
        return Err(format!("the limit is {}s", most.as_secs()));
    }
    Ok(time)
}

/// A URL, or HOST:PORT, which gets its scheme when it is known whether TLS is spoken.
pub(super) fn url(text: &str) -> Result<String, String> {
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let parsed: tonic::transport::Uri =
        full.parse().map_err(|error| format!("`{text}`: {error}"))?;
    match parsed.port_u16() {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("`{text}` has no port, expected HOST:PORT")),
    }
}

pub(super) fn name(text: &str) -> Result<String, String> {
    troika_proto::wire::check_name("name", text)
        .map(|()| text.to_owned())
        .map_err(|_| format!("expected 1 to {MAX_NAME_CHARS} characters of [A-Za-z0-9._:-]"))
}
