//! The report: one self-contained page that a person reads. Verdict first.

use crate::history::{Entry, Kind, NEMESIS, Op};
use crate::run::{Options, Results, Verdict};
use std::fmt::Write;

/// Width and height of a plot, in pixels.
const PLOT: (f64, f64) = (960.0, 160.0);
/// Most findings shown in full.
const MOST_FINDINGS: usize = 20;

/// The page.
pub fn html(options: &Options, history: &[Entry], results: &Results) -> String {
    let mut out = String::new();
    let verdict = match results.verdict {
        Verdict::Valid => (
            "valid",
            "Everything that was seen keeps every promise that was tested.",
        ),
        Verdict::Invalid => ("invalid", "Something was seen that must not be."),
        Verdict::Unknown => ("unknown", "This run did not test what it was meant to."),
    };
    let _ = write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><title>{} - troika-jepsen</title><style>{STYLE}</style>\
         <h1 class={0}>{0}</h1><p>{}</p>",
        verdict.0, verdict.1
    );
    let _ = write!(out, "<pre>{}</pre>", escape(&options.command));
    for missing in &results.missing {
        let _ = write!(out, "<p class=unknown>{}</p>", escape(missing));
    }
    findings(&mut out, history, results);
    numbers(&mut out, results);
    out.push_str("<h2>Latency of answered calls</h2>");
    latencies(&mut out, history);
    out.push_str("<h2>Calls a second</h2>");
    rates(&mut out, history);
    out.push_str("<h2>Faults</h2>");
    faults(&mut out, history);
    out.push_str("<h2>Tested</h2><table>");
    for (name, hash) in &options.binaries {
        let _ = write!(out, "<tr><td>{}<td><code>{hash}</code>", escape(name));
    }
    for skipped in &options.skipped {
        let _ = write!(out, "<tr><td>skipped<td>{}", escape(skipped));
    }
    out.push_str("</table></html>");
    out
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}\
h1{text-transform:uppercase;letter-spacing:.05em}.valid{color:#18794e}.invalid{color:#c62a2f}.unknown{color:#ad5700}\
pre{background:#f4f4f4;padding:.7em;overflow-x:auto;font-size:13px}table{border-collapse:collapse}\
td,th{padding:.2em .8em;border-bottom:1px solid #e4e4e4;text-align:left;vertical-align:top}\
svg{width:100%;height:auto;background:#fcfcfc;border:1px solid #e4e4e4}code{font-size:12px}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn findings(out: &mut String, history: &[Entry], results: &Results) {
    if results.findings.is_empty() {
        return;
    }
    let _ = write!(out, "<h2>Found ({})</h2>", results.findings.len());
    for finding in results.findings.iter().take(MOST_FINDINGS) {
        let _ = write!(
            out,
            "<h3 class=invalid>{}</h3><p>{}</p><pre>",
            escape(&finding.rule),
            escape(&finding.text)
        );
        for index in finding.entries.iter().take(12) {
            if let Some(entry) = history.get(*index as usize) {
                let _ = writeln!(out, "{}", escape(&crate::edn::entry(entry)));
            }
        }
        out.push_str("</pre>");
    }
}

fn numbers(out: &mut String, results: &Results) {
    let c = &results.coverage;
    out.push_str("<h2>What the run did</h2><table>");
    let mut row = |name: &str, value: String| {
        let _ = write!(out, "<tr><td>{name}<td>{value}");
    };
    row("answered", c.ok.to_string());
    row("provably without effect", c.fail.to_string());
    row("of unknown outcome", c.info.to_string());
    row("slots decided", c.decided.to_string());
    row("lost races", c.lost_races.to_string());
    row("conflicts", c.conflicts.to_string());
    row("terms seen", c.terms.to_string());
    for (fault, count) in &c.faults {
        row(&escape(fault), format!("{count} times"));
    }
    let recovery = results
        .recovery_s
        .map_or("none in time".to_owned(), |s| format!("{s:.1} s"));
    row("progress after the last fault", recovery);
    row(
        "checked",
        format!("{} entries in {:.2} s", results.entries, results.check_s),
    );
    out.push_str("</table>");
}

/// Seconds since the run began.
fn at(entry: &Entry) -> f64 {
    entry.time as f64 / 1e9
}

/// Times at which faults were in force: (from, to, name).
fn bands(history: &[Entry]) -> Vec<(f64, f64, String)> {
    let end = history.last().map_or(0.0, at);
    let mut bands: Vec<(f64, f64, String)> = Vec::new();
    for entry in history {
        let Op::Nemesis(n) = &entry.op else { continue };
        if n.action == "install" && n.result == "installed" {
            bands.push((at(entry), end, n.fault.clone()));
        } else if n.action == "lift"
            && let Some(band) = bands.iter_mut().rev().find(|b| b.2 == n.fault)
        {
            band.1 = at(entry);
        }
    }
    bands
}

/// An empty plot with the fault bands; `end` is its length in seconds.
fn open_plot(out: &mut String, history: &[Entry], end: f64) {
    let (width, height) = PLOT;
    let _ = write!(out, "<svg viewBox=\"0 0 {width} {}\">", height + 18.0);
    for (from, to, name) in bands(history) {
        let x = from / end * width;
        let _ = write!(
            out,
            "<rect x={x:.1} y=0 width={:.1} height={height} fill=#f3d0d0 opacity=.6><title>{}</title></rect>\
             <text x={:.1} y=10 font-size=9 fill=#933>{}</text>",
            ((to - from) / end * width).max(1.0),
            escape(&name),
            x + 2.0,
            escape(&name)
        );
    }
    for tenth in 0..=10 {
        let x = f64::from(tenth) / 10.0 * width;
        let _ = write!(
            out,
            "<text x={x:.1} y={} font-size=10 fill=#777 text-anchor={}>{:.0} s</text>",
            height + 13.0,
            if tenth == 10 { "end" } else { "start" },
            end * f64::from(tenth) / 10.0
        );
    }
}

fn latencies(out: &mut String, history: &[Entry]) {
    let (width, height) = PLOT;
    let end = history.last().map_or(1.0, at).max(1.0);
    open_plot(out, history, end);
    let mut asked = std::collections::HashMap::new();
    // Logarithmic from 0.1 ms to 10 s.
    let y = |ms: f64| height - (ms.clamp(0.1, 10_000.0) / 0.1).log10() / 5.0 * height;
    let every = (history.len() / 8_000).max(1);
    for (i, entry) in history.iter().enumerate() {
        match entry.kind {
            Kind::Invoke => {
                asked.insert(entry.process, entry.time);
            }
            _ if entry.process == NEMESIS => {}
            kind => {
                let Some(from) = asked.remove(&entry.process) else {
                    continue;
                };
                if kind == Kind::Ok && i % every != 0 {
                    continue;
                }
                let color = match kind {
                    Kind::Ok => "#2b6cb0",
                    Kind::Fail => "#ad5700",
                    _ => "#c62a2f",
                };
                let _ = write!(
                    out,
                    "<circle cx={:.1} cy={:.1} r=1.2 fill={color} />",
                    from as f64 / 1e9 / end * width,
                    y((entry.time - from) as f64 / 1e6)
                );
            }
        }
    }
    for ms in [1.0, 10.0, 100.0, 1_000.0] {
        let _ = write!(
            out,
            "<line x1=0 x2={width} y1={0:.1} y2={0:.1} stroke=#ddd /><text x=2 y={0:.1} font-size=9 fill=#777>{ms} ms</text>",
            y(ms)
        );
    }
    out.push_str(
        "</svg><p>Blue: answered. Orange: provably without effect. Red: outcome unknown.</p>",
    );
}

fn rates(out: &mut String, history: &[Entry]) {
    let (width, height) = PLOT;
    let end = history.last().map_or(1.0, at).max(1.0);
    let mut seconds = vec![0u32; end as usize + 1];
    for entry in history {
        let call = !matches!(
            entry.op,
            Op::Watch(_) | Op::Feed(_) | Op::StateHash(_) | Op::Nemesis(_)
        );
        if entry.kind == Kind::Ok && call {
            seconds[at(entry) as usize] += 1;
        }
    }
    let most = f64::from(seconds.iter().copied().max().unwrap_or(1).max(1));
    open_plot(out, history, end);
    let points: Vec<String> = seconds
        .iter()
        .enumerate()
        .map(|(s, n)| {
            let x = (s as f64 + 0.5) / end * width;
            format!(
                "{x:.1},{:.1}",
                height - f64::from(*n) / most * (height - 14.0)
            )
        })
        .collect();
    let _ = write!(
        out,
        "<polyline fill=none stroke=#2b6cb0 stroke-width=1.5 points=\"{}\" /></svg><p>Most in one second: {most}.</p>",
        points.join(" ")
    );
}

fn faults(out: &mut String, history: &[Entry]) {
    out.push_str("<table><tr><th>at<th>fault<th><th><th>");
    for entry in history {
        if let Op::Nemesis(n) = &entry.op {
            let _ = write!(
                out,
                "<tr><td>{:.1} s<td>{}<td>{}<td>{}<td>{}",
                at(entry),
                escape(&n.fault),
                escape(&n.action),
                escape(&n.result),
                escape(&n.detail)
            );
        }
    }
    out.push_str("</table>");
}
