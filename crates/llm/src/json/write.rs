//! A writer that goes straight to bytes: no tree in between, keys in the order in which they are written.

use super::Json;

/// An object being written.
pub(crate) struct Obj<'w> {
    out: &'w mut Vec<u8>,
    first: bool,
}

/// An array being written.
pub(crate) struct Arr<'w> {
    out: &'w mut Vec<u8>,
    first: bool,
}

/// Writes an object.
pub(crate) fn object(out: &mut Vec<u8>, fill: impl FnOnce(&mut Obj<'_>)) {
    out.push(b'{');
    fill(&mut Obj { out, first: true });
    out.push(b'}');
}

/// Writes an array.
pub(crate) fn array(out: &mut Vec<u8>, fill: impl FnOnce(&mut Arr<'_>)) {
    out.push(b'[');
    fill(&mut Arr { out, first: true });
    out.push(b']');
}

/// Writes a string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    // Most text needs no escape; then it is copied at once.
    if text
        .bytes()
        .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
    {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing a string to memory can't fail");
    }
}

fn number(out: &mut Vec<u8>, value: f64) {
    // No JSON for them; nothing that was read as JSON is one.
    if !value.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    serde_json::to_writer(out, &value).expect("writing a number to memory can't fail");
}

fn int(out: &mut Vec<u8>, value: u64) {
    serde_json::to_writer(out, &value).expect("writing a number to memory can't fail");
}

fn json(out: &mut Vec<u8>, value: &Json<'_>) {
    serde_json::to_writer(out, value).expect("writing a JSON value to memory can't fail");
}

/// A value as its JSON text.
pub(crate) fn value_text(value: &Json<'_>) -> String {
    let mut out = Vec::new();
    json(&mut out, value);
    String::from_utf8(out).expect("JSON that was written here is UTF-8")
}

impl Obj<'_> {
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        string(self.out, key);
        self.out.push(b':');
        self.out
    }

    pub(crate) fn str(&mut self, key: &str, value: &str) {
        string(self.key(key), value);
    }

    pub(crate) fn opt_str(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.str(key, value);
        }
    }

    /// A string, or null.
    pub(crate) fn str_or_null(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.str(key, value),
            None => self.null(key),
        }
    }

    pub(crate) fn int(&mut self, key: &str, value: u64) {
        int(self.key(key), value);
    }

    pub(crate) fn opt_int(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.int(key, value);
        }
    }

    pub(crate) fn opt_num(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value {
            number(self.key(key), value);
        }
    }

    pub(crate) fn bool(&mut self, key: &str, value: bool) {
        let text: &[u8] = if value { b"true" } else { b"false" };
        self.key(key).extend_from_slice(text);
    }

    pub(crate) fn null(&mut self, key: &str) {
        self.key(key).extend_from_slice(b"null");
    }

    pub(crate) fn json(&mut self, key: &str, value: &Json<'_>) {
        json(self.key(key), value);
    }

    pub(crate) fn opt_json(&mut self, key: &str, value: Option<&Json<'_>>) {
        if let Some(value) = value {
            self.json(key, value);
        }
    }

    /// JSON text, as it is: the caller knows that it is valid.
    pub(crate) fn raw(&mut self, key: &str, json: &str) {
        self.key(key).extend_from_slice(json.as_bytes());
    }

    pub(crate) fn opt_raw(&mut self, key: &str, json: Option<&str>) {
        if let Some(json) = json {
            self.raw(key, json);
        }
    }

    pub(crate) fn obj(&mut self, key: &str, fill: impl FnOnce(&mut Obj<'_>)) {
        object(self.key(key), fill);
    }

    pub(crate) fn arr(&mut self, key: &str, fill: impl FnOnce(&mut Arr<'_>)) {
        array(self.key(key), fill);
    }
}

impl Arr<'_> {
    fn next(&mut self) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out
    }

    pub(crate) fn str(&mut self, value: &str) {
        string(self.next(), value);
    }

    pub(crate) fn num(&mut self, value: f64) {
        number(self.next(), value);
    }

    pub(crate) fn obj(&mut self, fill: impl FnOnce(&mut Obj<'_>)) {
        object(self.next(), fill);
    }
}
