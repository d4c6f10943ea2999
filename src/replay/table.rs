//! A recorded result as psql prints it: a table of columns, or the lines of a COPY.

#![forbid(unsafe_code)]

use super::event::Results;

/// More rows than these are left out of a recording.
const ROWS_MAX: usize = 1000;

/// A value that is ready to be printed.
pub struct Cell {
    /// How many places it takes.
    pub width: usize,
    /// The text.
    pub shown: String,
}

/// The lines; `cell` makes a value fit to be printed within one.
pub fn lines(results: &Results, cell: impl Fn(&str) -> Cell) -> Vec<String> {
    let kept = results.rows.as_ref().map_or(0, Vec::len);
    let mut lines = match (&results.columns, results.shape.as_deref()) {
        (Some(columns), Some("rows")) if !columns.is_empty() => {
            let head: Vec<Cell> = columns.iter().map(|column| cell(&column.name)).collect();
            let right: Vec<bool> = columns.iter().map(super::event::Column::is_number).collect();
            let rows = results.rows().take(ROWS_MAX);
            let rows: Vec<Vec<Cell>> = rows
                .map(|row| row.iter().map(|value| cell(value.as_deref().unwrap_or(""))).collect())
                .collect();
            table(&head, &right, &rows)
        }
        _ => {
            let rows = results.rows().take(ROWS_MAX);
            rows.map(|row| cell(row.first().and_then(Option::as_deref).unwrap_or("")).shown).collect()
        }
    };
    if kept > ROWS_MAX {
        lines.push(format!("... {} more rows", kept - ROWS_MAX));
    }
    lines
}

fn table(head: &[Cell], right: &[bool], rows: &[Vec<Cell>]) -> Vec<String> {
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let widest = rows.iter().filter_map(|row| row.get(n)).map(|value| value.width).max();
            name.width.max(widest.unwrap_or(0))
        })
        .collect();
    let mut lines = Vec::with_capacity(rows.len().saturating_add(2));
    let names = head.iter().zip(&widths).map(|(name, width)| {
        let space = width.saturating_sub(name.width);
        format!(" {}{}{} ", " ".repeat(space / 2), name.shown, " ".repeat(space - space / 2))
    });
    lines.push(names.collect::<Vec<_>>().join("|").trim_end().to_owned());
    let rules = widths.iter().map(|width| "-".repeat(width.saturating_add(2)));
    lines.push(rules.collect::<Vec<_>>().join("+"));
    for row in rows {
        let cells = row.iter().enumerate().map(|(n, value)| {
            let width = widths.get(n).copied().unwrap_or(0);
            let space = " ".repeat(width.saturating_sub(value.width));
            match right.get(n) {
                Some(true) => format!(" {space}{} ", value.shown),
                _ => format!(" {}{space} ", value.shown),
            }
        });
        lines.push(cells.collect::<Vec<_>>().join("|").trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Cell {
        Cell { width: text.chars().count(), shown: text.to_owned() }
    }

    #[test]
    fn rows_are_a_table_as_psql_draws_it() {
        let results: Results = serde_json::from_str(
            r#"{"shape": "rows", "columns": [{"name": "id", "type": "integer"}, {"name": "name", "type": "text"}],
                "rows": [["1", "one"], ["20", null], ["3", {"hex": "00ff"}]]}"#,
        )
        .unwrap();
        assert_eq!(
            lines(&results, plain),
            [" id |      name", "----+-----------------", "  1 | one", " 20 |", "  3 | (binary) \\x00ff",]
        );
    }

    #[test]
    fn copy_is_its_lines_and_many_rows_end() {
        let mut results = Results { shape: Some("copy".into()), ..Results::default() };
        results.rows = Some(vec![vec!["1\ttwo".into()]; ROWS_MAX + 5]);
        let lines = lines(&results, plain);
        assert_eq!((lines.len(), lines[0].as_str()), (ROWS_MAX + 1, "1\ttwo"));
        assert_eq!(lines[ROWS_MAX], "... 5 more rows");
    }
}
