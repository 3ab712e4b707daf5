//! Typed contents of tensors in gRPC, as raw bytes and back.

use bytes::Bytes;

use crate::Fault;
use crate::door::tensor::{Datatype, Elements, bad_tensor, put_bytes};
use crate::proto::inference::InferTensorContents;

/// Raw bytes of typed contents.
pub(super) fn to_raw(
    name: &str,
    datatype: Datatype,
    contents: &InferTensorContents,
) -> Result<Bytes, Fault> {
    let mut raw = Vec::new();
    macro_rules! narrowed {
        ($values:expr, $kind:ty) => {
            for value in $values {
                let narrow = <$kind>::try_from(*value).map_err(|_| {
                    bad_tensor(format!("`{name}`: {value} is no {}", datatype.name()))
                })?;
                raw.extend_from_slice(&narrow.to_le_bytes());
            }
        };
    }
    match datatype {
        Datatype::Bool => raw.extend(contents.bool_contents.iter().map(|value| u8::from(*value))),
        Datatype::Int8 => narrowed!(&contents.int_contents, i8),
        Datatype::Int16 => narrowed!(&contents.int_contents, i16),
        Datatype::Int32 => narrowed!(&contents.int_contents, i32),
        Datatype::Int64 => narrowed!(&contents.int64_contents, i64),
        Datatype::Uint8 => narrowed!(&contents.uint_contents, u8),
        Datatype::Uint16 => narrowed!(&contents.uint_contents, u16),
        Datatype::Uint32 => narrowed!(&contents.uint_contents, u32),
        Datatype::Uint64 => narrowed!(&contents.uint64_contents, u64),
        Datatype::Fp32 => {
            for value in &contents.fp32_contents {
                raw.extend_from_slice(&value.to_le_bytes());
            }
        }
        Datatype::Fp64 => {
            for value in &contents.fp64_contents {
                raw.extend_from_slice(&value.to_le_bytes());
            }
        }
        Datatype::Bytes => {
            for value in &contents.bytes_contents {
                put_bytes(&mut raw, value);
            }
        }
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(bad_tensor(format!(
                "`{name}`: {} travels in raw_input_contents",
                datatype.name()
            )));
        }
    }
    Ok(Bytes::from(raw))
}

/// Typed contents of raw bytes that were checked; `None` where a datatype has none.
pub(super) fn from_raw(datatype: Datatype, raw: &[u8]) -> Option<InferTensorContents> {
    let mut contents = InferTensorContents::default();
    macro_rules! all {
        ($kind:ty) => {
            raw.as_chunks()
                .0
                .iter()
                .map(|bytes| <$kind>::from_le_bytes(*bytes))
        };
    }
    match datatype {
        Datatype::Bool => contents.bool_contents = raw.iter().map(|byte| *byte != 0).collect(),
        Datatype::Int8 => contents.int_contents = all!(i8).map(i32::from).collect(),
        Datatype::Int16 => contents.int_contents = all!(i16).map(i32::from).collect(),
        Datatype::Int32 => contents.int_contents = all!(i32).collect(),
        Datatype::Int64 => contents.int64_contents = all!(i64).collect(),
        Datatype::Uint8 => contents.uint_contents = all!(u8).map(u32::from).collect(),
        Datatype::Uint16 => contents.uint_contents = all!(u16).map(u32::from).collect(),
        Datatype::Uint32 => contents.uint_contents = all!(u32).collect(),
        Datatype::Uint64 => contents.uint64_contents = all!(u64).collect(),
        Datatype::Fp32 => contents.fp32_contents = all!(f32).collect(),
        Datatype::Fp64 => contents.fp64_contents = all!(f64).collect(),
        Datatype::Bytes => {
            contents.bytes_contents = Elements(raw)
                .flatten()
                .map(Bytes::copy_from_slice)
                .collect();
        }
        Datatype::Fp16 | Datatype::Bf16 => return None,
    }
    Some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn raw_bytes_come_back_through_typed_contents(raw in proptest::collection::vec(any::<u8>(), 0..16)) {
            for datatype in Datatype::ALL {
                // NaN has many forms, and a boolean but two.
                let floats = matches!(datatype, Datatype::Fp32 | Datatype::Fp64 | Datatype::Bool);
                let whole = datatype.size().is_some_and(|size| raw.len().is_multiple_of(size));
                if !whole || floats {
                    continue;
                }
                if let Some(contents) = from_raw(datatype, &raw) {
                    prop_assert_eq!(&to_raw("x", datatype, &contents).unwrap()[..], &raw[..]);
                }
            }
        }
    }

    #[test]
    fn values_beyond_a_narrow_datatype_are_refused() {
        let contents = InferTensorContents {
            int_contents: vec![200],
            ..Default::default()
        };
        assert!(to_raw("x", Datatype::Int8, &contents).is_err());
        assert!(to_raw("x", Datatype::Int16, &contents).is_ok());
        assert!(to_raw("x", Datatype::Fp16, &contents).is_err());
    }
}
