//! What the side-by-side benchmark found, as a table and as a chart.

use std::fmt::Write as _;

use kafkalog_tests::digits::grouped;

use crate::chart::{Bar, Panel};
use crate::statistics::{median, range};

/// The figures of one program.
#[derive(Debug, Default)]
pub struct Figures {
    /// CPU seconds a line, of each round.
    pub seconds: Vec<f64>,
    /// Instructions a line, where valgrind is installed.
    pub instructions: Option<f64>,
}

/// The figures of both for one task.
#[derive(Debug, Default)]
pub struct Results {
    /// The task's name.
    pub task: &'static str,
    /// varnishncsa's.
    pub theirs: Figures,
    /// kafkalog's.
    pub ours: Figures,
}

/// One line of the table.
struct Row {
    name: &'static str,
    theirs: f64,
    ours: f64,
    ratio: f64,
    decimals: bool,
}

impl Row {
    fn number(&self, number: f64) -> String {
        if self.decimals { format!("{number:.2}") } else { grouped(number.round() as u64) }
    }
}

impl Results {
    fn rows(&self) -> Vec<Row> {
        let ratio = median(&self.ratios());
        let (theirs, ours) = (median(&self.theirs.seconds), median(&self.ours.seconds));
        let mut rows = vec![
            Row { name: "requests a CPU second", theirs: 1.0 / theirs, ours: 1.0 / ours, ratio, decimals: false },
            Row { name: "CPU µs a request", theirs: theirs * 1e6, ours: ours * 1e6, ratio, decimals: true },
        ];
        if let (Some(theirs), Some(ours)) = (self.theirs.instructions, self.ours.instructions) {
            rows.push(Row { name: "instructions a request", theirs, ours, ratio: theirs / ours, decimals: false });
        }
        rows
    }

    /// How many times as much CPU time varnishncsa needs, in each round.
    fn ratios(&self) -> Vec<f64> {
        self.theirs.seconds.iter().zip(&self.ours.seconds).map(|(theirs, ours)| theirs / ours).collect()
    }
}

/// All tasks, in Markdown.
#[must_use]
pub fn table(tasks: &[Results]) -> String {
    let mut table = String::from("| | | varnishncsa | kafkalog | ratio |\n|---|---|--:|--:|--:|\n");
    for results in tasks {
        let (low, high) = range(&results.ratios());
        for (index, row) in results.rows().iter().enumerate() {
            let (theirs, ours) = (row.number(row.theirs), row.number(row.ours));
            let task = if index == 0 { results.task } else { "" };
            let rounds = if index == 0 { format!(" ({low:.2} to {high:.2})") } else { String::new() };
            // Nothing fails that writes to memory.
            let _ = writeln!(table, "| {task} | {} | {theirs} | {ours} | {:.2}{rounds} |", row.name, row.ratio);
        }
    }
    let rounds = tasks.first().map_or(0, |results| results.ours.seconds.len());
    let _ = writeln!(
        table,
        "\nMedians of {rounds} rounds in turn; the ratio of CPU time is the median of the rounds' own, with their range."
    );
    table
}

/// All tasks, for the chart.
#[must_use]
pub fn panels(tasks: &[Results]) -> Vec<Panel> {
    let panel = |results: &Results| {
        let row = results.rows().swap_remove(0);
        Panel {
            title: format!("{} — {}: {:.1} times as many", results.task, row.name, row.ratio),
            bars: vec![
                Bar { name: "varnishncsa", ours: false, value: row.theirs, text: row.number(row.theirs) },
                Bar { name: "kafkalog", ours: true, value: row.ours, text: row.number(row.ours) },
            ],
        }
    };
    tasks.iter().map(panel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_rounds() {
        let results = Results {
            task: "lines",
            theirs: Figures { seconds: vec![8e-6, 20e-6, 9e-6], instructions: Some(90_000.0) },
            ours: Figures { seconds: vec![2e-6, 4e-6, 3e-6], instructions: Some(30_000.0) },
        };
        let table = table(std::slice::from_ref(&results));
        assert!(
            table.contains("| lines | requests a CPU second | 111,111 | 333,333 | 4.00 (3.00 to 5.00) |"),
            "{table}"
        );
        assert!(table.contains("|  | CPU µs a request | 9.00 | 3.00 | 4.00 |"), "{table}");
        assert!(table.contains("|  | instructions a request | 90,000 | 30,000 | 3.00 |"), "{table}");
        assert_eq!(panels(&[results]).len(), 1);
    }
}
