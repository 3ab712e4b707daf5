//! Tidegate: the `route` room.
