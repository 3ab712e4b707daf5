//! A walk over JSON text that allocates nothing.
//!
//! Every frame of a relayed stream is looked at: does it hold content, usage, an error? serde_json allocates for nested
//! values even where they are ignored (a stack of its own), which would be an allocation a frame; this walk uses the
//! call stack, bounded in depth. It checks structure, not the spelling of numbers and escapes: nothing is changed here, so
//! what the caller's parser would refuse there is not made worse. Requests are walked [strictly](Cursor::strict).

use memchr::memchr2;

/// Deeper than any provider's frames; also the bound of serde_json.
const DEPTH: u32 = 128;

/// The end of a string is looked for eight bytes at a time up to here: most are keys and single words, and the search that is fast on
/// long ones takes longer to begin.
const SHORT: usize = 32;

/// The text is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A bit in each byte of a word.
const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// Marks the first byte that ends a string, or may not stand in one as it is: its high bit is set, none of an earlier byte is. Bytes
/// behind it may be marked wrongly (what is borrowed goes upwards).
fn specials(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let escape = word ^ (ONES * b'\\' as u64);
    let is_quote = quote.wrapping_sub(ONES) & !quote;
    let is_escape = escape.wrapping_sub(ONES) & !escape;
    let is_control = word.wrapping_sub(ONES * 0x20) & !word;
    (is_quote | is_escape | is_control) & HIGHS
}

/// Where the first byte stands that [ends a string or may not stand in one](specials), in the first [`SHORT`] bytes.
fn first_special(text: &[u8]) -> Option<usize> {
    let near = &text[..text.len().min(SHORT)];
    let (words, rest) = near.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let found = specials(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(8 * n + found.trailing_zeros() as usize / 8);
        }
    }
    let special = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\');
    let at = rest.iter().position(special)?;
    Some(near.len() - rest.len() + at)
}

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
    strict: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            strict: false,
        }
    }

    /// Takes only what serde_json takes as well (but for the depth, where serde_json takes more), if the text is UTF-8.
    pub(crate) fn strict(text: &'a str) -> Self {
        Self {
            strict: true,
            ..Self::new(text.as_bytes())
        }
    }

    fn peek(&mut self) -> Result<u8, Malformed> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(Malformed)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek()? != byte {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// Nothing but white space follows.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            Ok(_) => Err(Malformed),
            Err(Malformed) => Ok(()),
        }
    }

    /// Whether an object comes.
    pub(crate) fn is_object(&mut self) -> bool {
        self.peek() == Ok(b'{')
    }

    /// Whether an array comes.
    pub(crate) fn is_array(&mut self) -> bool {
        self.peek() == Ok(b'[')
    }

    /// Visits the members of an object; the visitor must take each value. Anything but an object is taken and not visited.
    pub(crate) fn object(
        &mut self,
        mut visit: impl FnMut(&'a [u8], &mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if !self.is_object() {
            return self.skip();
        }
        self.enter(b'}', |cursor| {
            let key = cursor.string()?;
            cursor.expect(b':')?;
            visit(key, cursor)
        })
    }

    /// From behind a key on: its value, then all other members up to the object's end, behind which nothing may follow. The
    /// visitor must take the value.
    pub(crate) fn rest_of_object(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(b':')?;
        value(self)?;
        while self.peek()? == b',' {
            self.at += 1;
            self.string()?;
            self.expect(b':')?;
            self.skip()?;
        }
        self.expect(b'}')?;
        self.end()
    }

    /// Visits the items of an array; the visitor must take each. Anything but an array is taken and not visited.
    pub(crate) fn array(
        &mut self,
        visit: impl FnMut(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if !self.is_array() {
            return self.skip();
        }
        self.enter(b']', visit)
    }

    fn enter(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Malformed);
        }
        if self.peek()? == close {
            self.at += 1;
        } else {
            loop {
                item(self)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    byte if byte == close => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(Malformed),
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// A string's text between its quotes, escapes as they are.
    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        self.expect(b'"')?;
        let rest = &self.text[self.at..];
        let mut end = first_special(rest).unwrap_or(SHORT.min(rest.len()));
        if rest.get(end) == Some(&b'"') {
            self.at += end + 1;
            return Ok(&rest[..end]);
        }
        let mut escaped = false;
        while rest.get(end) != Some(&b'"') {
            if rest.get(end) == Some(&b'\\') {
                escaped = true;
                end += 2;
            }
            let further = rest.get(end..).ok_or(Malformed)?;
            end += memchr2(b'"', b'\\', further).ok_or(Malformed)?;
        }
        self.at += end + 1;
        let text = &rest[..end];
        let is_good = || match escaped {
            true => is_well_escaped(text),
            // Without branches, so that it is done many bytes at a time.
            false => text.iter().fold(u8::MAX, |least, byte| least.min(*byte)) >= 0x20,
        };
        if self.strict && !is_good() {
            return Err(Malformed);
        }
        Ok(text)
    }

    /// Takes a value of any kind and gives its text.
    pub(crate) fn value(&mut self) -> Result<&'a [u8], Malformed> {
        self.peek()?;
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Takes a value and gives its text if it is a string (escapes as they are).
    pub(crate) fn text(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        if self.peek()? == b'"' {
            return self.string().map(Some);
        }
        self.skip()?;
        Ok(None)
    }

    /// Takes a value and gives it if it is a whole number.
    pub(crate) fn int(&mut self) -> Result<Option<u64>, Malformed> {
        let text = self.value()?;
        let mut number = (!text.is_empty()).then_some(0_u64);
        for byte in text {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
            number = number
                .and_then(|n| n.checked_mul(10))
                .zip(digit)
                .and_then(|(n, digit)| n.checked_add(digit));
        }
        Ok(number)
    }

    /// Takes a value; whether it says anything: null, `""`, `[]`, `{}` and false don't.
    pub(crate) fn says(&mut self) -> Result<bool, Malformed> {
        let text = self.value()?;
        Ok(match text {
            b"null" | b"\"\"" | b"false" => false,
            [b'[' | b'{', inner @ .., _] => !inner.trim_ascii().is_empty(),
            _ => true,
        })
    }

    fn skip(&mut self) -> Result<(), Malformed> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' => self.enter(b'}', |cursor| {
                cursor.string()?;
                cursor.expect(b':')?;
                cursor.skip()
            }),
            b'[' => self.enter(b']', Self::skip),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'-' | b'0'..=b'9' => {
                let rest = &self.text[self.at..];
                let length = rest
                    .iter()
                    .position(|byte| {
                        !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
                    })
                    .unwrap_or(rest.len());
                if self.strict && !is_number(&rest[..length]) {
                    return Err(Malformed);
                }
                self.at += length;
                Ok(())
            }
            _ => Err(Malformed),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }
}

