//! What workers write to their standard output and standard error, line by line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest line; what is longer becomes several.
const LINE: usize = 8 << 10;

/// How long before its end a process may have told the cause of it. What it wrote earlier it has survived.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a worker wrote last.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastLine(Arc<Mutex<Option<(Instant, String)>>>);

impl LastLine {
    pub(crate) fn keep(&self, line: &str, now: Instant) {
        if line.trim().is_empty() {
            return;
        }
        let line = line.chars().take(500).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, line));
    }

    /// The very last one, if it was written when the process ended: of a traceback, the line that tells the error.
    pub(crate) fn at_the_end(&self, end: Instant) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, line) = last.as_ref()?;
        (end.saturating_duration_since(*at) <= LAST_WORDS).then(|| line.clone())
    }
}

/// Calls `line` for each line until the pipe closes.
pub(crate) async fn lines(mut pipe: impl AsyncRead + Unpin, mut line: impl FnMut(String)) {
    let mut read = BytesMut::with_capacity(LINE);
    loop {
        let window = &read[..read.len().min(LINE + 1)];
        if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
            let text = read.split_to(end);
            read.advance(1);
            line(String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(&text)).into_owned());
            continue;
        }
        if read.len() > LINE {
            let text = read.split_to(whole_chars(&read[..LINE]));
            line(String::from_utf8_lossy(&text).into_owned());
            continue;
        }
        read.reserve(LINE);
        match pipe.read_buf(&mut read).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    if !read.is_empty() {
        line(String::from_utf8_lossy(&read).into_owned());
    }
}

/// Where a cut divides no character.
fn whole_chars(bytes: &[u8]) -> usize {
    let mut cut = bytes.len();
    while cut > bytes.len() - 4 && bytes[cut - 1] & 0xc0 == 0x80 {
        cut -= 1;
    }
    if bytes[cut - 1] >= 0xc0 {
        cut - 1
    } else {
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(lines(bytes, |line| seen.push(line)));
        seen
    }

    #[test]
    fn only_what_a_process_wrote_at_its_end_explains_it() {
        let last = LastLine::default();
        let begin = Instant::now();
        assert_eq!(last.at_the_end(begin), None);
        last.keep("UserWarning: the weights are old", begin);
        last.keep("  ", begin + LAST_WORDS);
        let told = |end| last.at_the_end(end);
        assert!(told(begin + LAST_WORDS).is_some());
        assert_eq!(told(begin + 2 * LAST_WORDS), None);
        last.keep("ValueError: no weights", begin + 2 * LAST_WORDS);
        // What was in the pipe is read after the end.
        for end in [begin, begin + 2 * LAST_WORDS] {
            assert_eq!(told(end).as_deref(), Some("ValueError: no weights"));
        }
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_the_last_one_needs_none() {
        assert_eq!(read(b"one\r\n\ntwo\nthree"), ["one", "", "two", "three"]);
    }

    proptest! {
        #[test]
        fn nothing_of_a_text_is_lost_and_no_line_is_too_long(text in "[a-zäé€\\n]{0,200}", times in 1_usize..200) {
            let text = text.repeat(times);
            let seen = read(text.as_bytes());
            prop_assert_eq!(seen.concat(), text.replace('\n', ""));
            prop_assert!(seen.iter().all(|line| line.len() <= LINE));
        }

        #[test]
        fn any_bytes_are_lines(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            prop_assert!(read(&bytes).iter().all(|line| line.len() <= 3 * LINE));
        }
    }
}
