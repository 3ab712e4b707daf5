//! A walk over JSON text that allocates nothing.
//!
//! Every frame of a relayed stream is looked at: does it hold content, usage, an error? serde_json allocates for nested
//! values even where they are ignored (a stack of its own), which would be an allocation a frame; this walk uses the
//! call stack, bounded in depth. It checks structure, not the spelling of numbers and escapes: nothing is changed here, so
//! what the caller's parser would refuse there is not made worse.

use memchr::memchr2;

/// Deeper than any provider's frames; also the bound of serde_json.
const DEPTH: u32 = 128;

/// The text is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
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
        let start = self.at;
        loop {
            let rest = self.text.get(self.at..).ok_or(Malformed)?;
            let found = memchr2(b'"', b'\\', rest).ok_or(Malformed)?;
            self.at += found + 1;
            if rest[found] == b'"' {
                return Ok(&self.text[start..self.at - 1]);
            }
            self.at += 1;
        }
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
        Ok(std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &[u8]) -> Result<(), Malformed> {
        let mut cursor = Cursor::new(text);
        cursor.value()?;
        cursor.end()
    }

    proptest! {
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
