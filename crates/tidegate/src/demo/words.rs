//! How the demo puts things into words.

/// `87 ms`, `1.4 s`.
pub(crate) fn millis(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        format!("{:.1} s", ms as f64 / 1000.0)
    }
}

/// A cause without its details: `active check: cannot connect to 127.0.0.1:80: Connection refused (os error 111)` says
/// the same in its first words.
pub(crate) fn short(cause: &str) -> String {
    let cause = cause.split(" (os error").next().unwrap_or(cause);
    let parts: Vec<&str> = cause.split(": ").collect();
    match &parts[..] {
        [first, .., last] if parts.len() > 2 => format!("{first}: {}", last.to_lowercase()),
        _ => cause.to_owned(),
    }
}

/// A result as a sentence.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_in_a_few_words() {
        for (cause, told) in [
            ("5 consecutive 5xx", "5 consecutive 5xx"),
            (
                "active check: cannot connect to 127.0.0.1:27361: Connection refused (os error 111)",
                "active check: connection refused",
            ),
            (
                "active check: no answer within 300ms",
                "active check: no answer within 300ms",
            ),
        ] {
            assert_eq!(short(cause), told);
        }
    }

    #[test]
    fn results_are_sentences_and_times_are_short() {
        assert_eq!(sentence("ejected after 5 ms"), "Ejected after 5 ms.");
        assert_eq!(sentence(""), "");
        assert_eq!([millis(999), millis(1449)], ["999 ms", "1.4 s"]);
    }
}
