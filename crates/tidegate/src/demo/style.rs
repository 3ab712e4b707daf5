//! Colours of the terminal, or none.

/// Whether colours are used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// With colours, or without.
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// Without colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self::new(false)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Headlines.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What may be overlooked.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// As it should be.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// On its way.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Not as it should be.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// What it is about.
    pub(crate) fn accent(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// The current event.
    pub(crate) fn event(self, text: &str) -> String {
        self.paint("1;35", text)
    }
}

/// Columns that a text takes, colours not counted. All that the demo writes is one column a character.
pub(crate) fn columns(text: &str) -> usize {
    let mut columns = 0;
    let mut escape = false;
    for c in text.chars() {
        match c {
            '\x1b' => escape = true,
            'm' if escape => escape = false,
            _ if escape => {}
            _ => columns += 1,
        }
    }
    columns
}

/// The text cut to at most `width` columns, with its colours ended.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let (mut left, mut escape, mut coloured) = (width.saturating_sub(1), false, false);
    for c in text.chars() {
        match c {
            '\x1b' => {
                escape = true;
                coloured = true;
            }
            'm' if escape => escape = false,
            _ if escape => {}
            _ if left == 0 => break,
            _ => left -= 1,
        }
        out.push(c);
    }
    out.push('…');
    if coloured {
        out.push_str("\x1b[0m");
    }
    out
}

/// The text in lines of at most `width` columns, broken between words.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().map_or(0, |line| columns(line));
        if line > 0 && line + 1 + columns(word) > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_take_no_columns_and_are_ended_when_cut() {
        let text = Style::new(true).bad("a long warning");
        assert_eq!(columns(&text), 14);
        let cut = fit(&text, 7);
        assert_eq!(columns(&cut), 7);
        assert!(cut.ends_with("…\x1b[0m"), "{cut:?}");
        assert_eq!(fit("short", 7), "short");
    }

    proptest! {
        #[test]
        fn what_is_fitted_fits(text in "[a-zé ]{0,40}", width in 1_usize..50) {
            prop_assert!(columns(&fit(&text, width)) <= width);
        }

        #[test]
        fn wrapping_loses_no_word(text in "[a-z]{1,8}( [a-z]{1,8}){0,20}", width in 8_usize..40) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|line| columns(line) <= width));
            prop_assert_eq!(lines.join(" "), text);
        }
    }
}
