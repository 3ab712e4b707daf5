//! From nodes to typed values.

/// How a type is read from a node, written back and described.
pub trait Decode: Sized {
    /// The value of a key that is not there, where that is allowed.
    fn absent() -> Option<Self> {
        None
    }
}
impl<T> Decode for Option<T> {
    fn absent() -> Option<Self> {
        Some(None)
    }
}
impl<T> Decode for Vec<T> {
    fn absent() -> Option<Self> {
        Some(Vec::new())
    }
}
impl<K, V> Decode for std::collections::BTreeMap<K, V> {
    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}
impl<T> Decode for crate::values::OneOrMany<T> {
    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}
