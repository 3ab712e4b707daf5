//! As much of protobuf's wire format as the built-in services need: a dozen small messages, written and read by hand, so that the
//! request path carries neither a code generator nor its output.

/// The bytes are not a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed width: no message here has one, but unknown fields are passed over.
    Fixed,
}

impl<'a> Value<'a> {
    /// The value as text.
    pub(super) fn text(self) -> Result<&'a str, Malformed> {
        match self {
            Value::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| Malformed),
            Value::Number(_) | Value::Fixed => Err(Malformed),
        }
    }

    /// The value as bytes or a message.
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) | Value::Fixed => Err(Malformed),
        }
    }
}

/// The fields of a message in their order, by number. Ends after the first mistake.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            let part = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && part > 1 {
                return Err(Malformed);
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed)?;
        if number == 0 {
            return Err(Malformed);
        }
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups went out with proto2.
            _ => return Err(Malformed),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number; 0 is what a missing field means and is left out.
pub(super) fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(field) << 3);
        put_varint(out, value);
    }
}

/// Appends text, bytes or a message, an empty one too: of a choice or a list it says that it is there.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
        Fields::new(message).collect()
    }

    #[test]
    fn unknown_fields_of_every_kind_are_passed_over() {
        let message = [
            0x09, 1, 2, 3, 4, 5, 6, 7, 8, // 1: 64 bit
            0x15, 1, 2, 3, 4, // 2: 32 bit
            0x18, 0x96, 0x01, // 3: 150
            0x22, 0x02, b'h', b'i', // 4: "hi"
        ];
        assert_eq!(
            read(&message),
            Ok(vec![
                (1, Value::Fixed),
                (2, Value::Fixed),
                (3, Value::Number(150)),
                (4, Value::Bytes(b"hi")),
            ])
        );
    }

    #[test]
    fn cut_and_overlong_messages_are_malformed() {
        for message in [
            &[0x0a][..],
            &[0x0a, 5, b'x'],
            &[0x08],
            &[0x08, 0xff],
            &[0x00, 0x00],
            &[0x0b],
            &[
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
            ],
            &[
                0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
        ] {
            assert_eq!(read(message), Err(Malformed), "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(fields in prop::collection::vec((1u32..20_000, any::<Option<u64>>(), any::<Vec<u8>>()), 0..8)) {
            let mut out = Vec::new();
            let mut want = Vec::new();
            for (field, number, bytes) in &fields {
                match number {
                    Some(n) => {
                        put_number(&mut out, *field, *n);
                        if *n != 0 {
                            want.push((*field, Value::Number(*n)));
                        }
                    }
                    None => {
                        put_bytes(&mut out, *field, bytes);
                        want.push((*field, Value::Bytes(bytes)));
                    }
                }
            }
            prop_assert_eq!(read(&out), Ok(want));
        }

        #[test]
        fn no_bytes_are_read_without_end_or_panic(message in any::<Vec<u8>>()) {
            prop_assert!(Fields::new(&message).count() <= message.len());
        }
    }
}
