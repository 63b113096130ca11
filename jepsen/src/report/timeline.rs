//! Who led, whom faults struck, and what clients saw, one above the other; and the few calls of a finding.

use super::{at, escape};
use crate::history::{Entry, Kind, Meta, NEMESIS, Op};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Width of all drawings, and of the names on their left, in pixels.
pub(super) const WIDTH: f64 = 1000.0;
pub(super) const LEFT: f64 = 96.0;
/// Height of a lane.
const LANE: f64 = 20.0;
/// Colours of members that lead.
const LEADERS: [&str; 8] = [
    "#3b76af", "#e08b3e", "#519e3e", "#8d69b8", "#c53a32", "#84584e", "#d57dbe", "#7f7f7f",
];

/// A time during which a fault was in force.
pub(super) struct Band {
    /// Seconds.
    pub from: f64,
    /// Seconds.
    pub to: f64,
    /// The fault.
    pub name: String,
    /// Whom it struck.
    pub targets: Vec<String>,
    /// What exactly.
    pub detail: String,
}

/// All times at which faults were in force.
pub(super) fn bands(history: &[Entry]) -> Vec<Band> {
    let end = history.last().map_or(0.0, at);
    let mut bands: Vec<Band> = Vec::new();
    for entry in history.iter().filter(|e| e.process == NEMESIS) {
        let Op::Nemesis(n) = &entry.op else { continue };
        if n.action == "install" && n.result == "installed" {
            bands.push(Band {
                from: at(entry),
                to: end,
                name: n.fault.clone(),
                targets: n.targets.clone(),
                detail: n.detail.clone(),
            });
        } else if n.action == "lift"
            && let Some(band) = bands.iter_mut().rev().find(|b| b.name == n.fault)
        {
            band.to = at(entry);
        }
    }
    bands
}

/// Seconds to pixels.
pub(super) fn x(seconds: f64, end: f64) -> f64 {
    LEFT + seconds / end * (WIDTH - LEFT)
}

/// A time axis at `y`.
pub(super) fn axis(out: &mut String, y: f64, end: f64) {
    for tenth in 0..=10 {
        let seconds = end * f64::from(tenth) / 10.0;
        let anchor = if tenth == 10 { "end" } else { "middle" };
        let _ = write!(
            out,
            "<text x={:.1} y={y:.1} font-size=10 fill=#60646c text-anchor={anchor}>{seconds:.0} s</text>",
            x(seconds, end)
        );
    }
}

/// Fault bands behind a plot of that height, named at its top.
pub(super) fn shade(out: &mut String, history: &[Entry], height: f64, end: f64) {
    for (n, band) in bands(history).iter().enumerate() {
        let (from, to) = (x(band.from, end), x(band.to, end));
        let _ = write!(
            out,
            "<rect x={from:.1} y=14 width={:.1} height={:.1} fill=#f6d9d9 opacity=.65><title>{}: {}</title></rect>\
             <text x={:.1} y={} font-size=9 fill=#a33>{}</text>",
            (to - from).max(1.5),
            height - 14.0,
            escape(&band.name),
            escape(&band.detail),
            from + 1.0,
            if n % 2 == 0 { 10 } else { 24 },
            escape(&band.name)
        );
    }
}

fn meta(entry: &Entry) -> Option<Meta> {
    match &entry.op {
        Op::Submit(s) => s.meta,
        Op::Acquire(a) => a.meta,
        Op::Open(o) => o.meta,
        Op::Get(g) => g.meta,
        Op::Seal(s) | Op::Void(s) => s.meta,
        Op::StateHash(s) => s.meta,
        _ => None,
    }
}

/// Spans of time in which replies of the newest term named one leader: (from, to, leader, term).
fn reigns(history: &[Entry]) -> Vec<(f64, f64, u64, u64)> {
    let mut reigns: Vec<(f64, f64, u64, u64)> = Vec::new();
    for entry in history {
        let Some(meta) = meta(entry).filter(|m| m.leader > 0) else {
            continue;
        };
        match reigns.last_mut() {
            Some(last) if meta.term < last.3 => {}
            Some(last) if (last.2, last.3) == (meta.leader, meta.term) => last.1 = at(entry),
            _ => reigns.push((at(entry), at(entry), meta.leader, meta.term)),
        }
    }
    reigns
}

