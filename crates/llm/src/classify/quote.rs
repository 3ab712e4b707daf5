//! What of a provider's words quotes the request. Evidence is shown and shared; a prompt is neither.
//!
//! A provider may repeat a request in many forms: as JSON, as JSON within JSON, as Python writes it, on one line, cut. So both are compared
//! by their letters alone, without blanks, punctuation, escapes and case.

use std::borrow::Cow;
use std::ops::Range;

/// Stands for what was taken out.
const GONE: char = '…';
/// What was taken out before: no letter of a request goes on over it.
const SECRET: &str = "[redacted]";
const WALL: char = '\0';
/// So many letters in a row that are the request's too are a quotation (about 16 characters with their blanks). Letters outside the alphabets
/// say more: see [`weight`].
const QUOTATION: usize = 14;
/// So many are, where they end at a cut or at a secret.
const FRAGMENT: usize = 8;
/// So many within quotes are, where a value of the request begins with them.
const BEGINNING: usize = 4;
/// Bytes of the request that are looked at: half of them at its beginning, half at its end, where the newest message is.
const MOST: usize = 1 << 20;
/// Letters of a value that are kept to be compared with what stands in quotes.
const KEPT: usize = 200;

/// Fields whose values are the protocol's own words or a model's name. They may be shown.
const TECHNICAL: &[&[u8]] = &[
    b"model",
    b"role",
    b"type",
    b"object",
    b"detail",
    b"service_tier",
    b"effort",
    b"reasoning_effort",
    b"tool_choice",
    b"media_type",
    b"mime_type",
    b"mimeType",
    b"encoding_format",
];

/// The text with `…` for what quotes the request: its body, and what else was said of it.
pub(super) fn without_quotes<'t>(text: &'t str, body: &[u8], more: &str) -> Cow<'t, str> {
    let mut shown = Shown::new(text);
    if shown.letters.is_empty() {
        return Cow::Borrowed(text);
    }
    let half = MOST / 2;
    let (head, tail) = match body.len() > MOST {
        true => (&body[..half], &body[body.len() - half..]),
        false => (body, &body[..0]),
    };
    match head.trim_ascii_start().first() {
        Some(b'{' | b'[') => values(head, |value| shown.value(value)),
        _ => shown.value(head),
    }
    shown.value(tail);
    shown.value(more.as_bytes());
    shown.cleaned(text)
}

/// Gives each string of a JSON text that is the caller's, in its written form. The text may end anywhere.
fn values<'b>(json: &'b [u8], mut give: impl FnMut(&'b [u8])) {
    let mut technical = false;
    let mut at = 0;
    while let Some(begin) = memchr::memchr(b'"', &json[at..]).map(|found| at + found + 1) {
        let mut end = begin;
        while let Some(found) = memchr::memchr2(b'"', b'\\', &json[end..]) {
            end += found;
            if json[end] == b'"' {
                break;
            }
            end = (end + 2).min(json.len());
        }
        let closed = json.get(end) == Some(&b'"');
        let string = &json[begin..if closed { end } else { json.len() }];
        at = (begin + string.len() + 1).min(json.len());
        let is_key = json[at..].trim_ascii_start().first() == Some(&b':');
        if is_key {
            technical = TECHNICAL.contains(&string);
            // A long name is the caller's own, in a schema or in metadata.
            if string.len() > 32 {
                give(string);
            }
        } else {
            let word = string.len() <= 64 && !string.contains(&b' ');
            if !(std::mem::take(&mut technical) && word) {
                give(string);
            }
        }
    }
}

/// The letters of a text in small ones, whatever it is escaped with. `put` is told where each stands.
fn letters(text: &str, mut put: impl FnMut(char, Range<usize>)) {
    let mut high = None;
    let mut rest = text.char_indices().peekable();
    while let Some((begin, mut letter)) = rest.next() {
        let mut end = begin + letter.len_utf8();
        if letter == '\\' {
            while rest.next_if(|&(_, next)| next == '\\').is_some() {}
            let Some((at, escaped)) = rest.next() else {
                break;
            };
            letter = escaped;
            end = at + escaped.len_utf8();
            if matches!(escaped, 'n' | 't' | 'r' | 'b' | 'f') {
                continue;
            }
            let unit = text.get(end..end + 4).filter(|_| escaped == 'u');
            if let Some(unit) = unit.and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
                rest.nth(3);
                end += 4;
                let whole = match (high.take(), unit) {
                    (_, 0xd800..=0xdbff) => {
                        high = Some(unit);
                        continue;
                    }
                    (Some(high), 0xdc00..=0xdfff) => {
                        0x1_0000 + ((high - 0xd800) << 10) + (unit - 0xdc00)
                    }
                    _ => unit,
                };
                let Some(whole) = char::from_u32(whole) else {
                    continue;
                };
                letter = whole;
            }
        }
        if is_letter(letter) {
            let small = letter.to_lowercase().next().unwrap_or(letter);
            put(small, begin..end);
        }
    }
}

