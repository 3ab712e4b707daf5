//! Tidegate: the `wire` room.
