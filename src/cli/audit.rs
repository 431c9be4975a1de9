//! A ledger's export, recomputed here.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::ExitCode,
};

use serde::Serialize;

use super::{CliError, context::Context, report::Report};
use crate::domain::ledger::audit::{Audited, Auditor};

/// Exit code 1: something disagrees.
pub(super) fn audit(context: &Context, path: &Path) -> Result<ExitCode, CliError> {
    let failed = |source| CliError::File { path: path.to_owned(), source };
    let mut auditor = Auditor::default();
    for (number, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let broken = |source| CliError::BrokenExport { path: path.to_owned(), line: number + 1, source };
        auditor.read(serde_json::from_str(&line.map_err(failed)?).map_err(broken)?);
    }
    let (audited, findings) = auditor.finish();
    let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
    let agrees = findings.is_empty();
    context.print(&Audit { audited, findings })?;
    Ok(if agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Serialize)]
struct Audit {
    #[serde(flatten)]
    audited: Audited,
    /// What disagrees.
    findings: Vec<String>,
}

impl Report for Audit {
    fn text(&self) -> String {
        let Audited { leases, entries, balances, receipts, charged } = &self.audited;
        let mut lines = vec![format!(
            "{leases} leases, {entries} entries, {receipts} receipts and {balances} balances recomputed"
        )];
        lines.extend(charged.iter().map(|(currency, sum)| format!("charged    {sum} {currency}")));
        match self.findings.len() {
            0 => lines.push("everything agrees".to_owned()),
            count => {
                lines.push(format!("{count} disagree:"));
                lines.extend(self.findings.iter().cloned());
            }
        }
        lines.join("\n")
    }
}
