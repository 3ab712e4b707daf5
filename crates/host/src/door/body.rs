//! The body of an answer, without a box where it is known whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

/// Why a body breaks off; the connection or stream is reset with it.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A frame of a body, or why there is no more.
pub(crate) type BodyFrame = Result<Frame<Bytes>, BodyError>;

/// A body.
#[derive(Debug)]
pub(crate) enum Body {
    /// Known whole.
    Whole {
        data: Bytes,
        trailers: Option<Box<HeaderMap>>,
    },
    /// Made by a task; ends when the task drops its side.
    Channel(mpsc::Receiver<BodyFrame>),
    /// Of a service that is not ours: health and reflection.
    Tonic(tonic::body::Body),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    pub(crate) fn whole(data: Bytes) -> Self {
        Self::Whole {
            data,
            trailers: None,
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole { data, trailers } => {
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))));
                }
                Poll::Ready(trailers.take().map(|t| Ok(Frame::trailers(*t))))
            }
            Self::Channel(receiver) => receiver.poll_recv(cx),
            Self::Tonic(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
            Self::Channel(_) => false,
            Self::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
            Self::Channel(_) => SizeHint::default(),
            Self::Tonic(body) => body.size_hint(),
        }
    }
}
