//! Samples in, tables out: medians, spreads, and ratios paired by round.
//!
//! Every sample goes to `samples.csv` the moment it is taken, so that a run which is cut short leaves what it had. The
//! report is Markdown: a table of everything measured, and the table of promises that the README shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use crate::Outcome;
use crate::options::Options;
use crate::pooler::{Contender, Part};
use crate::rows::{Bound, Promise, Row};

/// The figures of one measurement, by name; the unit is the name's last word.
#[derive(Default)]
pub(crate) struct Sample(BTreeMap<&'static str, f64>);

impl Sample {
    pub(crate) fn put(&mut self, figure: &'static str, value: f64) {
        self.0.insert(figure, value);
    }

    pub(crate) fn get(&self, figure: &str) -> Option<f64> {
        self.0.get(figure).copied()
    }
}

/// Everything measured in a run.
pub(crate) struct Ledger {
    contenders: Vec<Column>,
    /// Samples, or why there is none, by (row, column, round).
    entries: BTreeMap<(&'static str, usize, usize), Outcome<Sample>>,
    rounds: usize,
    out: PathBuf,
    csv: File,
    readme: bool,
}

struct Column {
    name: String,
    part: Part,
}

/// pgweir's column, and that of the PgBouncer all ratios are to; see `pooler::line_up`.
const OURS: usize = 0;
const MEASURE: usize = 1;

impl Ledger {
    /// An empty ledger, with its CSV begun.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn open(options: &Options, contenders: &[Contender]) -> Outcome<Ledger> {
        let out = options.out.clone();
        let trouble = |error: std::io::Error| format!("{}: {error}", out.display());
        fs::create_dir_all(&out).map_err(trouble)?;
        let mut csv = File::create(out.join("samples.csv")).map_err(trouble)?;
        writeln!(csv, "round,row,contender,figure,value").map_err(trouble)?;
        let contenders = contenders.iter().map(|one| Column { name: one.name.clone(), part: one.part }).collect();
        Ok(Ledger { contenders, entries: BTreeMap::new(), rounds: options.rounds, out, csv, readme: options.readme })
    }

    /// Notes one measurement, in the CSV at once.
    pub(crate) fn enter(
        &mut self,
        round: usize,
        row: &Row,
        contender: &Contender,
        outcome: Outcome<Sample>,
    ) -> Outcome<()> {
        let Some(column) = self.contenders.iter().position(|column| column.name == contender.name) else {
            return Err(format!("{} is not in the line-up", contender.name));
        };
        let mut line = format!("round {} {:14} {:18}", round + 1, row.name, contender.name);
        match outcome {
            Ok(ref sample) => {
                for (figure, value) in &sample.0 {
                    writeln!(self.csv, "{},{},{},{figure},{value:.3}", round + 1, row.name, contender.name)
                        .map_err(|error| format!("samples.csv: {error}"))?;
                    let _ = write!(line, " {figure}={}", plain(*value));
                }
            }
            Err(ref trouble) => line.push_str(trouble),
        }
        eprintln!("{line}");
        self.entries.insert((row.name, column, round), outcome);
        Ok(())
    }

    /// Writes `report.md` and prints it, or the README's table alone.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn publish(&self, context: &str, rows: &[&Row], counted: &str) -> Outcome<()> {
        let promises = self.promises(rows);
        let report = format!(
            "# Load benchmark\n\n{context}\n## Promises\n\n{promises}\n## Everything\n\n{}\n{counted}",
            self.everything(rows)
        );
        let path = self.out.join("report.md");
        fs::write(&path, &report).map_err(|error| format!("{}: {error}", path.display()))?;
        if self.readme {
            println!("{promises}");
        } else {
            println!("{report}");
        }
        eprintln!("written: {} and samples.csv beside it", path.display());
        Ok(())
    }

    /// The table of bounds, pgweir's figure and PgBouncer's, and whether the bound holds.
    fn promises(&self, rows: &[&Row]) -> String {
        let measure = &self.contenders[MEASURE].name;
        let mut table = format!(
            "| workload | figure | pgweir | {measure} | ratio | target | |\n|---|---|---:|---:|---:|---:|---|\n"
        );
        for row in rows {
            for promise in row.promises {
                let _ = writeln!(table, "{}", self.promise_line(row, promise));
            }
        }
        table
    }

    fn promise_line(&self, row: &Row, promise: &Promise) -> String {
        let ours = Spread::of(&self.values(row, OURS, promise.figure));
        let theirs = Spread::of(&self.values(row, MEASURE, promise.figure));
        let ratio = Spread::of(&self.ratios(row, OURS, promise.figure));
        let (bound, kept) = match promise.bound {
            Bound::RatioAtMost(most) => (format!("≤ {most:.2}"), ratio.as_ref().map(|ratio| ratio.median <= most)),
            Bound::RatioAtLeast(least) => (format!("≥ {least:.2}"), ratio.as_ref().map(|ratio| ratio.median >= least)),
            Bound::AtMost(most) => (format!("pgweir ≤ {}", plain(most)), ours.as_ref().map(|ours| ours.median <= most)),
        };
        let mark = match kept {
            Some(true) => "✓",
            Some(false) => "**missed**",
            None if self.failed(row, OURS) => "**failed**",
            None => "not measured",
        };
        let (ours, theirs) = (shown(ours.as_ref(), promise.figure), shown(theirs.as_ref(), promise.figure));
        let ratio = ratio.map_or("–".into(), |ratio| ratio.text(|value| format!("{value:.2}")));
        format!("| {} | {} | {ours} | {theirs} | {ratio} | {bound} | {mark} |", row.title, promise.title)
    }

    /// Every figure of every row: median and spread for each column, and ratios to the measure.
    fn everything(&self, rows: &[&Row]) -> String {
        let names: Vec<&str> = self.contenders.iter().map(|column| column.name.as_str()).collect();
        let mut table = format!("| row | figure | {} | pgweir / {} |\n", names.join(" | "), names[MEASURE]);
        let _ = writeln!(table, "|---|---|{}---:|", "---:|".repeat(names.len()));
        for row in rows {
            for figure in self.figures_of(row) {
                let cells: Vec<String> = (0..names.len())
                    .map(|column| shown(Spread::of(&self.values(row, column, figure)).as_ref(), figure))
                    .collect();
                let ratio = Spread::of(&self.ratios(row, OURS, figure));
                let ratio = ratio.map_or("–".into(), |ratio| ratio.text(|value| format!("{value:.3}")));
                let _ = writeln!(table, "| {} | {figure} | {} | {ratio} |", row.name, cells.join(" | "));
            }
        }
        let failures = self.entries.iter().filter_map(|((row, column, round), outcome)| {
            let trouble = outcome.as_ref().err()?;
            Some(format!("- {row}, {}, round {}: {}\n", self.contenders[*column].name, round + 1, trouble.trim()))
        });
        let failures: String = failures.collect();
        if failures.is_empty() { table } else { format!("{table}\nWithout result:\n\n{failures}") }
    }

    fn figures_of(&self, row: &Row) -> Vec<&'static str> {
        let mut figures: Vec<&'static str> = Vec::new();
        let of_row = self.entries.iter().filter(|((name, ..), _)| *name == row.name);
        for figure in of_row.filter_map(|(_, outcome)| outcome.as_ref().ok()).flat_map(|sample| sample.0.keys()) {
            if !figures.contains(figure) {
                figures.push(figure);
            }
        }
        if row.promises.iter().any(|promise| promise.figure == ADDED) {
            figures.push(ADDED);
        }
        figures
    }

    /// The figure in one round; the added latency is made from two columns.
    fn value(&self, row: &Row, column: usize, round: usize, figure: &str) -> Option<f64> {
        let sample = |column| self.entries.get(&(row.name, column, round))?.as_ref().ok();
        if figure != ADDED {
            return sample(column)?.get(figure);
        }
        let direct = self.contenders.iter().position(|column| column.part == Part::Direct)?;
        // With one client, the mean latency is the time divided by the transactions.
        let mean_us = |column| Some(1e6 / sample(column)?.get("tps")?);
        (column != direct).then_some(())?;
        Some(mean_us(column)? - mean_us(direct)?)
    }

    fn values(&self, row: &Row, column: usize, figure: &str) -> Vec<f64> {
        (0..self.rounds).filter_map(|round| self.value(row, column, round, figure)).collect()
    }

    /// Whether a measurement of the row ended in an error.
    fn failed(&self, row: &Row, column: usize) -> bool {
        (0..self.rounds).any(|round| matches!(self.entries.get(&(row.name, column, round)), Some(Err(_))))
    }

    /// `column`'s figure over the measure's, round by round.
    fn ratios(&self, row: &Row, column: usize, figure: &str) -> Vec<f64> {
        let pair = |round| {
            let theirs = self.value(row, MEASURE, round, figure)?;
            (theirs > 0.0).then_some(self.value(row, column, round, figure)? / theirs)
        };
        (0..self.rounds).filter_map(pair).collect()
    }
}

/// Mean latency through a pooler less the mean latency without, of the same round.
const ADDED: &str = "added_us";

/// A median with the lowest and the highest.
struct Spread {
    lowest: f64,
    median: f64,
    highest: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        Some(Spread { lowest, median, highest })
    }

    fn text(&self, show: impl Fn(f64) -> String) -> String {
        let (lowest, highest) = (show(self.lowest), show(self.highest));
        let median = show(self.median);
        if lowest == highest { median } else { format!("{median} ({lowest}–{highest})") }
    }
}

fn shown(spread: Option<&Spread>, figure: &str) -> String {
    let unit = match figure.rsplit('_').next() {
        Some("us") => " µs",
        Some("ms") => " ms",
        Some("kib") => " KiB",
        _ => "",
    };
    spread.map_or("–".into(), |spread| format!("{}{unit}", spread.text(plain)))
}

/// Three digits that count, and no more than a reader needs.
fn plain(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
