//! Tensors: raw bytes (row-major, little-endian) from JSON and back.

use std::fmt;

use half::{bf16, f16};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use crate::{Code, Fault, TensorOf};

/// What a tensor's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    pub(crate) const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self, Fault> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
            .ok_or_else(|| bad_tensor(format!("unknown datatype `{name}`")))
    }

    /// Bytes of an element; `None` where they differ.
    pub(crate) fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

/// A tensor that is not what it says.
pub(crate) fn bad_tensor(message: impl Into<String>) -> Fault {
    Fault::new(Code::InvalidArgument, "bad_tensor", message)
}

/// Most empty lists that a tensor without elements may be written as.
const EMPTY: u64 = 1 << 20;

/// Elements of a shape.
pub(crate) fn elements(shape: &[u64]) -> Result<u64, Fault> {
    let lists = shape
        .iter()
        .try_fold(1u64, |product, axis| product.checked_mul((*axis).max(1)));
    let empty = shape.contains(&0);
    match lists {
        Some(lists) if empty && lists <= EMPTY => Ok(0),
        Some(lists) if !empty => Ok(lists),
        _ => Err(bad_tensor(format!("shape {shape:?} has too many elements"))),
    }
}

/// A shape as it comes in gRPC and JSON.
pub(crate) fn shape(axes: &[i64]) -> Result<Vec<u64>, Fault> {
    axes.iter()
        .map(|axis| {
            u64::try_from(*axis)
                .map_err(|_| bad_tensor(format!("shape {axes:?} has a negative axis")))
        })
        .collect()
}

/// Checks that raw bytes are as many as type and shape ask for.
pub(crate) fn check(
    name: &str,
    datatype: Datatype,
    shape: &[u64],
    raw: &[u8],
) -> Result<(), Fault> {
    let count = elements(shape)?;
    let found = match datatype.size() {
        Some(size) if raw.len().is_multiple_of(size) => (raw.len() / size) as u64,
        Some(size) => {
            return Err(bad_tensor(format!(
                "`{name}`: {} bytes are no whole number of elements of {size} bytes",
                raw.len()
            )));
        }
        None => {
            let mut found = 0;
            for element in Elements(raw) {
                element.map_err(|()| bad_tensor(format!("`{name}`: a BYTES element is cut")))?;
                found += 1;
            }
            found
        }
    };
    if found != count {
        return Err(bad_tensor(format!(
            "`{name}`: shape {shape:?} has {count} elements, the data {found}"
        )));
    }
    Ok(())
}

/// The elements of BYTES, each behind its length.
#[derive(Debug)]
pub(crate) struct Elements<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let cut = self
            .0
            .split_first_chunk::<4>()
            .and_then(|(len, rest)| rest.split_at_checked(u32::from_le_bytes(*len) as usize));
        Some(match cut {
            Some((element, rest)) => {
                self.0 = rest;
                Ok(element)
            }
            None => {
                self.0 = &[];
                Err(())
            }
        })
    }
}

