//! Sizes and percentages.

use super::Wrong;
use std::fmt;
use std::str::FromStr;

/// A number of bytes: `64KiB`, `1MiB`, `1GB`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// No bytes; where the key says so, no limit.
    pub const ZERO: Self = Self(0);

    /// This many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many times 1024 bytes.
    #[must_use]
    pub const fn kib(kib: u64) -> Self {
        Self(kib * 1024)
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write a number of bytes or a size such as 64KiB, 10MiB, 1GiB";
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let number: u64 = number.parse().map_err(|_| Wrong::new("not a size", help))?;
        let size = if unit.is_empty() {
            1
        } else {
            let found = SIZES
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit));
            found
                .ok_or_else(|| Wrong::new(format!("unknown unit of size `{unit}`"), help))?
                .1
        };
        number
            .checked_mul(size)
            .filter(|n| i64::try_from(*n).is_ok())
            .map(Self)
            .ok_or_else(|| Wrong::new("a size beyond all bounds", help))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZES[..4]
            .iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        match exact {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A bound on a number of bytes, or none: a size, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SizeBound(Option<ByteSize>);

impl SizeBound {
    /// No bound.
    pub const OFF: Self = Self(None);

    /// The bound in bytes; `None`: there is none.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        self.0.map(ByteSize::bytes)
    }
}

impl FromStr for SizeBound {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        match text {
            "off" | "false" => Ok(Self::OFF),
            text => match text.parse()? {
                ByteSize::ZERO => Err(Wrong::new(
                    "a bound of no bytes",
                    "write `off` for no bound",
                )),
                size => Ok(Self(Some(size))),
            },
        }
    }
}

impl fmt::Display for SizeBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(size) => size.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A share: `10%`, `0.5%` or the number alone.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);
    /// All.
    pub const HUNDRED: Self = Self(100.0);

    /// This many hundredths; more than 100 counts as 100.
    #[must_use]
    pub const fn of(percent: u8) -> Self {
        Self(if percent > 100 { 100.0 } else { percent as f64 })
    }

    /// 0.0 to 100.0.
    #[must_use]
    pub const fn percent(self) -> f64 {
        self.0
    }

    /// 0.0 to 1.0.
    #[must_use]
    pub const fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl FromStr for Percent {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write a percentage from 0% to 100%, e.g. 20% or 0.5%";
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        if !number.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return Err(Wrong::new("not a percentage", help));
        }
        let value: f64 = number
            .parse()
            .map_err(|_| Wrong::new("not a percentage", help))?;
        if (0.0..=100.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(Wrong::new("a percentage outside 0% to 100%", help))
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}
