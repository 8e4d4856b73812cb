//! Tables in Markdown, with columns that are aligned also as text.

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<T: ToString>(head: impl IntoIterator<Item = T>) -> Self {
        Table { rows: vec![head.into_iter().map(|cell| cell.to_string()).collect()] }
    }

    pub fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| cell.to_string()).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (at, row) in self.rows.iter().enumerate() {
            for (column, &width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                // Names to the left, numbers to the right.
                if column == 0 {
                    write!(f, "| {cell:<width$} ")?;
                } else {
                    write!(f, "| {cell:>width$} ")?;
                }
            }
            writeln!(f, "|")?;
            if at == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    let line = "-".repeat(width + 1);
                    if column == 0 { write!(f, "|{line}-")? } else { write!(f, "|{line}:")? }
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// About three digits.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 1000.0 => return grouped(value),
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |rest| ("-", rest));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_so() {
        for (value, text) in [
            (0.123, "0.12"),
            (16.55, "16.6"),
            (123.4, "123"),
            (1234.4, "1,234"),
            (1e6, "1,000,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["who", "µs"]);
        table.row(["nginx", "1.5"]);
        assert_eq!(table.to_string(), "| who   |  µs |\n|-------|----:|\n| nginx | 1.5 |\n");
    }
}
