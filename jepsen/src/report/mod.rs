//! The report: one self-contained page that a person reads. Verdict first, then what was promised and what was seen.

mod plot;
mod promises;
mod timeline;

use crate::checker::Finding;
use crate::history::{Entry, Kind, NEMESIS, Op};
use crate::verdict::{Options, Results, Verdict, wanted};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Most findings shown in full.
const MOST_FINDINGS: usize = 12;
/// Most entries of a finding that are printed.
const MOST_ENTRIES: usize = 24;

/// The page.
pub fn html(options: &Options, history: &[Entry], results: &Results) -> String {
    let mut out = String::with_capacity(1 << 20);
    let (name, sentence) = match results.verdict {
        Verdict::Valid => (
            "valid",
            "Everything that was seen keeps every promise that was tested.",
        ),
        Verdict::Invalid => ("invalid", "Something was seen that must not be."),
        Verdict::Unknown => ("unknown", "This run did not test what it was meant to."),
    };
    let _ = write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{name}: {} - troika-jepsen</title><style>{STYLE}</style><main>\
         <header class={name}><p class=stamp>{name}</p><p>{sentence}</p></header>",
        options.args.workload.name()
    );
    for missing in &results.missing {
        let _ = write!(out, "<p class=note>{}</p>", escape(missing));
    }
    summary(&mut out, options, history, results);
    promises::table(&mut out, history, results);
    findings(&mut out, history, results);
    out.push_str("<h2>What happened when</h2>");
    timeline::whole(&mut out, history);
    out.push_str("<h2>Latency</h2>");
    plot::latencies(&mut out, history);
    plot::quantiles(&mut out, history);
    out.push_str("<h2>Answers a second</h2>");
    plot::rates(&mut out, history);
    out.push_str("<h2>Calls</h2>");
    calls(&mut out, history);
    faults(&mut out, history);
    again(&mut out, options);
    out.push_str("</main></html>");
    out
}

const STYLE: &str = "\
:root{--ink:#1c2024;--soft:#60646c;--line:#e2e4e8;--ok:#18794e;--bad:#c62a2f;--warn:#ad5700;--blue:#2b6cb0}\
body{font:15px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;color:var(--ink);background:#fff;margin:0}\
main{max-width:1060px;margin:0 auto;padding:1.5em 1.2em 4em}\
header{border-left:6px solid;padding:.3em 1.1em;margin-bottom:1.2em}header p{margin:.15em 0}\
header.valid{border-color:var(--ok);background:#f1faf5}header.invalid{border-color:var(--bad);background:#fdf3f3}\
header.unknown{border-color:var(--warn);background:#fdf7ef}\
.stamp{font-size:2em;font-weight:700;letter-spacing:.06em;text-transform:uppercase}\
.valid .stamp,.kept{color:var(--ok)}.invalid .stamp,.broken{color:var(--bad)}.unknown .stamp,.untested{color:var(--warn)}\
h2{margin:2em 0 .5em;font-size:1.25em;border-bottom:1px solid var(--line);padding-bottom:.2em}h3{margin:1.4em 0 .3em;font-size:1.05em}\
p.note{background:#fdf7ef;border:1px solid #f3dfc0;padding:.4em .8em}p.small{color:var(--soft);font-size:13px;margin:.3em 0}\
table{border-collapse:collapse;width:100%}td,th{padding:.32em .7em .32em 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}\
th{font-weight:600;color:var(--soft);font-size:13px}td.n{text-align:right;font-variant-numeric:tabular-nums}\
pre{background:#f6f7f9;border:1px solid var(--line);padding:.7em .9em;overflow-x:auto;font-size:12px;line-height:1.5;margin:.5em 0}\
code{font-size:12px;word-break:break-all}svg{width:100%;height:auto;display:block;margin:.3em 0}svg text{font-family:inherit}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1.4em;margin:0}dt{color:var(--soft)}dd{margin:0}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Seconds since the run began.
fn at(entry: &Entry) -> f64 {
    entry.time as f64 / 1e9
}

fn summary(out: &mut String, options: &Options, history: &[Entry], results: &Results) {
    let args = &options.args;
    let faults: Vec<String> = wanted(args).iter().map(|f| f.name()).collect();
    let faults = if faults.is_empty() {
        "none".to_owned()
    } else {
        faults.join(", ")
    };
    let c = &results.coverage;
    let seconds = history.last().map_or(0.0, at);
    let size = if args.workload.is_real() {
        format!(
            "{} members, {} executors, a gateway, {} shards",
            args.members, args.executors, args.shards
        )
    } else {
        format!("{} members, {} shards", args.members, args.shards)
    };
    let mut row = |name: &str, value: String| {
        let _ = write!(out, "<dt>{name}<dd>{}", escape(&value));
    };
    row("workload", args.workload.name());
    row("faults", faults);
    row("cluster", size);
    row(
        "run",
        format!(
            "{seconds:.0} s, seed {}, {} entries",
            options.seed, results.entries
        ),
    );
    row(
        "calls",
        format!(
            "{} answered, {} provably without effect, {} of unknown outcome",
            c.ok, c.fail, c.info
        ),
    );
    let mut did = format!(
        "{} shards decided, {} races lost, {} conflicts, {} terms, {} restarts",
        c.decided, c.lost_races, c.conflicts, c.terms, c.restarts
    );
    if c.transactions > 0 {
        let _ = write!(
            did,
            "; {} blocks with {} transactions",
            c.blocks, c.transactions
        );
    }
    row("bite", did);
    row(
        "recovery",
        results.recovery_s.map_or("none in time".to_owned(), |s| {
            format!("progress on every member {s:.1} s after the last fault was lifted")
        }),
    );
    let text = std::mem::take(out);
    let begin = text.rfind("<dt>workload").unwrap_or(text.len());
    let _ = write!(out, "{}<dl>{}</dl>", &text[..begin], &text[begin..]);
}

