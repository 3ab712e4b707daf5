//! One end of a conversation between two Tidegate processes.
//!
//! A message is one line of JSON, so that a person can read it with any tool. A line that says `"fd":true` owns one
//! descriptor, sent as `SCM_RIGHTS` together with the line's first byte. Linux never merges two descriptors into one
//! read, so descriptors arrive in the order of their lines and a queue pairs them again.
//!
//! Everything here is blocking or polls once: the supervisor has no runtime, and the gateway role reads its control
//! socket on a thread of its own.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line taken, in bytes. The longest real one is a hello with the config's paths.
const LINE_LIMIT: usize = 1 << 20;

/// How long a write may wait for a peer that does not read. Lines are small and the socket's buffer holds hundreds
/// of them, so this only ever passes when the peer is stopped; the supervisor must not hang with it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a message could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The socket failed; the peer is as good as gone.
    #[error("control socket: {0}")]
    Socket(#[from] io::Error),
    /// A line that this build does not know: the peer is another version. The conversation can go on.
    #[error("control message not understood: {source} in {line}")]
    Unknown {
        /// The line, shortened.
        line: String,
        /// What was wrong with it.
        source: serde_json::Error,
    },
    /// A line above the limit, or descriptors that do not fit their lines: the conversation cannot go on.
    #[error("control socket: {0}")]
    Framing(&'static str),
}

/// What a read brought.
#[derive(Debug)]
pub(crate) enum Received<M> {
    /// A message, with its descriptor if it carries one.
    Message(M, Option<OwnedFd>),
    /// Nothing now: nothing waits ([`Wait::No`]), or the read timeout passed.
    Nothing,
    /// The peer closed its end or died.
    Closed,
}

/// Whether a read may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until a message, the end, or the timeout of [`Channel::set_read_timeout`].
    Yes,
    /// Not at all.
    No,
}

#[derive(Serialize)]
struct LineOut<'a, M> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fd: bool,
    message: &'a M,
}

#[derive(Deserialize)]
struct LineIn<M> {
    message: M,
}

/// Only the part of a line that says whether it owns a descriptor, so that one is never left over from a line that
/// this build does not understand.
#[derive(Deserialize)]
struct LineMark {
    #[serde(default)]
    fd: bool,
}

