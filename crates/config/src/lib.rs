//! Tidegate: the `config` room.
