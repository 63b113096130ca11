//! Prints one value: as JSON for scripts, as a table for people.

use super::args::Format;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::Write;

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
        line(&table.to_string());
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

/// Writes a line at once. A reader that went away (a closed pipe) ends the program quietly, as with other tools.
fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let trimmed = text.lines().map(str::trim_end).collect::<Vec<_>>();
    let written = writeln!(out, "{}", trimmed.join("\n")).and_then(|()| out.flush());
    if written.is_err() {
        std::process::exit(0);
    }
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
    columns
}

fn rows_table(rows: &[Value], columns: &[String]) -> String {
    let mut table = plain();
    table.set_header(columns.iter().map(|c| c.to_uppercase().replace('_', " ")));
    for row in rows {
        table.add_row(columns.iter().map(|column| {
            // A column may name a field of a field: `winner.executor`.
            let mut value = row;
            for part in column.split('.') {
                value = value.get(part).unwrap_or(&Value::Null);
            }
            cell(value)
        }));
    }
    table.to_string()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
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
}
