//! What a command prints: text for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::CliError;
use crate::domain::{money::Price, resources::Allocation};

/// Something a command says.
pub(super) trait Report {
    /// For people; without a newline at the end.
    fn text(&self) -> String;
}

pub(super) fn print(report: &(impl Report + Serialize), json: bool) -> Result<(), CliError> {
    let text =
        if json { serde_json::to_string_pretty(report).map_err(CliError::Json)? } else { report.text() };
    line(&text)
}

/// Writes one line to standard output.
pub(super) fn line(line: &str) -> Result<(), CliError> {
    text(&format!("{line}\n"))
}

/// Writes to standard output; a reader that went away ends the program quietly, as for any filter.
pub(super) fn text(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Columns without lines around them.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

pub(super) fn price(price: &Price) -> String {
    format!("{} {}/h", crate::domain::money::Micros(price.per_hour_micros), price.currency)
}

pub(super) fn allocation(allocation: &Allocation) -> String {
    let disk = match allocation.disk_mib {
        0 => "no disk".to_owned(),
        mib => format!("{} of disk", size(mib)),
    };
    let cpus = if allocation.cpus == 1 { "CPU" } else { "CPUs" };
    format!("{} {cpus}, {} of memory, {disk}", allocation.cpus, size(allocation.memory_mib))
}

pub(super) fn size(mib: u64) -> String {
    match mib {
        mib if mib >= 1024 && mib.is_multiple_of(1024) => format!("{} GiB", mib / 1024),
        mib => format!("{mib} MiB"),
    }
}

/// `HostLost` as people write it: "host lost".
pub(super) fn words(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_in_the_largest_whole_unit() {
        assert_eq!([size(512), size(2048), size(1536)], ["512 MiB", "2 GiB", "1536 MiB"]);
    }

    #[test]
    fn a_table_has_its_head_and_a_line_a_row() {
        let text = table(["A", "B"], [["1".to_owned(), "two".to_owned()]]);
        assert_eq!(text, "A  B\n1  two");
    }

    #[test]
    fn reasons_read_as_words() {
        assert_eq!(words("HostLost"), "host lost");
        assert_eq!(words("Returned"), "returned");
    }
}