/// Marks of punctuation and what joins letters are none.
fn is_letter(letter: char) -> bool {
    match letter.is_ascii() {
        true => letter.is_ascii_alphanumeric(),
        false => {
            !letter.is_whitespace()
                && !letter.is_control()
                && !matches!(letter, '\u{2000}'..='\u{206f}' | '\u{fffd}' | '\u{3000}'..='\u{303f}')
        }
    }
}

/// What a letter says: in Chinese a word, not a part of one.
fn weight(letter: char) -> usize {
    if letter < '\u{2e80}' { 1 } else { 3 }
}

/// A text that is to be shown, and what of it was met in the request.
struct Shown {
    letters: Vec<char>,
    /// Where each stands.
    places: Vec<Range<usize>>,
    runs: Automaton,
    /// What stands in quotes.
    quoted: Vec<Quoted>,
    /// Whole values that were met: the letters of the text from here to there.
    whole: Vec<Range<usize>>,
    is_cut: bool,
}

struct Quoted {
    letters: Range<usize>,
    /// The text ends before the quotes do.
    open: bool,
    met: bool,
}

impl Shown {
    fn new(text: &str) -> Self {
        let (mut found, mut places) = (Vec::new(), Vec::new());
        let mut from = 0;
        for piece in text.split_inclusive(SECRET) {
            let (words, secret) = match piece.strip_suffix(SECRET) {
                Some(words) => (words, true),
                None => (piece, false),
            };
            letters(words, |letter, place| {
                found.push(letter);
                places.push(from + place.start..from + place.end);
            });
            from += words.len();
            if secret {
                found.push(WALL);
                places.push(from..from + SECRET.len());
                from += SECRET.len();
            }
        }
        Self {
            quoted: quoted(text, &places),
            runs: Automaton::new(&found),
            letters: found,
            places,
            whole: Vec::new(),
            is_cut: text.ends_with(GONE) || text.ends_with("..."),
        }
    }

    /// Looks at a value of the request.
    fn value(&mut self, value: &[u8]) {
        let value = String::from_utf8_lossy(value);
        let mut kept: Vec<char> = Vec::new();
        let (mut length, mut heavy) = (0, 0);
        let mut state = (0, 0);
        letters(&value, |letter, _| {
            if kept.len() < KEPT {
                kept.push(letter);
            }
            length += 1;
            heavy += weight(letter);
            state = self.runs.step(state, letter);
        });
        if length == 0 {
            return;
        }
        for quoted in self.quoted.iter_mut().filter(|quoted| !quoted.met) {
            let said = &self.letters[quoted.letters.clone()];
            let enough = quoted.open || said.len() == length || of(said) >= BEGINNING;
            quoted.met = enough && kept.starts_with(said);
        }
        // A short value that stands there as it is, without quotes: as words of their own.
        if (FRAGMENT..QUOTATION).contains(&heavy) && state.1 == length {
            for (at, window) in self.letters.windows(length).enumerate() {
                let place = at..at + length;
                if window == kept && self.is_word(&place) {
                    self.whole.push(place);
                }
            }
        }
    }

    /// Whether no letter stands right before it or right behind.
    fn is_word(&self, place: &Range<usize>) -> bool {
        self.begins_word(place.start)
            && (place.end == self.places.len() || self.begins_word(place.end))
    }

    fn begins_word(&self, at: usize) -> bool {
        at == 0 || self.places[at - 1].end < self.places[at].start
    }

    fn cleaned(mut self, text: &str) -> Cow<'_, str> {
        let met = self.runs.met();
        let mut gone = vec![false; text.len()];
        let mut any = false;
        let mut take = |run: Range<usize>| {
            if let (Some(first), Some(last)) =
                (self.places.get(run.start), self.places.get(run.end - 1))
            {
                gone[first.start..last.end].fill(true);
                any = true;
            }
        };
        let wall = |at: usize| self.letters.get(at) == Some(&WALL);
        for (last, &length) in met.iter().enumerate().filter(|(_, length)| **length > 0) {
            let run = last + 1 - length..last + 1;
            let at_end = self.is_cut && run.end == self.letters.len();
            let is_fragment = at_end || wall(run.end) || run.start > 0 && wall(run.start - 1);
            let heavy = of(&self.letters[run.clone()]);
            let fragment = is_fragment && heavy >= FRAGMENT && self.begins_word(run.start);
            if heavy >= QUOTATION || fragment {
                take(run);
            }
        }
        for run in self.whole.drain(..) {
            take(run);
        }
        for quoted in &self.quoted {
            let said = &self.letters[quoted.letters.clone()];
            // Around a secret: if a part of it is the request's, all of it is.
            let mut at = quoted.letters.start;
            let torn = said.contains(&WALL)
                && said.split(|letter| *letter == WALL).any(|part| {
                    let end = at + part.len();
                    at = end + 1;
                    !part.is_empty() && met[end - 1] >= part.len()
                });
            if quoted.met || torn {
                take(quoted.letters.clone());
            }
        }
        if !any {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        for (at, letter) in text.char_indices() {
            if !gone[at] {
                out.push(letter);
            } else if !out.ends_with(GONE) {
                out.push(GONE);
            }
        }
        Cow::Owned(out)
    }
}

