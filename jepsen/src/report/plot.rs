//! Latency and rate, with the times of faults behind them.

use super::at;
use super::timeline::{LEFT, WIDTH, axis, bands, shade, x};
use crate::history::{Entry, Kind, NEMESIS, Op};
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::fmt::Write;

/// Height of a plot, in pixels.
const HEIGHT: f64 = 190.0;
/// Most points that are drawn.
const POINTS: usize = 8_000;

/// A finished call: when it was asked, how long it took in milliseconds, what became of it.
struct Call {
    asked: f64,
    ms: f64,
    kind: Kind,
}

fn calls(history: &[Entry]) -> Vec<Call> {
    let mut open: HashMap<u64, u64> = HashMap::new();
    let mut calls = Vec::new();
    for entry in history.iter().filter(|e| e.process != NEMESIS) {
        if entry.kind == Kind::Invoke {
            open.insert(entry.process, entry.time);
        } else if let Some(from) = open.remove(&entry.process) {
            calls.push(Call {
                asked: from as f64 / 1e9,
                ms: (entry.time - from) as f64 / 1e6,
                kind: entry.kind,
            });
        }
    }
    calls
}

fn end(history: &[Entry]) -> f64 {
    history.last().map_or(1.0, at).max(1.0)
}

/// Every call as a dot, on a logarithmic scale from 0.1 ms to 10 s.
pub(super) fn latencies(out: &mut String, history: &[Entry]) {
    let end = end(history);
    let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} {}\">", HEIGHT + 18.0);
    shade(out, history, HEIGHT, end);
    let y = |ms: f64| HEIGHT - (ms.clamp(0.1, 10_000.0) / 0.1).log10() / 5.0 * (HEIGHT - 28.0);
    for (ms, text) in [
        (1.0, "1 ms"),
        (10.0, "10 ms"),
        (100.0, "100 ms"),
        (1_000.0, "1 s"),
        (10_000.0, "10 s"),
    ] {
        let _ = write!(
            out,
            "<line x1={LEFT} x2={WIDTH} y1={0:.1} y2={0:.1} stroke=#e2e4e8 />\
             <text x={1} y={2:.1} font-size=10 fill=#60646c text-anchor=end>{text}</text>",
            y(ms),
            LEFT - 6.0,
            y(ms) + 3.0
        );
    }
    let calls = calls(history);
    let every = (calls.len() / POINTS).max(1);
    // Rare outcomes last, so that they are not covered.
    for (kind, color) in [
        (Kind::Ok, "#2b6cb0"),
        (Kind::Fail, "#ad5700"),
        (Kind::Info, "#c62a2f"),
    ] {
        let of_kind = calls.iter().enumerate().filter(|(_, c)| c.kind == kind);
        for (_, call) in of_kind.filter(|(n, _)| kind != Kind::Ok || n % every == 0) {
            let _ = write!(
                out,
                "<circle cx={:.1} cy={:.1} r=1.3 fill={color} opacity=.7 />",
                x(call.asked, end),
                y(call.ms)
            );
        }
    }
    axis(out, HEIGHT + 14.0, end);
    out.push_str("</svg><p class=small>Each dot is a call. Blue: answered. Orange: provably without effect. Red: outcome unknown.</p>");
}

/// Quantiles of answered calls, without and during faults.
pub(super) fn quantiles(out: &mut String, history: &[Entry]) {
    let bands = bands(history);
    let histogram = || Histogram::<u64>::new_with_max(600_000_000, 3);
    let (Ok(mut calm), Ok(mut faulty)) = (histogram(), histogram()) else {
        return;
    };
    for call in calls(history).iter().filter(|c| c.kind == Kind::Ok) {
        let done = call.asked + call.ms / 1e3;
        let struck = bands.iter().any(|b| b.from <= done && call.asked <= b.to);
        let which = if struck { &mut faulty } else { &mut calm };
        which.saturating_record((call.ms * 1e3) as u64);
    }
    out.push_str("<table><tr><th>answered calls<th>number<th>half within<th>99% within<th>99.9% within<th>slowest");
    for (name, histogram) in [("without a fault", &calm), ("during faults", &faulty)] {
        if histogram.is_empty() {
            continue;
        }
        let ms = |micros: u64| format!("{:.1} ms", micros as f64 / 1e3);
        let _ = write!(
            out,
            "<tr><td>{name}<td>{}<td>{}<td>{}<td>{}<td>{}",
            histogram.len(),
            ms(histogram.value_at_quantile(0.5)),
            ms(histogram.value_at_quantile(0.99)),
            ms(histogram.value_at_quantile(0.999)),
            ms(histogram.max())
        );
    }
    out.push_str("</table>");
}

/// Answers a second.
pub(super) fn rates(out: &mut String, history: &[Entry]) {
    let end = end(history);
    let mut seconds = [vec![0_u32; end as usize + 1], vec![0_u32; end as usize + 1]];
    for entry in history.iter().filter(|e| e.process != NEMESIS) {
        let seen = matches!(
            entry.op,
            Op::Watch(_)
                | Op::Feed(_)
                | Op::StateHash(_)
                | Op::Block(_)
                | Op::Balances(_)
                | Op::Receipt(_)
        );
        match entry.kind {
            Kind::Ok if !seen => seconds[0][at(entry) as usize] += 1,
            Kind::Info => seconds[1][at(entry) as usize] += 1,
            _ => {}
        }
    }
    let most = seconds.iter().flatten().copied().max().unwrap_or(0).max(1);
    let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} {}\">", HEIGHT + 18.0);
    shade(out, history, HEIGHT, end);
    let y = |count: f64| HEIGHT - count / f64::from(most) * (HEIGHT - 28.0);
    for share in [0.0, 0.5, 1.0] {
        let count = f64::from(most) * share;
        let _ = write!(
            out,
            "<line x1={LEFT} x2={WIDTH} y1={0:.1} y2={0:.1} stroke=#e2e4e8 />\
             <text x={1} y={2:.1} font-size=10 fill=#60646c text-anchor=end>{count:.0}/s</text>",
            y(count),
            LEFT - 6.0,
            y(count) + 3.0
        );
    }
    for (counts, color) in seconds.iter().zip(["#2b6cb0", "#c62a2f"]) {
        let points = counts.iter().enumerate();
        let points: Vec<String> = points
            .map(|(s, n)| {
                format!(
                    "{:.1},{:.1}",
                    x((s as f64 + 0.5).min(end), end),
                    y(f64::from(*n))
                )
            })
            .collect();
        let _ = write!(
            out,
            "<polyline fill=none stroke={color} stroke-width=1.5 points=\"{}\" />",
            points.join(" ")
        );
    }
    axis(out, HEIGHT + 14.0, end);
    out.push_str("</svg><p class=small>Blue: answered. Red: outcome unknown. The last seconds are the questions after the heal.</p>");
}
