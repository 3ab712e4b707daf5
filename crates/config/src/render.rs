//! Diagnostics as text, in the form that compilers have made familiar.

use crate::diagnostic::{Diagnostic, Place, Severity};

struct Style {
    colour: bool,
}

impl Style {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn of(&self, severity: Severity, text: &str) -> String {
        self.paint(
            if severity == Severity::Error {
                "1;31"
            } else {
                "1;33"
            },
            text,
        )
    }

    fn frame(&self, text: &str) -> String {
        self.paint("34", text)
    }
}

/// All of them, with a count in the end.
pub(crate) fn all(diagnostics: &[Diagnostic], colour: bool) -> String {
    let style = Style { colour };
    let mut text: String = diagnostics.iter().map(|d| one(d, &style) + "\n").collect();
    let errors = diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .count();
    let counts = [(errors, "error"), (diagnostics.len() - errors, "warning")];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}{}", if *n == 1 { "" } else { "s" }))
        .collect();
    if !counts.is_empty() {
        text.push_str(&format!("{}\n", counts.join(", ")));
    }
    text
}

fn one(diagnostic: &Diagnostic, style: &Style) -> String {
    let word = if diagnostic.severity == Severity::Error {
        "error"
    } else {
        "warning"
    };
    let mut text = format!(
        "{}: {}\n",
        style.of(diagnostic.severity, word),
        style.paint("1", &diagnostic.message)
    );
    let lines = diagnostic
        .place
        .iter()
        .chain(diagnostic.related.as_ref().map(|(_, place)| place))
        .map(|place| place.line);
    let width = lines.max().unwrap_or(0).to_string().len();
    let margin = " ".repeat(width);
    if let Some(place) = &diagnostic.place {
        let path = if diagnostic.path.is_empty() {
            String::new()
        } else {
            format!(" ({})", diagnostic.path)
        };
        text.push_str(&format!(
            "{margin}{} {}:{}:{}{path}\n",
            style.frame("-->"),
            place.file,
            place.line,
            place.column
        ));
        text.push_str(&excerpt(
            place,
            width,
            "^",
            "",
            |mark| style.of(diagnostic.severity, mark),
            style,
        ));
    }
    if let Some((role, place)) = &diagnostic.related {
        text.push_str(&format!(
            "{margin}{} {}:{}:{}\n",
            style.frame(":::"),
            place.file,
            place.line,
            place.column
        ));
        text.push_str(&excerpt(
            place,
            width,
            "-",
            role,
            |mark| style.frame(mark),
            style,
        ));
    }
    if !diagnostic.help.is_empty() {
        text.push_str(&format!(
            "{margin} {} {}\n",
            style.frame("="),
            format_args!("{} {}", style.paint("1;36", "help:"), diagnostic.help)
        ));
    }
    text
}

fn excerpt(
    place: &Place,
    width: usize,
    mark: &str,
    label: &str,
    paint: impl Fn(&str) -> String,
    style: &Style,
) -> String {
    let margin = " ".repeat(width);
    let bar = style.frame("|");
    let number = style.frame(&format!("{:>width$}", place.line));
    let label = if label.is_empty() {
        String::new()
    } else {
        format!(" {label}")
    };
    let marks = paint(&format!("{}{label}", mark.repeat(place.mark_length)));
    format!(
        "{margin} {bar}\n{number} {bar} {}\n{margin} {bar} {}{marks}\n",
        place.excerpt,
        " ".repeat(place.mark)
    )
}
