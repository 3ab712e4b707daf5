//! Tidegate: the `discovery` room.
