//! Tidegate: the `admin` room.