fn findings(out: &mut String, history: &[Entry], results: &Results) {
    if results.findings.is_empty() {
        return;
    }
    let shown = results.findings.len().min(MOST_FINDINGS);
    let _ = write!(out, "<h2>What was found ({})</h2>", results.findings.len());
    for finding in results.findings.iter().take(shown) {
        one_finding(out, history, finding);
    }
    if shown < results.findings.len() {
        let _ = write!(
            out,
            "<p class=small>{} more are in results.json.",
            results.findings.len() - shown
        );
    }
}

/// A finding with the smallest history that shows it: its entries, and the calls that they answer.
fn one_finding(out: &mut String, history: &[Entry], finding: &Finding) {
    let _ = write!(
        out,
        "<h3 class=broken>{}</h3><p>{}</p>",
        escape(&finding.rule),
        escape(&finding.text)
    );
    let entries = with_invokes(history, &finding.entries);
    if entries.is_empty() {
        return;
    }
    timeline::of_finding(out, history, &entries);
    out.push_str("<pre>");
    for entry in entries.iter().take(MOST_ENTRIES) {
        let _ = writeln!(out, "{}", escape(&crate::edn::entry(entry)));
    }
    out.push_str("</pre>");
}

fn with_invokes<'a>(history: &'a [Entry], indices: &[u64]) -> Vec<&'a Entry> {
    let mut wanted: Vec<&Entry> = Vec::new();
    for index in indices.iter().take(MOST_ENTRIES) {
        let Some(entry) = history.get(*index as usize) else {
            continue;
        };
        if entry.kind != Kind::Invoke && entry.process != NEMESIS {
            let before = history[..*index as usize].iter().rev();
            let invoke = before
                .take(20_000)
                .find(|e| e.process == entry.process)
                .filter(|e| e.kind == Kind::Invoke);
            wanted.extend(invoke);
        }
        wanted.push(entry);
    }
    wanted.sort_by_key(|e| e.index);
    wanted.dedup_by_key(|e| e.index);
    wanted
}

/// Calls by what they are and what became of them.
fn calls(out: &mut String, history: &[Entry]) {
    let mut rows: BTreeMap<&'static str, [u64; 3]> = BTreeMap::new();
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for entry in history {
        let name = match &entry.op {
            Op::Open(_) => "open",
            Op::Submit(_) => "submit",
            Op::Acquire(_) => "acquire",
            Op::Seal(_) => "seal",
            Op::Void(_) => "void",
            Op::Get(_) => "get",
            Op::Prune(_) => "prune",
            Op::Transfer(_) => "transfer",
            _ => continue,
        };
        let column = match entry.kind {
            Kind::Invoke => continue,
            Kind::Ok => 0,
            Kind::Fail => 1,
            Kind::Info => 2,
        };
        rows.entry(name).or_default()[column] += 1;
        if !entry.error.is_empty() {
            let reason: String = entry.error.chars().take(90).collect();
            *reasons.entry(reason).or_default() += 1;
        }
    }
    out.push_str("<table><tr><th>call<th>answered<th>without effect<th>unknown");
    for (name, [ok, fail, info]) in rows {
        let _ = write!(out, "<tr><td>{name}<td>{ok}<td>{fail}<td>{info}");
    }
    out.push_str("</table>");
    let mut reasons: Vec<(String, u64)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if !reasons.is_empty() {
        out.push_str("<p class=small>Most frequent reasons:</p><table>");
        for (reason, count) in reasons.iter().take(6) {
            let _ = write!(
                out,
                "<tr><td class=n>{count}<td><code>{}</code>",
                escape(reason)
            );
        }
        out.push_str("</table>");
    }
}

fn faults(out: &mut String, history: &[Entry]) {
    let mut rows = String::new();
    for entry in history {
        if let Op::Nemesis(n) = &entry.op {
            let _ = write!(
                rows,
                "<tr><td class=n>{:.1} s<td>{}<td>{}<td>{}",
                at(entry),
                escape(&n.fault),
                escape(&n.result),
                escape(&n.detail)
            );
            for (what, count) in &n.effects {
                let _ = write!(rows, " {count} {what}");
            }
        }
    }
    if !rows.is_empty() {
        let _ = write!(
            out,
            "<h2>Faults</h2><table><tr><th>at<th>fault<th>came of it<th>what exactly{rows}</table>"
        );
    }
}

fn again(out: &mut String, options: &Options) {
    let _ = write!(
        out,
        "<h2>Run it again</h2><pre>{}</pre><p class=small>The seed decides the operations of every client and the faults; \
         <code>troika-jepsen plan</code> with the same flags prints them. <code>troika-jepsen analyze</code> on this folder \
         checks the recorded history again.</p><h2>What was tested</h2><table>",
        escape(&options.command)
    );
    for (name, hash) in &options.binaries {
        let _ = write!(
            out,
            "<tr><td>{}<td>Keccak-256 <code>{hash}</code>",
            escape(name)
        );
    }
    for skipped in &options.skipped {
        let _ = write!(out, "<tr><td>skipped<td>{}", escape(skipped));
    }
    let _ = write!(
        out,
        "<tr><td>suite<td>troika-jepsen {}, commit {}</table>",
        escape(&options.version),
        escape(&options.commit)
    );
}