/// One end of a control conversation.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: UnixStream,
    unread: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    /// Takes a connected stream socket.
    ///
    /// # Errors
    /// When the descriptor is not a socket.
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self {
            socket,
            unread: Vec::new(),
            descriptors: VecDeque::new(),
        })
    }

    /// Two connected ends.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(crate) fn pair() -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self::new(ours)?, theirs))
    }

    /// A second handle to the same end, for a thread that only sends.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(crate) fn sender(&self) -> io::Result<Self> {
        Self::new(self.socket.try_clone()?)
    }

    /// Bounds how long [`Wait::Yes`] waits; `None` is for ever.
    ///
    /// # Errors
    /// Never for a positive duration.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// Sends one message, with a descriptor if given (the receiver gets a duplicate).
    ///
    /// # Errors
    /// [`ChannelError::Socket`] when the peer is gone or does not read.
    pub(crate) fn send<M: Serialize>(
        &self,
        message: &M,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), ChannelError> {
        let mut line = serde_json::to_vec(&LineOut {
            fd: fd.is_some(),
            message,
        })
        .map_err(io::Error::from)?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        let attached = fd.as_ref().map(std::slice::from_ref);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(fds) = attached {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        while !rest.is_empty() {
            match rustix::net::sendmsg(
                &self.socket,
                &[IoSlice::new(rest)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    ancillary.clear();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        Ok(())
    }

    /// Reads one message.
    ///
    /// # Errors
    /// After [`ChannelError::Unknown`] the next read goes on with the next line; the others are final.
    pub(crate) fn receive<M: DeserializeOwned>(
        &mut self,
        wait: Wait,
    ) -> Result<Received<M>, ChannelError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return self.parse(&line);
            }
            if self.unread.len() > LINE_LIMIT {
                return Err(ChannelError::Framing("line too long"));
            }
            match self.read_more(wait) {
                Ok(0) => return Ok(Received::Closed),
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }

    fn read_more(&mut self, wait: Wait) -> rustix::io::Result<usize> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = match wait {
            Wait::Yes => RecvFlags::CMSG_CLOEXEC,
            Wait::No => RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        };
        let answer = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            flags,
        )?;
        if answer.flags.contains(ReturnFlags::CTRUNC) {
            // Out of descriptors: what was lost cannot be asked for again, so the conversation ends.
            return Err(rustix::io::Errno::MFILE);
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.descriptors.extend(fds);
            }
        }
        self.unread.extend_from_slice(&bytes[..answer.bytes]);
        Ok(answer.bytes)
    }

    fn parse<M: DeserializeOwned>(&mut self, line: &[u8]) -> Result<Received<M>, ChannelError> {
        let unknown = |source| {
            let text = String::from_utf8_lossy(line);
            ChannelError::Unknown {
                line: text.chars().take(120).collect(),
                source,
            }
        };
        let mark: LineMark = serde_json::from_slice(line).map_err(unknown)?;
        let fd = if mark.fd {
            Some(
                self.descriptors
                    .pop_front()
                    .ok_or(ChannelError::Framing("a descriptor is missing"))?,
            )
        } else {
            None
        };
        let line: LineIn<M> = serde_json::from_slice(line).map_err(unknown)?;
        Ok(Received::Message(line.message, fd))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    fn ends() -> (Channel, Channel) {
        let (left, right) = Channel::pair().unwrap();
        (left, Channel::new(right).unwrap())
    }

    fn file_with(text: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.into()
    }

    fn text_of(fd: OwnedFd) -> String {
        let mut file = std::fs::File::from(fd);
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn descriptors_arrive_with_the_lines_that_own_them() {
        let (left, mut right) = ends();
        for turn in 0..40 {
            let fd = (turn % 3 != 0).then(|| file_with(&turn.to_string()));
            left.send(&turn, fd.as_ref().map(AsFd::as_fd)).unwrap();
        }
        for turn in 0..40 {
            match right.receive::<u32>(Wait::No).unwrap() {
                Received::Message(got, fd) => {
                    assert_eq!(got, turn);
                    assert_eq!(fd.map(text_of), (turn % 3 != 0).then(|| turn.to_string()));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            right.receive::<u32>(Wait::No).unwrap(),
            Received::Nothing
        ));
    }

    #[test]
    fn a_line_of_another_version_costs_neither_the_conversation_nor_a_descriptor() {
        let (left, mut right) = ends();
        left.send(&"of a later version", Some(file_with("lost").as_fd()))
            .unwrap();
        left.send(&7_u32, Some(file_with("kept").as_fd())).unwrap();
        assert!(matches!(
            right.receive::<u32>(Wait::No),
            Err(ChannelError::Unknown { .. })
        ));
        match right.receive::<u32>(Wait::No).unwrap() {
            Received::Message(7, Some(fd)) => assert_eq!(text_of(fd), "kept"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_that_dies_is_seen_after_its_last_message() {
        let (left, mut right) = ends();
        left.send(&1_u32, None).unwrap();
        drop(left);
        assert!(matches!(
            right.receive::<u32>(Wait::Yes).unwrap(),
            Received::Message(1, None)
        ));
        assert!(matches!(
            right.receive::<u32>(Wait::Yes).unwrap(),
            Received::Closed
        ));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let (left, mut right) = ends();
        let writer = std::thread::spawn(move || left.send(&"x".repeat(2 * LINE_LIMIT), None));
        assert!(matches!(
            right.receive::<String>(Wait::Yes),
            Err(ChannelError::Framing(_))
        ));
        drop(right);
        assert!(writer.join().unwrap().is_err());
    }
}
