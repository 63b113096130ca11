//! The history in Jepsen's own form, for outside checkers.
//!
//! Every entry becomes one map with `:index :time :process :type :f :value`. For Knossos and Porcupine the decided
//! shards are shown as independent write-once registers: see `docs/testing.md`.

use crate::history::{Entry, Kind, NEMESIS};
use serde_json::Value;
use std::fmt::Write;

/// One entry as an EDN map.
pub fn entry(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::Invoke => "invoke",
        Kind::Ok => "ok",
        Kind::Fail => "fail",
        Kind::Info => "info",
    };
    let json = serde_json::to_value(&entry.op).unwrap_or_default();
    let name = json["f"].as_str().unwrap_or("unknown");
    let process = if entry.process == NEMESIS {
        ":nemesis".to_owned()
    } else {
        entry.process.to_string()
    };
    let mut out = format!(
        "{{:index {}, :time {}, :process {process}, :type :{kind}, :f :{name}, :value ",
        entry.index, entry.time
    );
    value(&json["value"], &mut out);
    if !entry.error.is_empty() {
        out.push_str(", :error ");
        string(&entry.error, &mut out);
    }
    out.push('}');
    out
}

fn value(json: &Value, out: &mut String) {
    match json {
        Value::Null => out.push_str("nil"),
        Value::Bool(b) => {
            let _ = write!(out, "{b}");
        }
        Value::Number(n) => {
            let _ = write!(out, "{n}");
        }
        Value::String(s) => string(s, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                value(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                let _ = write!(out, ":{} ", key.replace('_', "-"));
                value(item, out);
            }
            out.push('}');
        }
    }
}

fn string(s: &str, out: &mut String) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Get, Op};

    #[test]
    fn an_entry_is_a_map_in_jepsens_form() {
        let e = Entry {
            index: 3,
            time: 17,
            process: 2,
            kind: Kind::Info,
            op: Op::Get(Get {
                round: 9,
                linearizable: true,
                seen: None,
                meta: None,
            }),
            error: "timed \"out\"".into(),
        };
        assert_eq!(
            entry(&e),
            "{:index 3, :time 17, :process 2, :type :info, :f :get, :value {:linearizable true, :round 9}, \
             :error \"timed \\\"out\\\"\"}"
        );
    }
}