/// Whether the escapes of a string are JSON's, and there are no control characters.
fn is_well_escaped(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            0..0x20 => false,
            b'\\' => match bytes.next() {
                Some(b'u') => (0..4).all(|_| bytes.next().is_some_and(u8::is_ascii_hexdigit)),
                escaped => matches!(
                    escaped,
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
                ),
            },
            _ => true,
        };
        if !good {
            return false;
        }
    }
    true
}

/// Whether it is spelled as JSON's numbers are.
fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> (usize, &[u8]) {
        let end = text.iter().position(|byte| !byte.is_ascii_digit());
        let end = end.unwrap_or(text.len());
        (end, &text[end..])
    }
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, mut rest) = digits(text);
    if whole == 0 || whole > 1 && text[0] == b'0' {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let (some, after) = digits(fraction);
        if some == 0 {
            return false;
        }
        rest = after;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', exponent @ ..] => exponent,
            _ => exponent,
        };
        let (some, after) = digits(exponent);
        if some == 0 {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &[u8]) -> Result<(), Malformed> {
        walk(Cursor::new(text))
    }

    fn walk(mut cursor: Cursor<'_>) -> Result<(), Malformed> {
        cursor.value()?;
        cursor.end()
    }

    proptest! {
        #[test]
        fn the_strict_walk_takes_what_serde_json_takes_and_nothing_else(
            text in r#"[ \[\]{}:,"\\a/u01.eE+\-tfn\x01\x1fé]{0,24}"#,
        ) {
            let good = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(walk(Cursor::strict(&text)).is_ok(), good, "{}", text);
        }

        #[test]
        fn the_strict_walk_reads_strings_as_serde_json_does(
            text in r#""([a-z"\\/ué\x01]|\\[nu"\\]|\\u[0-9a-f]{3,4}|abcdefghijklmnopqrstuvwxyz){0,6}""#,
        ) {
            let good = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(walk(Cursor::strict(&text)).is_ok(), good, "{}", text);
        }

        #[test]
        fn the_strict_walk_reads_numbers_as_serde_json_does(text in r#"-?[0-9]{0,3}\.?[0-9]{0,2}[eE]?[+-]?[0-9]{0,2}"#) {
            let good = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(walk(Cursor::strict(&text)).is_ok(), good, "{}", text);
        }

        #[test]
        fn the_first_special_byte_is_found(text in proptest::collection::vec(any::<u8>(), 0..48)) {
            let near = &text[..text.len().min(SHORT)];
            let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
            prop_assert_eq!(first_special(&text), near.iter().position(special));
        }

        #[test]
        fn whole_numbers_are_read(number: u64) {
            let text = number.to_string();
            prop_assert_eq!(Cursor::new(text.as_bytes()).int(), Ok(Some(number)));
            prop_assert_eq!(Cursor::new(format!("{text}0000").as_bytes()).int(), Ok(format!("{text}0000").parse().ok()));
        }

        #[test]
        fn whatever_serde_json_takes_is_taken(text in r#"[ \[\]{}:,"\\a1tfn]{0,24}"#) {
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                prop_assert_eq!(whole(text.as_bytes()), Ok(()));
            }
        }

        #[test]
        fn any_bytes_do_not_panic(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = whole(&text);
        }
    }

    #[test]
    fn what_is_no_whole_number_is_none() {
        for text in ["-1", "1.0", "1e3", "\"1\"", "null", "[]", "true"] {
            assert_eq!(Cursor::new(text.as_bytes()).int(), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_is_cut_is_malformed() {
        let text = br#"{"a":[1,-2.5e3,{"b":"x\"y\\"}],"c":null,"d":true}"#;
        assert_eq!(whole(text), Ok(()));
        for end in 0..text.len() {
            assert_eq!(whole(&text[..end]), Err(Malformed), "{end}");
        }
        for bad in ["{a:1}", "[1 2]", "{\"a\" 1}", "nul", "[1,]x", "\"a"] {
            assert_eq!(whole(bad.as_bytes()), Err(Malformed), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(whole(deep.as_bytes()), Err(Malformed));
    }

    #[test]
    fn empty_values_say_nothing() {
        for (text, says) in [
            ("null", false),
            ("\"\"", false),
            ("[]", false),
            ("{ }", false),
            ("false", false),
            ("\" \"", true),
            ("0", true),
            ("[0]", true),
            ("true", true),
        ] {
            assert_eq!(Cursor::new(text.as_bytes()).says(), Ok(says), "{text}");
        }
    }
}
