//! zstd as it comes: bounded in memory, in size and in the ratio of what comes out to what went in.

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::{Code, Fault};

/// The largest window a frame may ask for, as a power of two: 8 MiB, what RFC 8878 asks of every decoder.
const WINDOW_LOG: u32 = 23;

/// What comes out in one step.
const STEP: usize = 256 << 10;

/// So much may come out whatever went in: small inputs of one kind compress enormously.
const FREE: u64 = 64 << 20;

/// Bounds of one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InflateBounds {
    /// Bytes that may come out; more are `size_mismatch` if `exact`, else `too_large`.
    pub(crate) most: u64,
    /// Whether just so many must come out.
    pub(crate) exact: bool,
    /// Times what went in that may come out beyond the first 64 MiB.
    pub(crate) ratio: u64,
}

/// Decompresses frames one behind the other, cut anywhere.
pub(crate) struct Inflate {
    decoder: Decoder<'static>,
    out: Box<[u8]>,
    bounds: InflateBounds,
    fed: u64,
    given: u64,
    /// Between frames.
    whole: bool,
}

impl Inflate {
    pub(crate) fn new(bounds: InflateBounds) -> Result<Self, Fault> {
        let prepared = Decoder::new().and_then(|mut decoder| {
            decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
            Ok(decoder)
        });
        let decoder = prepared.map_err(|error| {
            Fault::new(Code::ResourceExhausted, "memory", format!("zstd: {error}"))
        })?;
        Ok(Self {
            decoder,
            out: vec![0; STEP].into_boxed_slice(),
            bounds,
            fed: 0,
            given: 0,
            whole: true,
        })
    }

    /// Takes a piece of the stream and gives what comes out of it to `sink`.
    pub(crate) fn feed(
        &mut self,
        piece: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut input = InBuffer::around(piece);
        loop {
            let before = input.pos;
            let mut output = OutBuffer::around(&mut self.out[..]);
            if input.pos < piece.len() {
                self.whole = false;
            } else if self.whole {
                return Ok(());
            }
            let hint = self.decoder.run(&mut input, &mut output).map_err(broken)?;
            let made = output.pos();
            self.fed += (input.pos - before) as u64;
            self.given += made as u64;
            self.whole = hint == 0;
            self.check()?;
            if made > 0 {
                sink(&self.out[..made])?;
            }
            // All was read, and the decoder holds nothing back.
            if input.pos == piece.len() && made < STEP {
                return Ok(());
            }
        }
    }

    fn check(&self) -> Result<(), Fault> {
        if self.given > self.bounds.most {
            return Err(if self.bounds.exact {
                Fault::new(
                    Code::InvalidArgument,
                    "size_mismatch",
                    format!(
                        "more than the {} bytes that were announced",
                        self.bounds.most
                    ),
                )
            } else {
                Fault::new(
                    Code::ResourceExhausted,
                    "too_large",
                    format!("more than {} bytes after decompression", self.bounds.most),
                )
            });
        }
        if self.given > FREE && self.given - FREE > self.fed.saturating_mul(self.bounds.ratio) {
            return Err(Fault::new(
                Code::InvalidArgument,
                "ratio",
                format!(
                    "{} bytes became {}: beyond the first 64 MiB at most {} times as many are taken (limits.ratio)",
                    self.fed, self.given, self.bounds.ratio
                ),
            ));
        }
        Ok(())
    }

    /// Whether all that was announced is there and no frame is open.
    pub(crate) fn complete(&self) -> bool {
        self.bounds.exact && self.whole && self.given == self.bounds.most
    }

    /// The stream has ended: is it whole?
    pub(crate) fn end(&self) -> Result<(), Fault> {
        if !self.whole {
            return Err(Fault::new(
                Code::InvalidArgument,
                "truncated",
                format!(
                    "the zstd stream ends within a frame, after {} bytes of content",
                    self.given
                ),
            ));
        }
        if self.bounds.exact && self.given != self.bounds.most {
            return Err(Fault::new(
                Code::InvalidArgument,
                "truncated",
                format!(
                    "{} of the {} bytes that were announced",
                    self.given, self.bounds.most
                ),
            ));
        }
        Ok(())
    }
}

fn broken(error: std::io::Error) -> Fault {
    let text = error.to_string();
    let why = if text.contains("too much memory") {
        "a frame's window is larger than 8 MiB".to_owned()
    } else {
        text.to_lowercase()
    };
    Fault::new(Code::InvalidArgument, "bad_zstd", format!("zstd: {why}"))
}

/// Decompresses a message in memory, up to `most` bytes.
pub(crate) fn inflate_whole(message: &[u8], most: u64, ratio: u64) -> Result<Vec<u8>, Fault> {
    let mut inflate = Inflate::new(InflateBounds {
        most,
        exact: false,
        ratio,
    })?;
    let mut whole = Vec::new();
    inflate.feed(message, |piece| {
        whole.extend_from_slice(piece);
        Ok(())
    })?;
    inflate.end()?;
    Ok(whole)
}
