//! A web page for every report below a folder. One request at a time: it is for one person.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#1c2024}\
table{border-collapse:collapse;width:100%}td,th{padding:.35em .7em;border-bottom:1px solid #e4e4e4;text-align:left}\
.valid{color:#18794e}.invalid{color:#c62a2f}.unknown,.unfinished{color:#ad5700}td:first-child{font-weight:600}a{color:#0b68cb}";

/// Serves until the process ends.
///
/// # Errors
/// The port is taken, or there is no such folder.
pub fn serve(out: &Path, port: u16) -> Result<i32> {
    let root = out
        .canonicalize()
        .with_context(|| out.display().to_string())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("http://{}/ (Ctrl-C ends)", listener.local_addr()?);
    for stream in listener.incoming() {
        if let Err(e) = answer(&root, stream?) {
            eprintln!("{e:#}");
        }
    }
    Ok(0)
}

fn answer(root: &Path, mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 4096];
    let read = stream.read(&mut request)?;
    let line = String::from_utf8_lossy(&request[..read]).into_owned();
    let path = line.split_whitespace().nth(1).unwrap_or("/");
    let path = decoded(path.split('?').next().unwrap_or("/"));
    let path = path.trim_start_matches('/');
    // Canonical, so that no `..` and no link leads out of the folder.
    let (code, kind, body) = match root.join(path).canonicalize() {
        Ok(target) if target == root => ("200 OK", "text/html", listing(root)?.into_bytes()),
        Ok(target) if target.starts_with(root) && target.is_file() => {
            let html = target.extension().is_some_and(|e| e == "html");
            let kind = if html { "text/html" } else { "text/plain" };
            ("200 OK", kind, std::fs::read(target)?)
        }
        Ok(target) if target.starts_with(root) => {
            ("200 OK", "text/html", files(root, &target)?.into_bytes())
        }
        _ => ("404 Not Found", "text/plain", b"not here\n".to_vec()),
    };
    write!(
        stream,
        "HTTP/1.1 {code}\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    Ok(())
}

/// A path without its percent signs.
fn decoded(path: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits: Vec<u8> = bytes.by_ref().take(2).collect();
        let hex = std::str::from_utf8(&digits).ok();
        out.extend(hex.and_then(|h| u8::from_str_radix(h, 16).ok()));
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{body}"
    )
}

/// Every run, newest first.
fn listing(root: &Path) -> Result<String> {
    let mut rows = Vec::new();
    let tests = std::fs::read_dir(root)?.flatten();
    for test in tests.filter(|e| e.path().is_dir()) {
        for run in std::fs::read_dir(test.path())?.flatten() {
            let results = std::fs::read(run.path().join("results.json")).unwrap_or_default();
            let results: serde_json::Value = serde_json::from_slice(&results).unwrap_or_default();
            let verdict = results["verdict"].as_str().unwrap_or("unfinished");
            let (test, name) = (test.file_name(), run.file_name());
            let (test, name) = (test.to_string_lossy(), name.to_string_lossy());
            let found = results["findings"][0]["rule"].as_str().unwrap_or("");
            let entries = results["entries"].as_u64().unwrap_or(0);
            let row = format!(
                "<tr><td class={verdict}>{verdict}<td><a href=\"/{test}/{name}/report.html\">{}</a><td>{name}\
                 <td>{entries}<td>{found}<td><a href=\"/{test}/{name}\">files</a>",
                test.replace('+', ", ")
            );
            rows.push((name.into_owned(), row));
        }
    }
    rows.sort_by(|a, b| b.0.cmp(&a.0));
    let rows: String = rows.into_iter().map(|(_, row)| row).collect();
    let head = "<tr><th>verdict<th>test<th>run<th>entries<th>found<th>";
    Ok(page("Runs", &format!("<table>{head}{rows}</table>")))
}

fn files(root: &Path, dir: &Path) -> Result<String> {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(dir)?.flatten() {
        let path = entry.path();
        let href = path.strip_prefix(root)?.display().to_string();
        let size = entry.metadata()?.len();
        rows.push(format!(
            "<tr><td><a href=\"/{href}\">{}</a><td>{size}",
            entry.file_name().to_string_lossy()
        ));
    }
    rows.sort();
    let title = dir.strip_prefix(root)?.display().to_string();
    let table = format!("<p><a href=/>all runs</a><table>{}</table>", rows.concat());
    Ok(page(&title, &table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(root: &Path, path: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let client = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        answer(root, listener.accept().unwrap().0).unwrap();
        client.join().unwrap()
    }

    #[test]
    fn reports_are_served_and_nothing_outside_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir
            .path()
            .join("runs")
            .canonicalize()
            .unwrap_or_else(|_| dir.path().join("runs"));
        let run = root.join("race-kill+pause/17-1");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(dir.path().join("secret"), "not for you").unwrap();
        std::fs::write(run.join("report.html"), "<h1>valid</h1>").unwrap();
        std::fs::write(run.join("results.json"), r#"{"verdict":"valid"}"#).unwrap();
        let root = root.canonicalize().unwrap();
        assert!(get(&root, "/").contains("race-kill, pause"));
        let report = get(&root, "/race-kill%2Bpause/17-1/report.html");
        assert!(
            report.contains("text/html") && report.ends_with("<h1>valid</h1>"),
            "{report}"
        );
        assert!(get(&root, "/race-kill+pause/17-1").contains("results.json"));
        for outside in ["/../secret", "/%2e%2e/secret", "/nothing"] {
            assert!(get(&root, outside).starts_with("HTTP/1.1 404"), "{outside}");
        }
    }
}
