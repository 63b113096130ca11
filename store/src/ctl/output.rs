//! Prints one value: as JSON for scripts, as a table for people.

use super::args::Format;
use super::exit::CtlError;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{ErrorKind, Write};

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    format: Format,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One object: a line of JSON, or a line per field. Nested objects show as `outer.inner`.
    pub(super) fn object(&self, value: &Value) {
        if self.is_json() {
            return line(&value.to_string());
        }
        let mut table = plain();
        let mut later = Vec::new();
        flatten("", value, &mut table, &mut later);
        line(&aligned(table));
        for (name, rows) in later {
            line(&format!("\n{name}:"));
            line(&rows_table(&rows, &columns_of(&rows)));
        }
    }

    /// Many objects of one kind: one JSON array, or a table with these columns.
    pub(super) fn rows(&self, rows: &[Value], columns: &[&str]) {
        if self.is_json() {
            return line(&Value::Array(rows.to_vec()).to_string());
        }
        let columns: Vec<String> = columns.iter().map(|&c| c.to_owned()).collect();
        line(&rows_table(rows, &columns));
    }

    /// One of a stream of objects: a line of JSON, or this text.
    pub(super) fn event(&self, value: &Value, text: &str) {
        if self.is_json() {
            line(&value.to_string());
        } else {
            line(text);
        }
    }
}

/// Writes a line at once. A reader that went away (a closed pipe) ends the program quietly, as with other tools; what
/// cannot be written for another reason is an error.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let trimmed = text.lines().map(str::trim_end).collect::<Vec<_>>();
    let written = writeln!(out, "{}", trimmed.join("\n")).and_then(|()| out.flush());
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let error = CtlError::Failed(format!("cannot write the answer: {error}"));
            error.report();
            std::process::exit(error.code().into());
        }
    }
}

/// Says something to the person beside the answer. Without a reader there is nobody to tell.
pub(super) fn note(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}

fn plain() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn flatten(prefix: &str, value: &Value, table: &mut Table, later: &mut Vec<(String, Vec<Value>)>) {
    let Value::Object(fields) = value else {
        return;
    };
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| rank(name));
    for (name, field) in fields {
        let name = format!("{prefix}{name}");
        match field {
            Value::Object(_) => flatten(&format!("{name}."), field, table, later),
            Value::Array(rows) if rows.iter().any(Value::is_object) => {
                later.push((name, rows.clone()));
            }
            _ => {
                table.add_row([name, cell(field)]);
            }
        }
    }
}

fn columns_of(rows: &[Value]) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for row in rows {
        for name in row.as_object().into_iter().flat_map(|o| o.keys()) {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
    }
    columns.sort_by_key(|name| rank(name));
    columns
}

/// What a reader looks for first. Everything else follows by its name.
const FIRST: &[&str] = &[
    "won",
    "acquired",
    "started",
    "opened",
    "refused",
    "endpoint",
    "id",
    "round",
    "number",
    "hash",
    "block_hash",
    "key",
    "index",
    "shard",
    "kind",
    "status",
    "role",
    "executor",
    "proposal",
];

/// Where a field stands. Sorting by it keeps the order of names among equals.
fn rank(name: &str) -> usize {
    let place = FIRST.iter().position(|first| *first == name);
    place.unwrap_or(FIRST.len())
}

/// A column names a field, or a field of a field (`winner.executor`), and may have another heading (`a.b as c`).
fn rows_table(rows: &[Value], columns: &[String]) -> String {
    let columns: Vec<(&str, &str)> = columns
        .iter()
        .map(|column| column.split_once(" as ").unwrap_or((column, column)))
        .collect();
    let mut table = plain();
    let heading = |(_, heading): &(&str, &str)| heading.to_uppercase().replace('_', " ");
    table.set_header(columns.iter().map(heading));
    for row in rows {
        table.add_row(columns.iter().map(|(path, _)| {
            let mut value = row;
            for part in path.split('.') {
                value = value.get(part).unwrap_or(&Value::Null);
            }
            cell(value)
        }));
    }
    aligned(table)
}

/// The table's text, without a margin at the left.
fn aligned(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string()
}

/// Longest hex text that a table shows as it is: a hash.
const LONG_HEX: usize = 66;

/// Hex text, shortened where it is longer than people read. JSON has all of it.
fn readable(text: &str) -> String {
    let hex = text.len() > LONG_HEX
        && text.starts_with("0x")
        && text.bytes().skip(2).all(|byte| byte.is_ascii_hexdigit());
    if !hex {
        return text.to_owned();
    }
    let (head, tail) = (&text[..18], &text[text.len() - 8..]);
    format!("{head}…{tail} ({} bytes)", (text.len() - 2) / 2)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => readable(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| format!("{name}={}", cell(field)))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_column_may_name_a_field_of_a_field() {
        let rows = [json!({"shard": 3, "winner": {"executor": "a"}})];
        let text = rows_table(&rows, &["shard".to_owned(), "winner.executor".to_owned()]);
        assert!(text.contains("WINNER.EXECUTOR"));
        let last = text.lines().last().unwrap();
        assert_eq!(last.split_whitespace().collect::<Vec<_>>(), ["3", "a"]);
    }

    #[test]
    fn a_table_shows_what_matters_first_and_shortens_what_nobody_reads() {
        let value = json!({"bloom": format!("0x{}", "00".repeat(256)), "hash": format!("0x{}", "ab".repeat(32)),
            "round": 7, "won": true, "empty": []});
        let mut table = plain();
        flatten("", &value, &mut table, &mut Vec::new());
        let text = aligned(table);
        let names: Vec<_> = text
            .lines()
            .map(|l| l.split_whitespace().next().unwrap())
            .collect();
        assert_eq!(names, ["won", "round", "hash", "bloom", "empty"]);
        assert!(
            text.contains("0x0000000000000000…00000000 (256 bytes)"),
            "{text}"
        );
        assert!(
            text.contains(&"ab".repeat(32)),
            "a hash is shown whole: {text}"
        );
        assert!(text.starts_with("won"), "{text}");
    }
}
