//! Frames are found however the stream is cut, within bounds, without allocation.

use proptest::prelude::*;
use tidegate_llm::sse::{Fault, Scanner};

/// Event name and joined data.
type Event = (Vec<u8>, Option<Vec<u8>>);

/// The standard, read literally: the whole text at once, owned strings everywhere.
fn naive(text: &[u8]) -> Vec<Event> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut lines = vec![Vec::new()];
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'\r' => {
                at += usize::from(text.get(at + 1) == Some(&b'\n'));
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            byte => lines.last_mut().unwrap().push(byte),
        }
        at += 1;
    }
    lines.pop(); // not ended
    let mut events = Vec::new();
    let mut block: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        if !line.is_empty() {
            block.push(line);
            continue;
        }
        if block.is_empty() {
            continue;
        }
        let mut event: Event = (Vec::new(), None);
        for line in block.drain(..) {
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, mut value) = match colon {
                Some(colon) => (line[..colon].to_vec(), line[colon + 1..].to_vec()),
                None => (line, Vec::new()),
            };
            if value.first() == Some(&b' ') {
                value.remove(0);
            }
            match (name.as_slice(), &mut event.1) {
                (b"event", _) => event.0 = value,
                (b"data", Some(data)) => {
                    data.push(b'\n');
                    data.extend(value);
                }
                (b"data", none) => *none = Some(value),
                _ => {}
            }
        }
        events.push(event);
    }
    events
}

/// What the scanner says of chunks; also that the chunks' consumed parts are the frames' own bytes.
fn scanned(chunks: &[&[u8]]) -> Vec<Event> {
    let mut scanner = Scanner::new(1 << 20);
    let mut events = Vec::new();
    for chunk in chunks {
        let mut frames = scanner.feed(chunk);
        while let Some(frame) = frames.next() {
            let frame = frame.unwrap();
            let data = frame.has_data().then(|| frame.data().into_owned());
            assert!(frame.end() <= chunk.len());
            events.push((frame.event().to_vec(), data));
        }
        assert!(frames.next().is_none(), "a chunk is read once");
    }
    events
}

fn cut<'a>(text: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|pair| &text[pair[0]..pair[1]])
        .collect()
}

/// Streams made of what matters to the format, in any order.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("data: {\"a\":1}"),
        Just("data:"),
        Just("data"),
        Just("data:  two spaces"),
        Just("event: message_start"),
        Just("event:error"),
        Just("id: 7"),
        Just("retry: 10"),
        Just(": ping"),
        Just(":"),
        Just("unknown: x"),
        Just("\u{feff}"),
        Just("\u{fef0}"),
        Just("\n"),
        Just("\r"),
        Just("\r\n"),
        Just("\n\n"),
        Just("\r\n\r\n"),
        Just("\r\r"),
        "[ -~äö]{0,12}".prop_map(|text: String| &*text.leak()),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_gives_what_the_standard_says(text in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let expected = naive(&text);
        prop_assert_eq!(scanned(&cut(&text, &cuts)), expected.clone());
        prop_assert_eq!(scanned(&text.chunks(1).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), limit in 0usize..64) {
        let mut scanner = Scanner::new(limit);
        for chunk in bytes.chunks(7) {
            let mut frames = scanner.feed(chunk);
            while let Some(frame) = frames.next() {
                if frame.is_err() {
                    break;
                }
            }
        }
        let _ = scanner.finish();
    }
}

#[test]
fn whole_frames_can_be_relayed_and_the_open_one_held_back() {
    let mut scanner = Scanner::new(1024);
    let chunk = b"data: 1\n\ndata: 2\n\ndata: ";
    let mut frames = scanner.feed(chunk);
    assert_eq!(frames.next().unwrap().unwrap().end(), 9);
    assert_eq!(frames.next().unwrap().unwrap().end(), 18);
    assert!(frames.next().is_none());
    assert_eq!(frames.consumed(), 18);
    assert!(scanner.open_len() > 0);
}

#[test]
fn the_end_shows_what_was_not_ended() {
    for rest in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r"] {
        let mut scanner = Scanner::new(1024);
        let mut frames = scanner.feed(rest.as_bytes());
        assert!(frames.next().is_none());
        assert!(scanner.finish().unwrap().is_done(), "{rest:?}");
    }
    let mut scanner = Scanner::new(1024);
    while scanner
        .feed(b"data: [DONE]\n\n")
        .next()
        .is_some_and(|frame| !frame.unwrap().is_done())
    {}
    assert!(scanner.finish().is_none());
}

#[test]
fn comments_alone_are_no_event() {
    let mut scanner = Scanner::new(1024);
    let mut frames = scanner.feed(b": OPENROUTER PROCESSING\n\n");
    let frame = frames.next().unwrap().unwrap();
    assert!(!frame.has_data() && frame.event().is_empty());
    assert_eq!(frame.raw(), b": OPENROUTER PROCESSING\n\n");
}

#[test]
fn a_frame_longer_than_the_bound_is_a_fault_within_a_chunk_and_across_chunks() {
    let fault = Fault::FrameTooLong { limit: 16 };
    let mut scanner = Scanner::new(16);
    assert_eq!(
        scanner
            .feed(b"data: 0123456789\n\n")
            .next()
            .unwrap()
            .unwrap_err(),
        fault
    );
    assert_eq!(
        scanner.feed(b"data: 1\n\n").next().unwrap().unwrap_err(),
        fault,
        "the stream is over"
    );

    let mut scanner = Scanner::new(16);
    assert!(scanner.feed(b"data: 01234567").next().is_none());
    assert_eq!(scanner.feed(b"89\n").next().unwrap().unwrap_err(), fault);

    let mut scanner = Scanner::new(16);
    let mut frames = scanner.feed(b"data: 01234567\n\ndata: 01234567\n\n");
    assert!(
        frames.next().unwrap().is_ok() && frames.next().unwrap().is_ok(),
        "the bound is a frame's, not the stream's"
    );
}

#[test]
fn chunks_allocate_nothing_once_the_buffer_is_there() {
    let frame = b"data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n";
    let mut scanner = Scanner::new(4096);
    let mut run = |rounds: usize| {
        for round in 0..rounds {
            let (left, right) = frame.split_at(round % frame.len());
            for chunk in [left, right] {
                let mut frames = scanner.feed(chunk);
                while let Some(frame) = frames.next() {
                    assert!(frame.unwrap().data().ends_with(b"}]}"));
                }
            }
        }
    };
    run(100); // the buffer grows to a frame's length
    let counted = allocation_counter::measure(|| run(10_000));
    assert_eq!(counted.count_total, 0);
}
