//! Declares the parts of the configuration: one declaration gives the struct, its defaults, its decoder,
//! its serialisation and its JSON Schema.
//!
//! Why not serde and schemars derives: serde stops at the first mistake and forgets where it was, so that
//! "every problem at once, each with its place" would need a second description of every key beside the
//! types. Here the keys, docs, defaults and checks are said once, and the schema cannot disagree with the
//! decoder.

/// A mapping with known keys. Fields are `name [as "key"]: Type [= default] [=> check],`; a field without a
/// default is required unless its type has a natural absence (`Option`, `Vec`, `BTreeMap`). A
/// `default struct` can be left out as a whole and implements [`Default`]. `flatten` names a [`one_of!`]
/// whose keys stand among the record's own.
macro_rules! record {
    (
        $(#[doc = $doc:literal])*
        pub default struct $name:ident $body:tt
    ) => {
        $crate::record::record! { $(#[doc = $doc])* pub struct $name $body }
        $crate::record::record! { @default $name $body }
    };
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $fdoc:literal])*
                $field:ident $(as $key:literal)? : $ty:ty $(= $default:expr)? $(=> $check:expr)?
            ),* $(,)?
            $(; flatten $(#[doc = $xdoc:literal])* $xfield:ident : $xty:ty)?
            $(; finish $finish:path)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $fdoc])* pub $field: $ty, )*
            $( $(#[doc = $xdoc])* pub $xfield: $xty, )?
        }
    };
    (@default $name:ident {
        $(
            $(#[doc = $fdoc:literal])*
            $field:ident $(as $key:literal)? : $ty:ty $(= $default:expr)? $(=> $check:expr)?
        ),* $(,)?
        $(; finish $finish:path)?
    }) => {
        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $crate::record::record!(@value $ty $(, $default)?), )* }
            }
        }
    };
    (@value $ty:ty, $default:expr) => { $default };
    (@value $ty:ty) => {
        <$ty as $crate::decode::Decode>::absent().expect("a default struct has a default for every field")
    };
}

/// A word from a fixed list.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident { $( $(#[doc = $vdoc:literal])* $variant:ident = $word:literal ),* $(,)? }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[doc = $vdoc])* $variant, )* }

        impl $name {
            /// The word that the configuration uses for it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }
    };
}

/// A mapping with exactly one of several keys: `{ exact: /a }` or `{ prefix: /a }`.
macro_rules! one_of {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident { $( $(#[doc = $vdoc:literal])* $variant:ident($ty:ty) = $key:literal $(=> $check:expr)? ),* $(,)? }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name { $( $(#[doc = $vdoc])* $variant($ty), )* }
    };
}

pub(crate) use {choice, one_of, record};
