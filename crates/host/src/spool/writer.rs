//! Takes an input from the network to where it lies: decompression and writing on threads that may block, one hop for as many pieces as have come
//! meanwhile, while the network's side goes on.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::task::JoinHandle;

use super::sink::Sink;
use super::{Claim, Inflate, InflateBounds, Spool};
use crate::{Code, Content, Fault};

/// What is gathered at most while the thread is busy. With the stream's window and zstd's it bounds the memory of an upload.
const BATCH: usize = 1 << 20;

/// How an input is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// As it is; at most so many bytes.
    Plain { most: u64 },
    /// zstd.
    Zstd(InflateBounds),
}

/// Whom an input is for.
#[derive(Debug)]
pub(crate) enum Target {
    /// One call; what is small stays in memory.
    Call(Arc<Spool>),
    /// One call, in a file however small.
    File(Arc<Spool>),
    /// An upload that may be resumed.
    Kept(Claim),
}

/// An input that is there.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) content: Content,
    /// Of an upload that may be resumed: what becomes of it when the call is over.
    pub(crate) claim: Option<Claim>,
}

/// Reads `source` to its end, or to where the input is complete, and stores it. Dropped or failed, it leaves nothing but an upload
/// that may be resumed, and that only if it was the connection that broke.
///
/// # Errors
/// What is wrong with the bytes, the bounds or the disk; what `source` says.
pub(crate) async fn store<S>(source: &mut S, form: Form, target: Target) -> Result<Stored, Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Unpin,
{
    let mut state = Some(Work::new(form, target)?);
    let mut job: Option<JoinHandle<Result<Work, Fault>>> = None;
    let mut batch: Vec<Bytes> = Vec::new();
    let mut gathered = 0;
    let mut ended = false;
    loop {
        if let Some(work) = state.take() {
            if work.complete() {
                return Ok(work.finish());
            }
            if !batch.is_empty() {
                let pieces = std::mem::take(&mut batch);
                gathered = 0;
                job = Some(tokio::task::spawn_blocking(move || work.take(&pieces)));
            } else if ended {
                return work.end();
            } else {
                state = Some(work);
            }
        }
        tokio::select! {
            done = finished(&mut job) => {
                job = None;
                state = Some(done?);
            }
            piece = source.next(), if !ended && gathered < BATCH => match piece {
                Some(Ok(piece)) => {
                    gathered += piece.len();
                    batch.push(piece);
                }
                Some(Err(fault)) => return Err(fault),
                None => ended = true,
            }
        }
    }
}

async fn finished(job: &mut Option<JoinHandle<Result<Work, Fault>>>) -> Result<Work, Fault> {
    let Some(job) = job else {
        return std::future::pending().await;
    };
    job.await.unwrap_or_else(|error| {
        tracing::error!(%error, "spool thread");
        Err(Fault::new(
            Code::Internal,
            "spool",
            "the host could not store the upload",
        ))
    })
}

/// An input on its way, as it goes from thread to thread.
struct Work {
    shape: Shape,
    sink: Sink,
}

enum Shape {
    Plain { most: u64, given: u64 },
    Zstd(Box<Inflate>),
}

impl Work {
    fn new(form: Form, target: Target) -> Result<Self, Fault> {
        let shape = match form {
            Form::Plain { most } => Shape::Plain { most, given: 0 },
            Form::Zstd(bounds) => Shape::Zstd(Box::new(Inflate::new(bounds)?)),
        };
        let sink = match target {
            Target::Call(spool) => Sink::call(spool),
            Target::File(spool) => Sink::file(&spool)?,
            Target::Kept(claim) => Sink::kept(claim)?,
        };
        Ok(Self { shape, sink })
    }

    fn take(mut self, pieces: &[Bytes]) -> Result<Self, Fault> {
        match self.write(pieces) {
            Ok(()) => Ok(self),
            Err(fault) => {
                self.sink.discard();
                Err(fault)
            }
        }
    }

    fn write(&mut self, pieces: &[Bytes]) -> Result<(), Fault> {
        for piece in pieces {
            match &mut self.shape {
                Shape::Plain { most, given } => {
                    *given += piece.len() as u64;
                    if given > most {
                        return Err(Fault::new(
                            Code::ResourceExhausted,
                            "too_large",
                            format!("more than {most} bytes"),
                        ));
                    }
                    self.sink.write(piece)?;
                }
                Shape::Zstd(inflate) => inflate.feed(piece, |out| self.sink.write(out))?,
            }
        }
        Ok(())
    }

    fn complete(&self) -> bool {
        match &self.shape {
            Shape::Plain { .. } => false,
            Shape::Zstd(inflate) => inflate.complete(),
        }
    }

    fn end(self) -> Result<Stored, Fault> {
        if let Shape::Zstd(inflate) = &self.shape
            && let Err(fault) = inflate.end()
        {
            self.sink.discard();
            return Err(fault);
        }
        Ok(self.finish())
    }

    fn finish(self) -> Stored {
        let (content, claim) = self.sink.finish();
        Stored { content, claim }
    }
}
