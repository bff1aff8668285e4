//! Answers on stdout: a table for people, JSON or CSV for programs.

use super::failure::{Failure, Outcome};
use comfy_table::{CellAlignment, presets};
use std::io::{ErrorKind, IsTerminal, Write};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
    /// Comma-separated values with a header line.
    Csv,
}

/// The `-o` flag of every command with an answer.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// Form of the answer on stdout [default: table on a terminal, json otherwise]
    #[arg(short = 'o', long = "output", value_name = "FORM", value_enum, hide_possible_values = false)]
    format: Option<Format>,
}

impl Output {
    /// The form asked for, or the one that suits where stdout goes.
    pub fn format(&self) -> Format {
        self.format.unwrap_or(if std::io::stdout().is_terminal() { Format::Table } else { Format::Json })
    }
}

/// Rows of texts under a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// One text per column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows yet.
    pub fn new<const N: usize>(header: [&str; N]) -> Table {
        Table { header: header.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    /// For people: aligned columns, numbers to the right.
    pub fn to_text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_header(&self.header);
        table.add_rows(&self.rows);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            let is_numeric = self.rows.iter().all(|row| row[index].parse::<f64>().is_ok() || row[index].is_empty());
            if is_numeric && !self.rows.is_empty() {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n") + "\n"
    }

    /// For programs: RFC 4180 with line feeds.
    pub fn to_csv(&self) -> String {
        let mut text = String::new();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let fields: Vec<_> = row.iter().map(|field| csv_field(field)).collect();
            text.push_str(&fields.join(","));
            text.push('\n');
        }
        text
    }
}

fn csv_field(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Any serializable answer as one indented JSON document.
pub fn json(answer: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(answer).expect("answers hold nothing that JSON cannot") + "\n"
}

/// Takes the name and the value of a measure.
pub type Row<'a> = &'a mut dyn FnMut(&str, String);

/// One run's numbers: the document for programs that want JSON, otherwise a table of what `fill` gives, a row a measure.
pub fn measures(format: Format, document: &impl serde::Serialize, fill: impl FnOnce(Row<'_>)) -> String {
    if format == Format::Json {
        return json(document);
    }
    let mut table = Table::new(["measure", "value"]);
    fill(&mut |name, value| table.rows.push(vec![name.to_owned(), value]));
    if format == Format::Csv { table.to_csv() } else { table.to_text() }
}

/// Writes to stdout. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::io("writing to stdout", &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["app", "count"]);
        table.rows.push(vec!["checkout".into(), "7".into()]);
        table.rows.push(vec!["a \"b\", c".into(), "1234".into()]);
        table
    }

    #[test]
    fn text_is_aligned_with_numbers_to_the_right() {
        assert_eq!(table().to_text(), "app       count\ncheckout      7\na \"b\", c   1234\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(table().to_csv(), "app,count\ncheckout,7\n\"a \"\"b\"\", c\",1234\n");
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(Table::new(["app", "count"]).to_text(), "app  count\n");
        assert_eq!(Table::new(["app", "count"]).to_csv(), "app,count\n");
    }
}