/// Lanes: leaders, every process that a fault struck, answers and unknown outcomes, decisions.
pub(super) fn whole(out: &mut String, history: &[Entry]) {
    let end = history.last().map_or(1.0, at).max(1.0);
    let bands = bands(history);
    let struck: BTreeSet<&String> = bands.iter().flat_map(|b| &b.targets).collect();
    let lanes = 4 + struck.len();
    let height = lanes as f64 * LANE + 22.0;
    let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} {height}\">");
    let mut lane = 0.0;
    let mut name = |out: &mut String, text: &str| {
        let y = lane * LANE;
        lane += 1.0;
        let _ = write!(
            out,
            "<line x1=0 x2={WIDTH} y1={0:.1} y2={0:.1} stroke=#eceef1 /><text x=0 y={1:.1} font-size=11 fill=#3a3f45>{2}</text>",
            y + LANE,
            y + 14.0,
            escape(text)
        );
        y
    };
    let y = name(out, "leader");
    for (from, to, leader, term) in reigns(history) {
        let (from, to) = (x(from, end), x(to, end));
        let _ = write!(
            out,
            "<rect x={from:.1} y={:.1} width={:.1} height=15 rx=2 fill={}><title>member {leader}, term {term}</title></rect>\
             <text x={:.1} y={:.1} font-size=10 fill=#fff>{leader}</text>",
            y + 2.0,
            (to - from).max(2.0),
            LEADERS[leader as usize % LEADERS.len()],
            from + 3.0,
            y + 13.5
        );
    }
    for role in &struck {
        let y = name(out, role);
        for band in bands.iter().filter(|b| b.targets.contains(role)) {
            let (from, to) = (x(band.from, end), x(band.to, end));
            let _ = write!(
                out,
                "<rect x={from:.1} y={:.1} width={:.1} height=15 rx=2 fill=#d9777b><title>{}: {}</title></rect>\
                 <text x={:.1} y={:.1} font-size=9 fill=#fff>{}</text>",
                y + 2.0,
                (to - from).max(2.0),
                escape(&band.name),
                escape(&band.detail),
                from + 3.0,
                y + 13.0,
                escape(&fitting(&band.name, to - from))
            );
        }
    }
    let answered = |e: &Entry| {
        let asked = meta(e).is_some() && !matches!(e.op, Op::StateHash(_));
        e.kind == Kind::Ok && (asked || matches!(e.op, Op::Transfer(_)))
    };
    let unknown = |e: &Entry| e.kind == Kind::Info && e.process != NEMESIS;
    let events = |e: &Entry| matches!(e.op, Op::Watch(_) | Op::Feed(_));
    let y = name(out, "answered");
    density(out, history, end, y, "#2b6cb0", answered);
    let y = name(out, "unknown");
    density(out, history, end, y, "#c62a2f", unknown);
    let y = name(out, "events seen");
    density(out, history, end, y, "#519e3e", events);
    axis(out, lane * LANE + 16.0, end);
    out.push_str("</svg>");
}

/// As much of a name as fits into that many pixels.
fn fitting(name: &str, pixels: f64) -> String {
    name.chars().take((pixels / 5.5) as usize).collect()
}

/// A lane that is darker where more entries fit.
fn density(
    out: &mut String,
    history: &[Entry],
    end: f64,
    y: f64,
    color: &str,
    fits: impl Fn(&Entry) -> bool,
) {
    let cells = 300;
    let mut counts = vec![0_u32; cells];
    for entry in history.iter().filter(|e| fits(e)) {
        let cell = (at(entry) / end * cells as f64) as usize;
        counts[cell.min(cells - 1)] += 1;
    }
    let most = f64::from(counts.iter().copied().max().unwrap_or(0).max(1));
    let width = (WIDTH - LEFT) / cells as f64;
    for (cell, count) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
        let _ = write!(
            out,
            "<rect x={:.1} y={:.1} width={:.2} height=15 fill={color} opacity={:.2} />",
            LEFT + cell as f64 * width,
            y + 2.0,
            width + 0.2,
            0.15 + 0.85 * (f64::from(*count) / most).sqrt()
        );
    }
}

/// The calls of a finding as bars, one lane a process, with the faults of that time.
pub(super) fn of_finding(out: &mut String, history: &[Entry], entries: &[&Entry]) {
    let mut lanes: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        lanes.entry(entry.process).or_default().push(entry);
    }
    let first = entries.first().map_or(0.0, |e| at(e));
    let last = entries.last().map_or(0.0, |e| at(e));
    let margin = ((last - first) * 0.06).max(0.005);
    let (from, to) = (first - margin, last + margin);
    let px =
        |seconds: f64| LEFT + ((seconds - from) / (to - from)).clamp(0.0, 1.0) * (WIDTH - LEFT);
    let height = lanes.len() as f64 * LANE + 36.0;
    let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} {height}\">");
    for band in bands(history).iter().filter(|b| b.from < to && b.to > from) {
        let _ = write!(
            out,
            "<rect x={:.1} y=0 width={:.1} height={:.1} fill=#f6d9d9 opacity=.65 /><text x={:.1} y=10 font-size=9 fill=#a33>{}</text>",
            px(band.from),
            (px(band.to) - px(band.from)).max(1.0),
            height - 18.0,
            px(band.from) + 2.0,
            escape(&band.name)
        );
    }
    for (n, (process, entries)) in lanes.iter().enumerate() {
        let y = n as f64 * LANE + 16.0;
        let name = if *process == NEMESIS {
            "after the end".to_owned()
        } else {
            format!("process {process}")
        };
        let _ = write!(
            out,
            "<text x=0 y={:.1} font-size=11 fill=#3a3f45>{name}</text>",
            y + 12.0
        );
        let mut began = None;
        for entry in entries {
            if entry.kind == Kind::Invoke {
                began = Some(at(entry));
                continue;
            }
            let (a, b) = (px(began.take().unwrap_or(at(entry))), px(at(entry)));
            let color = if entry.kind == Kind::Ok {
                "#2b6cb0"
            } else {
                "#c62a2f"
            };
            let _ = write!(
                out,
                "<rect x={a:.1} y={y:.1} width={:.1} height=14 rx=2 fill={color}><title>{}</title></rect>\
                 <text x={:.1} y={:.1} font-size=9 fill=#3a3f45>{}</text>",
                (b - a).max(3.0),
                escape(&crate::edn::entry(entry)),
                (b + 4.0).min(WIDTH - 150.0),
                y + 11.0,
                entry.index
            );
        }
    }
    let _ = write!(
        out,
        "<text x={LEFT} y={0:.1} font-size=10 fill=#60646c>{first:.3} s</text>\
         <text x={WIDTH} y={0:.1} font-size=10 fill=#60646c text-anchor=end>{last:.3} s</text></svg>",
        height - 4.0
    );
}