/// Writes an element of BYTES.
pub(crate) fn put_bytes(raw: &mut Vec<u8>, element: &[u8]) {
    raw.extend_from_slice(
        &u32::try_from(element.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    raw.extend_from_slice(element);
}

/// Raw bytes of a JSON array, flat or nested, whose numbers go to where they belong without a tree between.
pub(crate) fn from_json(name: &str, datatype: Datatype, json: &str) -> Result<Vec<u8>, Fault> {
    let mut raw = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(json);
    Flat {
        datatype,
        raw: &mut raw,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end())
    .map_err(|error| bad_tensor(format!("`{name}` ({}): {error}", datatype.name())))?;
    Ok(raw)
}

struct Flat<'a> {
    datatype: Datatype,
    raw: &'a mut Vec<u8>,
}

macro_rules! put_integer {
    ($self:ident, $value:ident, $($datatype:ident $kind:ty),*) => {
        match $self.datatype {
            $(Datatype::$datatype => {
                let number = <$kind>::try_from($value).map_err(|_| {
                    E::custom(format_args!("{} is out of range", $value))
                })?;
                $self.raw.extend_from_slice(&number.to_le_bytes());
            })*
            _ => return $self.float($value as f64),
        }
    };
}

impl Flat<'_> {
    fn integer<N, E>(self, value: N) -> Result<(), E>
    where
        N: Copy + fmt::Display + Into<i128>,
        E: Error,
    {
        let value: i128 = value.into();
        put_integer!(
            self, value, Uint8 u8, Uint16 u16, Uint32 u32, Uint64 u64, Int8 i8, Int16 i16, Int32 i32, Int64 i64
        );
        Ok(())
    }

    #[allow(clippy::cast_possible_truncation)]
    fn float<E: Error>(self, value: f64) -> Result<(), E> {
        match self.datatype {
            Datatype::Fp16 => self
                .raw
                .extend_from_slice(&f16::from_f64(value).to_le_bytes()),
            Datatype::Bf16 => self
                .raw
                .extend_from_slice(&bf16::from_f64(value).to_le_bytes()),
            Datatype::Fp32 => self.raw.extend_from_slice(&(value as f32).to_le_bytes()),
            Datatype::Fp64 => self.raw.extend_from_slice(&value.to_le_bytes()),
            _ => return Err(E::custom(format_args!("{value} does not fit"))),
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Flat<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flat<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("elements or lists of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq
            .next_element_seed(Flat {
                datatype: self.datatype,
                raw: self.raw,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        if self.datatype != Datatype::Bool {
            return Err(E::custom("a boolean does not fit"));
        }
        self.raw.push(u8::from(value));
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.float(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        if self.datatype != Datatype::Bytes {
            return Err(E::custom("a string does not fit"));
        }
        put_bytes(self.raw, value.as_bytes());
        Ok(())
    }
}

/// Writes a tensor as JSON: nested lists in its shape, or one flat list. What is no finite number is `null`; BYTES must be UTF-8.
pub(crate) fn put_json(
    out: &mut Vec<u8>,
    name: &str,
    of: &TensorOf,
    raw: &[u8],
    nested: bool,
) -> Result<(), Fault> {
    let datatype = Datatype::parse(&of.datatype).map_err(ours)?;
    check(name, datatype, &of.shape, raw).map_err(ours)?;
    let flat = [elements(&of.shape)?];
    let axes: &[u64] = if nested { &of.shape } else { &flat };
    let mut elements: Box<dyn Iterator<Item = &[u8]>> = match datatype.size() {
        Some(size) => Box::new(raw.chunks_exact(size)),
        None => Box::new(Elements(raw).flatten()),
    };
    put_axis(out, name, datatype, axes, &mut *elements)
}

fn put_axis(
    out: &mut Vec<u8>,
    name: &str,
    datatype: Datatype,
    axes: &[u64],
    elements: &mut dyn Iterator<Item = &[u8]>,
) -> Result<(), Fault> {
    let Some((first, rest)) = axes.split_first() else {
        return match elements.next() {
            Some(element) => put_element(out, name, datatype, element),
            None => Ok(()),
        };
    };
    out.push(b'[');
    for i in 0..*first {
        if i > 0 {
            out.push(b',');
        }
        put_axis(out, name, datatype, rest, elements)?;
    }
    out.push(b']');
    Ok(())
}

fn put_element(out: &mut Vec<u8>, name: &str, datatype: Datatype, raw: &[u8]) -> Result<(), Fault> {
    macro_rules! number {
        ($kind:ty) => {
            match raw.try_into().map(<$kind>::from_le_bytes) {
                Ok(number) => serde_json::to_writer(&mut *out, &number),
                Err(_) => Ok(()),
            }
        };
    }
    let written = match datatype {
        Datatype::Bool => serde_json::to_writer(&mut *out, &(raw != [0])),
        Datatype::Uint8 => number!(u8),
        Datatype::Uint16 => number!(u16),
        Datatype::Uint32 => number!(u32),
        Datatype::Uint64 => number!(u64),
        Datatype::Int8 => number!(i8),
        Datatype::Int16 => number!(i16),
        Datatype::Int32 => number!(i32),
        Datatype::Int64 => number!(i64),
        Datatype::Fp32 => number!(f32),
        Datatype::Fp64 => number!(f64),
        Datatype::Fp16 => match raw.try_into().map(f16::from_le_bytes) {
            Ok(number) => serde_json::to_writer(&mut *out, &number.to_f32()),
            Err(_) => Ok(()),
        },
        Datatype::Bf16 => match raw.try_into().map(bf16::from_le_bytes) {
            Ok(number) => serde_json::to_writer(&mut *out, &number.to_f32()),
            Err(_) => Ok(()),
        },
        Datatype::Bytes => match std::str::from_utf8(raw) {
            Ok(text) => serde_json::to_writer(&mut *out, text),
            Err(_) => {
                return Err(Fault::new(
                    Code::FailedPrecondition,
                    "bad_tensor",
                    format!("`{name}` has bytes that are no UTF-8: ask for binary data"),
                ));
            }
        },
    };
    written.map_err(|error| Fault::new(Code::Internal, "model_error", error.to_string()))
}

/// A tensor of the model's that is not what it says: no mistake of the caller's.
fn ours(fault: Fault) -> Fault {
    Fault::new(Code::Internal, "model_error", fault.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(datatype: Datatype, shape: &[u64], raw: &[u8]) -> String {
        let of = TensorOf {
            datatype: datatype.name().into(),
            shape: shape.to_vec(),
        };
        let mut out = Vec::new();
        put_json(&mut out, "x", &of, raw, true).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_keep_their_value_through_raw_bytes() {
        for (datatype, text) in [
            (Datatype::Bool, "[[true,false]]"),
            (Datatype::Uint8, "[[0,255]]"),
            (Datatype::Int8, "[[-128,127]]"),
            (Datatype::Uint64, "[[0,18446744073709551615]]"),
            (Datatype::Int64, "[[-9223372036854775808,1]]"),
            (Datatype::Fp32, "[[1.5,-0.1]]"),
            (Datatype::Fp64, "[[0.1,1e300]]"),
            (Datatype::Fp16, "[[0.5,2.0]]"),
            (Datatype::Bytes, r#"[["a","жc\n"]]"#),
        ] {
            let raw = from_json("x", datatype, text).unwrap();
            assert_eq!(json(datatype, &[1, 2], &raw).replace("e+", "e"), text);
        }
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        for (datatype, text) in [
            (Datatype::Uint8, "[256]"),
            (Datatype::Uint8, "[-1]"),
            (Datatype::Int32, "[1.5]"),
            (Datatype::Int32, r#"["1"]"#),
            (Datatype::Bool, "[1]"),
            (Datatype::Fp32, "[true]"),
            (Datatype::Bytes, "[1]"),
            (Datatype::Fp32, "[null]"),
            (Datatype::Fp32, r#"{"a": 1}"#),
            (Datatype::Fp32, "[1] [2]"),
        ] {
            let fault = from_json("x", datatype, text).unwrap_err();
            assert_eq!(fault.reason, "bad_tensor", "{text}");
        }
    }

    #[test]
    fn shapes_that_lie_are_refused() {
        assert!(check("x", Datatype::Fp32, &[2], &[0; 8]).is_ok());
        assert!(check("x", Datatype::Fp32, &[3], &[0; 8]).is_err());
        assert!(check("x", Datatype::Fp32, &[2], &[0; 7]).is_err());
        assert!(check("x", Datatype::Bytes, &[1], &[9, 0, 0, 0, 1]).is_err());
        assert!(check("x", Datatype::Bytes, &[1], &[1, 0, 0]).is_err());
        assert!(check("x", Datatype::Uint8, &[u64::MAX, 2], &[]).is_err());
        assert!(check("x", Datatype::Uint8, &[1 << 40, 0], &[]).is_err());
        assert!(check("x", Datatype::Uint8, &[3, 0], &[]).is_ok());
        assert!(shape(&[1, -1]).is_err());
    }

    proptest! {
        #[test]
        fn strings_come_back_whatever_they_hold(texts in proptest::collection::vec(".*", 0..8)) {
            let text = serde_json::to_string(&texts).unwrap();
            let raw = from_json("x", Datatype::Bytes, &text).unwrap();
            prop_assert_eq!(json(Datatype::Bytes, &[texts.len() as u64], &raw), text);
        }

        #[test]
        fn any_bytes_are_read_without_harm(raw in proptest::collection::vec(any::<u8>(), 0..64), axis in 0u64..20) {
            for datatype in Datatype::ALL {
                let _ = check("x", datatype, &[axis], &raw);
            }
        }
    }
}
