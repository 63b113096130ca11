//! What a development run shows: text or JSON lines, and a progress bar where somebody looks.

use super::cluster::Cluster;
use super::genesis::CHAIN_ID;
use super::report::{BlockReport, HEADLINE, Summary};
use crate::cli::DevArgs;
use crate::load::accounts::dev_accounts;
use crate::load::contracts::{PAIR, TOKEN_0, TOKEN_1};
use crate::load::drive::Tally;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Lines after which the column titles are repeated.
const LINES_A_PAGE: u64 = 40;

/// Where a run is shown.
pub struct Screen {
    json: bool,
    bar: Option<ProgressBar>,
    printed: u64,
}

impl Screen {
    /// For a run of `blocks` blocks, if that is known.
    pub fn new(json: bool, blocks: Option<u64>) -> Self {
        let bar = blocks.filter(|_| !json && std::io::stdout().is_terminal());
        Self {
            json,
            bar: bar.map(progress_bar),
            printed: 0,
        }
    }

    /// A remark. Never on standard output where that is JSON.
    pub fn say(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            self.print(text);
        }
    }

    /// One block.
    pub fn block(&mut self, block: &BlockReport) {
        if self.json {
            let line = serde_json::to_string(block).expect("a report is JSON");
            self.print(&line);
        } else {
            if self.printed.is_multiple_of(LINES_A_PAGE) {
                self.print(HEADLINE);
            }
            self.print(&block.line());
        }
        self.printed += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// The whole run.
    pub fn summary(&mut self, summary: &Summary, elapsed: Duration, load: Option<&Tally>) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.json {
            self.print(&summary.json(elapsed, load).to_string());
            return;
        }
        self.print("");
        for line in summary.lines(elapsed, load) {
            self.print(&line);
        }
    }

    fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            // A closed standard output (`| head`) is no reason to stop the chain.
            None => drop(writeln!(std::io::stdout().lock(), "{line}")),
        }
    }
}

fn progress_bar(blocks: u64) -> ProgressBar {
    let style = "{bar:40} {pos}/{len} blocks, {elapsed} passed, {eta} to go";
    let bar = ProgressBar::with_draw_target(Some(blocks), ProgressDrawTarget::stdout());
    bar.with_style(ProgressStyle::with_template(style).expect("the template is valid"))
}

/// What a good development node prints at its start.
pub fn banner(args: &DevArgs, cluster: &Cluster) -> String {
    let mut text = format!(
        "Troika {}: {} shards, {} executors of each, {} store members; chain id {CHAIN_ID}\n\n",
        env!("CARGO_PKG_VERSION"),
        args.shards,
        args.executors,
        args.members,
    );
    text +=
        "Accounts, 10,000 ETH each. Their keys are public: never use them for anything of value.\n";
    for (index, account) in dev_accounts().iter().enumerate() {
        text += &format!("  ({index}) {}  {}\n", account.address, account.secret);
    }
    text += &format!("\nJSON-RPC    http://{0}  ws://{0}\n", cluster.rpc());
    text += &format!("store       {}\n", cluster.store().endpoints().join("  "));
    text += &format!("executors   {}\n", cluster.feeds().join("  "));
    text += &format!("contracts   tokens {TOKEN_0} {TOKEN_1}  market {PAIR}\n");
    let load = match args.load.rate() {
        Some(0) => "none".to_owned(),
        Some(rate) => format!("{}, {rate} transactions a second", args.load),
        None => "as fast as the cluster takes it".to_owned(),
    };
    text += &format!("load        {load}\n");
    match &args.data {
        Some(data) => text += &format!("data        {}\n", data.display()),
        None => text += "data        kept until this process ends (`--data DIR` keeps it longer)\n",
    }
    text
}
