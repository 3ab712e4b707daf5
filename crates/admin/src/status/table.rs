//! A table that fits the terminal: flexible columns shrink first, then the least important columns go.

use super::render::Colour;

/// One column's manner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Numbers stand at the right.
    pub(super) right: bool,
    /// Least width that it may shrink to; `None`: it does not shrink.
    pub(super) shrink: Option<usize>,
    /// Columns with the highest number go first when there is no room; 0 stays.
    pub(super) drop: u8,
}

impl Column {
    pub(super) const fn text(title: &'static str, drop: u8) -> Self {
        Self {
            title,
            right: false,
            shrink: None,
            drop,
        }
    }
    pub(super) const fn number(title: &'static str, drop: u8) -> Self {
        Self {
            title,
            right: true,
            shrink: None,
            drop,
        }
    }
    pub(super) const fn flexible(title: &'static str, least: usize, drop: u8) -> Self {
        Self {
            title,
            right: false,
            shrink: Some(least),
            drop,
        }
    }
}

/// One cell: plain text and its colour.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    pub(super) fn new(text: &str, colour: Colour) -> Self {
        Self {
            text: printable(text),
            colour,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(&text, Colour::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Colour::Plain)
    }
}

/// Without control characters: names and causes come from elsewhere and must not command the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// At most `width` characters, the last one `…` when some are missing.
pub(super) fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut clipped: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        clipped.push('…');
    }
    clipped
}

const GAP: usize = 2;

/// Lines of the table, title first, each at most `width` characters wide, without line ends.
pub(super) fn lines(
    columns: &[Column],
    rows: &[Vec<Cell>],
    width: usize,
    colour: bool,
) -> Vec<String> {
    let natural = |i: usize| {
        let cells = rows.iter().map(|row| row[i].text.chars().count());
        cells
            .chain([columns[i].title.chars().count()])
            .max()
            .unwrap_or(0)
    };
    // A column with nothing in it says nothing, unless it must stay.
    let said = |i: usize| columns[i].drop == 0 || rows.iter().any(|row| !row[i].text.is_empty());
    let mut shown: Vec<(usize, usize)> = (0..columns.len())
        .filter(|&i| said(i))
        .map(|i| (i, natural(i)))
        .collect();
    loop {
        let total = |shown: &[(usize, usize)]| {
            shown.iter().map(|(_, w)| w).sum::<usize>() + GAP * shown.len().saturating_sub(1)
        };
        let mut over = total(&shown).saturating_sub(width);
        let room: usize = shown
            .iter()
            .filter_map(|&(i, w)| columns[i].shrink.map(|least| w.saturating_sub(least)))
            .sum();
        if over > room
            && let Some(at) = (0..shown.len()).max_by_key(|&at| columns[shown[at].0].drop)
            && columns[shown[at].0].drop > 0
        {
            shown.remove(at);
            continue;
        }
        for (i, w) in &mut shown {
            if let Some(least) = columns[*i].shrink {
                let cut = over.min(w.saturating_sub(least));
                *w -= cut;
                over -= cut;
            }
        }
        break;
    }
    let title: Vec<Cell> = columns
        .iter()
        .map(|column| Cell::new(column.title, Colour::Faint))
        .collect();
    std::iter::once(&title)
        .chain(rows)
        .map(|row| line(columns, row, &shown, width, colour))
        .collect()
}

fn line(
    columns: &[Column],
    row: &[Cell],
    shown: &[(usize, usize)],
    width: usize,
    colour: bool,
) -> String {
    let mut out = String::new();
    let mut left = width;
    let mut pending = 0;
    for (n, &(i, w)) in shown.iter().enumerate() {
        pending += if n > 0 { GAP } else { 0 };
        let w = w.min(left.saturating_sub(pending));
        let text = clip(&row[i].text, w);
        let used = text.chars().count();
        if columns[i].right {
            pending += w.saturating_sub(used);
        }
        if used > 0 {
            // Spaces only before something: no line ends in blanks.
            out.extend(std::iter::repeat_n(' ', pending));
            out.push_str(&row[i].colour.paint(&text, colour));
            left = left.saturating_sub(pending + used);
            pending = 0;
        }
        if !columns[i].right {
            pending += w.saturating_sub(used);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::flexible("MEMBER", 6, 0),
        Column::text("STATE", 0),
        Column::number("RATE", 1),
        Column::text("ZONE", 2),
    ];

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![
                "10.0.0.1:8501".into(),
                "healthy".into(),
                "12".into(),
                "a".into(),
            ],
            vec!["10.0.0.2".into(), "ejected".into(), "0".into(), "b".into()],
        ]
    }

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        assert_eq!(
            lines(&COLUMNS, &rows(), 80, false),
            [
                "MEMBER         STATE    RATE  ZONE",
                "10.0.0.1:8501  healthy    12  a",
                "10.0.0.2       ejected     0  b",
            ]
        );
    }

    #[test]
    fn too_narrow_shrinks_the_flexible_column_first_then_drops_the_least_important() {
        assert_eq!(
            lines(&COLUMNS, &rows(), 30, false)[1],
            "10.0.0.1…  healthy    12  a"
        );
        assert_eq!(
            lines(&COLUMNS, &rows(), 22, false)[1],
            "10.0.0…  healthy    12"
        );
        assert_eq!(lines(&COLUMNS, &rows(), 16, false)[1], "10.0.0…  healthy");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 0..60 {
            for line in lines(&COLUMNS, &rows(), width, false) {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn an_empty_column_is_left_out() {
        let rows = vec![vec!["m".into(), "healthy".into(), "1".into(), "".into()]];
        assert!(!lines(&COLUMNS, &rows, 80, false)[0].contains("ZONE"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(Cell::from("a\x1b[31mb\nc").text, "a [31mb c");
    }
}
