//! What an exchange needs and the next one can use again: buffers and header maps, kept by each worker.
//!
//! An exchange takes one and gives it back as soon as it is empty, so that few are in use at once and those are warm in the cache; asking
//! the allocator for each costs more.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderMap;

/// Size of a fresh buffer, and the smallest read.
pub(crate) const BUFFER: usize = 8 * 1024;

/// Buffers that a worker keeps for the next exchange.
const KEPT: usize = 64;
/// Header maps: an exchange with a provider holds the caller's and the provider's while it waits.
const KEPT_MAPS: usize = 256;
/// Those of either that stay when it is idle.
const KEPT_IDLE: usize = 8;

/// Header maps that have grown beyond this many fields are not kept.
const FIELDS: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// Gives back most of what is kept; a busy worker has it again at once. Called each second.
pub(crate) fn trim() {
    BUFFERS.with_borrow_mut(|kept| kept.truncate(KEPT_IDLE));
    MAPS.with_borrow_mut(|kept| kept.truncate(KEPT_IDLE));
}

/// An empty buffer with room for [`BUFFER`] bytes.
pub(crate) fn take_buffer() -> BytesMut {
    BUFFERS
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
}

/// Takes a buffer back. What it holds is lost.
pub(crate) fn put_buffer(mut buffer: BytesMut) {
    buffer.clear();
    // Only a buffer that nobody else holds a piece of, and of the usual size.
    if buffer.try_reclaim(BUFFER) && buffer.capacity() <= 2 * BUFFER {
        put_fresh_buffer(buffer);
    }
}

/// Takes back what [`take_buffer`] gave, untouched.
pub(crate) fn put_fresh_buffer(buffer: BytesMut) {
    keep(&BUFFERS, KEPT, buffer);
}

/// An empty header map, with room in most cases.
pub(crate) fn take_map() -> HeaderMap {
    MAPS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes a header map back. What it holds is lost.
pub(crate) fn put_map(mut map: HeaderMap) {
    if (1..=FIELDS).contains(&map.capacity()) {
        map.clear();
        keep(&MAPS, KEPT_MAPS, map);
    }
}

fn keep<T>(kept: &'static std::thread::LocalKey<RefCell<Vec<T>>>, most: usize, spare: T) {
    kept.with_borrow_mut(|kept| {
        if kept.len() < most {
            kept.push(spare);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_buffer_that_nobody_holds_a_piece_of_is_used_again() {
        let mut buffer = take_buffer();
        buffer.extend_from_slice(b"head and body");
        let piece = buffer.split_to(4).freeze();
        let at = piece.as_ptr();
        put_buffer(buffer);
        assert_ne!(take_buffer().as_ptr(), at);

        let mut buffer = take_buffer();
        buffer.extend_from_slice(b"head and body");
        let at = buffer.as_ptr();
        drop(buffer.split_to(4));
        put_buffer(buffer);
        let again = take_buffer();
        assert!(again.is_empty() && again.as_ptr() == at && again.capacity() >= BUFFER);
    }

    #[test]
    fn a_header_map_comes_back_empty_with_its_room_unless_it_has_grown_large() {
        let mut map = take_map();
        map.reserve(12);
        map.insert("a", "b".parse().expect("a value"));
        put_map(map);
        let again = take_map();
        assert!(again.is_empty() && again.capacity() >= 12);
        put_map(HeaderMap::with_capacity(1000));
        assert_eq!(take_map().capacity(), 0);
    }

    #[test]
    fn an_idle_worker_keeps_few() {
        for _ in 0..KEPT + 10 {
            put_buffer(BytesMut::with_capacity(BUFFER));
        }
        assert_eq!(BUFFERS.with_borrow(Vec::len), KEPT);
        trim();
        assert_eq!(BUFFERS.with_borrow(Vec::len), KEPT_IDLE);
    }
}
