//! Tidegate: the `core` room.
