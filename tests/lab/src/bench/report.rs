//! Figures with their units, and the bars they are held to.

use std::fmt;

use serde_json::{Map, Value, json};

/// A number whose name ends in its unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub bar: Option<Bar>,
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

impl Bar {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}

/// What a benchmark found.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    figures: Vec<Figure>,
    /// What it was measured with.
    pub(super) environment: Value,
}

impl Report {
    pub(super) fn new(bench: &'static str) -> Self {
        Self { bench, figures: Vec::new(), environment: Value::Null }
    }

    pub(super) fn add(&mut self, name: impl Into<String>, value: f64, bar: Option<Bar>) {
        self.figures.push(Figure { name: name.into(), value, bar });
    }

    /// The same, of a figure that there may be none of.
    pub(super) fn add_some(&mut self, name: String, value: Option<f64>, bar: Option<Bar>) {
        if let Some(value) = value {
            self.add(name, value, bar);
        }
    }

    /// Names of the figures that do not reach their bars.
    pub fn missed(&self) -> Vec<&str> {
        let missed =
            self.figures.iter().filter(|figure| figure.bar.is_some_and(|bar| !bar.is_met(figure.value)));
        missed.map(|figure| figure.name.as_str()).collect()
    }

    /// One object, for programs.
    pub fn json(&self) -> Value {
        let figures: Map<String, Value> =
            self.figures.iter().map(|figure| (figure.name.clone(), json!(figure.value))).collect();
        json!({ "bench": self.bench, "figures": figures, "missed": self.missed(), "environment": self.environment })
    }
}

/// A table, for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
        for Figure { name, value, bar } in &self.figures {
            write!(f, "{name:width$}  {value:>12.4}")?;
            if let Some(bar) = bar {
                write!(f, "  {bar}{}", if bar.is_met(*value) { "" } else { "  MISSED" })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The middle one; of an even number the higher of the two in the middle. `None` of none.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_beyond_its_bar_is_named_as_missed() {
        let mut report = Report::new("boot");
        report.add("fast_s", 2.4, Some(Bar::AtMost(2.4)));
        report.add("slow_s", 2.5, Some(Bar::AtMost(2.4)));
        report.add("thin_ratio", 0.9, Some(Bar::AtLeast(0.97)));
        report.add("told_s", 9.0, None);
        assert_eq!(report.missed(), ["slow_s", "thin_ratio"]);
        let json = report.json();
        assert_eq!(json["figures"]["told_s"], 9.0);
        assert_eq!(json["missed"], json!(["slow_s", "thin_ratio"]));
        assert!(report.to_string().contains("slow_s            2.5000  ≤ 2.4  MISSED"), "{report}");
    }

    #[test]
    fn one_odd_run_does_not_move_the_median() {
        assert_eq!(median(vec![3.0, 1.0, 900.0, 2.0, 2.5]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
