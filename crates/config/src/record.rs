//! Declares the parts of the configuration: one declaration gives the struct, its defaults, its decoder,
//! its serialisation and its JSON Schema.
//!
//! Why not serde and schemars derives: serde stops at the first mistake and forgets where it was, so that
//! "every problem at once, each with its place" would need a second description of every key beside the
//! types. Here the keys, docs, defaults and checks are said once, and the schema cannot disagree with the
//! decoder.

/// A mapping with known keys. Fields are `name [as "key"]: Type [= default] [=> check],`; a field without a
/// default is required unless its type has a natural absence (`Option`, `Vec`, `BTreeMap`). A
/// `default struct` can be left out as a whole and implements [`Default`].
///
/// Clauses after the fields, in this order: `; flatten name: Type` a [`one_of!`] whose keys stand among the record's own;
/// `; later "key", …` keys of later builds; `; short "key"` a value that is no mapping means this key;
/// `; inspect f` looks at which keys are there, whatever their values; `; finish f` looks at the whole value; `; tidy f` takes defaults out
/// of what is written that may not stand beside the rest.
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
            $(; later $($later:literal),+)?
            $(; short $short:literal)?
            $(; inspect $inspect:path)?
            $(; finish $finish:path)?
            $(; tidy $tidy:path)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $fdoc])* pub $field: $ty, )*
            $( $(#[doc = $xdoc])* pub $xfield: $xty, )?
        }

        impl $crate::decode::Decode for $name {
            const OFF: bool = true;

            fn decode(node: &$crate::node::Node, cx: &mut $crate::decode::Cx<'_>) -> Option<Self> {
                const LATER: &[&str] = &[$($($later),+)?];
                $( let wrapped = $crate::decode::Fields::short(node, $short); let node = wrapped.as_ref().unwrap_or(node); )?
                let mut fields = $crate::decode::Fields::open(node, cx, LATER)?;
                $(
                    let $field: Option<$ty> = fields.field(
                        cx,
                        $crate::record::record!(@key $field $(, $key)?),
                        $crate::record::record!(@some $($default)?),
                        $crate::record::record!(@check $($check)?),
                    );
                )*
                $( let $xfield: Option<$xty> = fields.flatten(cx); )?
                let fields = fields.close(cx);
                $( $inspect(&fields, cx); )?
                #[allow(unused_mut)]
                let mut value = Self { $( $field: $field?, )* $( $xfield: $xfield?, )? };
                $( $finish(&mut value, &fields, cx); )?
                let _ = &fields;
                Some(value)
            }

            fn encode(&self) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                $( $crate::record::record!(@put map, $crate::record::record!(@key $field $(, $key)?), self.$field $(, $default)?); )*
                $(
                    let (key, value) = $crate::decode::OneOf::encode_entry(&self.$xfield);
                    map.insert(key.into(), value);
                )?
                $( $tidy(self, &mut map); )?
                serde_json::Value::Object(map)
            }

            fn schema(defs: &mut $crate::schema::Defs) -> serde_json::Value {
                defs.named(stringify!($name), |defs| {
                    let mut object = $crate::schema::Object::new(&[$($doc),*]);
                    $(
                        object.field::<$ty>(
                            defs,
                            $crate::record::record!(@key $field $(, $key)?),
                            &[$($fdoc),*],
                            $crate::record::record!(@some $($default)?),
                            $crate::record::record!(@check $($check)?),
                        );
                    )*
                    $( object.flatten::<$xty>(defs); )?
                    $( object.short($short); )?
                    object.finish()
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::decode::Decode::encode(self).serialize(serializer)
            }
        }
    };
    (@default $name:ident {
        $(
            $(#[doc = $fdoc:literal])*
            $field:ident $(as $key:literal)? : $ty:ty $(= $default:expr)? $(=> $check:expr)?
        ),* $(,)?
        $(; $($clauses:tt)*)?
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
    (@key $field:ident, $key:literal) => { $key };
    (@key $field:ident) => { stringify!($field) };
    (@some) => { None };
    (@some $default:expr) => { Some($default) };
    (@check) => { &$crate::checks::Anything };
    (@check $check:expr) => { &$check };
    // A value that has a default is always written: absence would mean the default, not the value.
    (@put $map:ident, $key:expr, $value:expr, $default:expr) => {
        $map.insert($key.into(), $crate::decode::Decode::encode(&$value));
    };
    (@put $map:ident, $key:expr, $value:expr) => {
        if !$crate::decode::Decode::omit(&$value) {
            $map.insert($key.into(), $crate::decode::Decode::encode(&$value));
        }
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
            /// Every one, in the order of the documentation.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The word that the configuration uses for it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }

        impl $crate::decode::Decode for $name {
            fn decode(node: &$crate::node::Node, cx: &mut $crate::decode::Cx<'_>) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),*];
                match $crate::decode::choose(node, cx, WORDS)? {
                    $( $word => Some(Self::$variant), )*
                    _ => None,
                }
            }

            fn encode(&self) -> serde_json::Value {
                serde_json::Value::from(self.as_str())
            }

            fn schema(_: &mut $crate::schema::Defs) -> serde_json::Value {
                serde_json::json!({ "oneOf": [
                    $( { "const": $word, "description": $crate::schema::description(&[$($vdoc),*]) } ),*
                ] })
            }
        }
    };
}

/// A mapping with exactly one of several keys: `{ exact: /a }` or `{ prefix: /a }`. `; short "key"`: a value that is no
/// mapping means this key. `; later "key", …`: keys of later builds.
macro_rules! one_of {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident {
            $( $(#[doc = $vdoc:literal])* $variant:ident($ty:ty) = $key:literal $(=> $check:expr)? ),* $(,)?
            $(; later $($later:literal),+)?
            $(; short $short:literal)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name { $( $(#[doc = $vdoc])* $variant($ty), )* }

        impl $crate::decode::OneOf for $name {
            const KEYS: &'static [&'static str] = &[$($key),*];

            fn decode_entry(key: &str, node: &$crate::node::Node, cx: &mut $crate::decode::Cx<'_>) -> Option<Self> {
                match key {
                    $(
                        $key => {
                            let value = <$ty as $crate::decode::Decode>::decode(node, cx)?;
                            let check: &dyn $crate::checks::Check<$ty> = $crate::record::record!(@check $($check)?);
                            check.check(&value, node, cx);
                            Some(Self::$variant(value))
                        }
                    )*
                    _ => None,
                }
            }

            fn encode_entry(&self) -> (&'static str, serde_json::Value) {
                match self { $( Self::$variant(value) => ($key, $crate::decode::Decode::encode(value)), )* }
            }

            fn schemas(defs: &mut $crate::schema::Defs) -> Vec<(&'static str, serde_json::Value)> {
                vec![ $( (
                    $key,
                    $crate::schema::property::<$ty>(defs, &[$($vdoc),*], None, $crate::record::record!(@check $($check)?)),
                ), )* ]
            }
        }

        impl $crate::decode::Decode for $name {
            fn decode(node: &$crate::node::Node, cx: &mut $crate::decode::Cx<'_>) -> Option<Self> {
                const LATER: &[&str] = &[$($($later),+)?];
                $( let wrapped = $crate::decode::Fields::short(node, $short); let node = wrapped.as_ref().unwrap_or(node); )?
                $crate::decode::decode_one_of(node, cx, LATER)
            }

            fn encode(&self) -> serde_json::Value {
                $crate::decode::encode_one_of(self)
            }

            fn schema(defs: &mut $crate::schema::Defs) -> serde_json::Value {
                defs.named(stringify!($name), |defs| {
                    let mut object = $crate::schema::Object::new(&[$($doc),*]);
                    object.flatten::<Self>(defs);
                    $( object.short($short); )?
                    object.finish()
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::decode::Decode::encode(self).serialize(serializer)
            }
        }
    };
}

pub(crate) use {choice, one_of, record};