/// What stands between two quotes, each with the next, and what stands behind the last if the text ends there.
fn quoted(text: &str, places: &[Range<usize>]) -> Vec<Quoted> {
    let letter_at = |at: usize| places.binary_search_by(|p| p.start.cmp(&at)).is_ok();
    let ends_at = |at: usize| places.binary_search_by(|p| p.end.cmp(&at)).is_ok();
    let mut marks = text.char_indices().filter_map(|(at, mark)| {
        let end = at + mark.len_utf8();
        let is_quote = match mark {
            '"' | '`' | '“' | '”' | '«' | '»' | '「' | '」' => true,
            // An apostrophe is none.
            '\'' | '’' | '‘' => !(ends_at(at) && letter_at(end)),
            _ => false,
        };
        is_quote.then_some(at)
    });
    let mut all = Vec::new();
    let Some(mut from) = marks.next() else {
        return all;
    };
    for to in marks.map(Some).chain([None]) {
        let end = to.unwrap_or(text.len());
        let first = places.partition_point(|place| place.start < from);
        let behind = places.partition_point(|place| place.start < end);
        if first < behind {
            all.push(Quoted {
                letters: first..behind,
                open: to.is_none(),
                met: false,
            });
        }
        from = end;
    }
    all
}

fn of(letters: &[char]) -> usize {
    letters.iter().copied().map(weight).sum()
}

/// All parts of a text at once: a suffix automaton (Blumer et al. 1985). Another text goes through it letter by letter, whatever its length,
/// and it knows at each the longest part that ends there.
struct Automaton {
    states: Vec<State>,
    /// The states of the text's beginnings.
    ends: Vec<usize>,
    /// From the first state, where most letters lead back to, for ASCII; 0: nowhere.
    first: [u16; 128],
}

#[derive(Clone, Default)]
struct State {
    next: Vec<(char, usize)>,
    link: Option<usize>,
    length: usize,
    /// The longest of its parts that was met.
    met: usize,
}

impl State {
    fn to(&self, letter: char) -> Option<usize> {
        let found = self.next.iter().find(|(by, _)| *by == letter);
        found.map(|(_, to)| *to)
    }
}

impl Automaton {
    fn new(text: &[char]) -> Self {
        let mut states = vec![State::default()];
        let mut ends = Vec::with_capacity(text.len());
        let mut last = 0;
        for &letter in text {
            let new = states.len();
            states.push(State {
                length: states[last].length + 1,
                ..State::default()
            });
            let mut at = Some(last);
            while let Some(from) = at.filter(|from| states[*from].to(letter).is_none()) {
                states[from].next.push((letter, new));
                at = states[from].link;
            }
            let link = match at.and_then(|from| Some((from, states[from].to(letter)?))) {
                None => 0,
                Some((from, to)) if states[to].length == states[from].length + 1 => to,
                Some((from, to)) => {
                    let copy = states.len();
                    let mut state = states[to].clone();
                    state.length = states[from].length + 1;
                    states.push(state);
                    states[to].link = Some(copy);
                    let mut at = Some(from);
                    while let Some(from) = at {
                        let next = states[from].next.iter_mut();
                        let mut wrong = next.filter(|next| **next == (letter, to));
                        let Some(wrong) = wrong.next() else { break };
                        wrong.1 = copy;
                        at = states[from].link;
                    }
                    copy
                }
            };
            states[new].link = Some(link);
            ends.push(new);
            last = new;
        }
        let mut first = [0; 128];
        for (letter, to) in &states[0].next {
            if let (Some(slot), Ok(to)) = (first.get_mut(*letter as usize), u16::try_from(*to)) {
                *slot = to;
            }
        }
        Self {
            states,
            ends,
            first,
        }
    }

    /// One letter further, from a state and the length of the part that was met there.
    fn step(&mut self, (mut at, mut length): (usize, usize), letter: char) -> (usize, usize) {
        loop {
            let to = match (at, self.first.get(letter as usize)) {
                (0, Some(&to)) => (to != 0).then_some(usize::from(to)),
                _ => self.states[at].to(letter),
            };
            if let Some(to) = to {
                length += 1;
                let met = &mut self.states[to].met;
                *met = (*met).max(length);
                return (to, length);
            }
            match self.states[at].link {
                Some(link) => {
                    at = link;
                    length = self.states[at].length;
                }
                None => return (0, 0),
            }
        }
    }

    /// For each letter of the text, the length of the longest part ending with it that was met.
    fn met(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.states.len()).collect();
        order.sort_unstable_by_key(|state| std::cmp::Reverse(self.states[*state].length));
        for state in order {
            // Whoever met a part has met its endings.
            if let (true, Some(link)) = (self.states[state].met > 0, self.states[state].link) {
                self.states[link].met = self.states[link].length;
            }
        }
        let longest = |end: &usize| {
            let mut at = *end;
            while let (0, Some(link)) = (self.states[at].met, self.states[at].link) {
                at = link;
            }
            self.states[at].met
        };
        self.ends.iter().map(longest).collect()
    }
}
