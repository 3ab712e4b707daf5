//! Puts calls on a worker's link.

use std::fmt::Write;
use std::sync::{Arc, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Group;
use super::effects::Effects;
use super::job::{Boxed, Job, What};
use super::member::{Fate, Loading, Member, Running};
use super::stream::FIRST;
use crate::call::{Call, Code, Fault, Spooled};
use crate::frame::{Kind, PIECE};
use crate::message::{Parts, put_json_text};
use crate::worker::link::Link;

/// Puts a call. It is begun, or waits in the worker's socket (`ahead`).
///
/// # Errors
/// It can't be sent to this worker; the job is given back with why.
pub(super) fn call(
    group: &Weak<Group>,
    member: &mut Member,
    job: Box<Job>,
    ahead: bool,
    now: Instant,
    effects: &mut Effects,
) -> Result<(), (Box<Job>, Fault)> {
    let What::Call(call, facts) = &job.what else {
        return Ok(());
    };
    let parts = match Parts::of(call.kwargs.len(), &call.parts, member.files) {
        Ok(parts) => parts,
        Err(fault) => return Err((job, fault)),
    };
    let mut meta = BytesMut::with_capacity(64 + call.version.len() + parts.meta.len());
    meta.put_slice(b"{\"method\":");
    put_target(&mut meta, call);
    put_deadline(&mut meta, call, now);
    if facts.stream {
        let _ = write!(meta, ",\"credit\":{FIRST}");
    }
    meta.put_slice(parts.meta.as_bytes());
    meta.put_u8(b'}');
    {
        let mut out = member.link.out();
        if parts.inline.is_empty() && call.kwargs.len() <= PIECE / 64 {
            out.put(Kind::Call, job.ticket, &meta, &call.kwargs);
        } else {
            let mut data = Vec::with_capacity(1 + parts.inline.len());
            data.push(call.kwargs.clone());
            data.extend(parts.inline);
            out.put_message(Kind::Call, job.ticket, &meta, &data);
        }
    }
    let want = parts.stream.map(|file| {
        let (want, wanted) = mpsc::unbounded_channel();
        let (group, ticket) = (group.clone(), job.ticket);
        let sent = input(Arc::clone(&member.link), ticket, file, wanted);
        tokio::spawn(async move {
            if let Err(error) = sent.await {
                tracing::error!(%error, "an input cannot be read");
                let fault =
                    Fault::new(Code::Internal, "spool", "the host could not read the input");
                if let Some(group) = group.upgrade() {
                    group.end_running(ticket, fault);
                }
            }
        });
        want
    });
    effects.flush(&member.link);
    member.pool.enter(job.version());
    let doing = &mut member.state;
    doing.units += 1;
    doing.unstarted += usize::from(ahead);
    doing.running.push_back(Running {
        job,
        started: (!ahead).then_some(now),
        batch: None,
        fate: Fate::Wanted,
        items: None,
        credit: FIRST,
        want,
    });
    Ok(())
}

/// Puts several calls of one method as a batch.
pub(super) fn batch(
    member: &mut Member,
    ticket: u64,
    jobs: Vec<Boxed>,
    now: Instant,
    effects: &mut Effects,
) {
    let mut meta = BytesMut::with_capacity(64 + jobs.len() * 40);
    let mut data = Vec::with_capacity(jobs.len());
    meta.put_slice(b"{\"method\":");
    let mut first = true;
    for job in &jobs {
        let What::Call(call, _) = &job.what else {
            continue;
        };
        if first {
            put_target(&mut meta, call);
            meta.put_slice(b",\"calls\":[");
        } else {
            meta.put_u8(b',');
        }
        first = false;
        let _ = write!(
            meta,
            "{{\"call\":{},\"json\":{}",
            job.ticket,
            call.kwargs.len()
        );
        put_deadline(&mut meta, call, now);
        meta.put_u8(b'}');
        data.push(call.kwargs.clone());
    }
    meta.put_slice(b"]}");
    member.link.out().put_message(Kind::Batch, 0, &meta, &data);
    effects.flush(&member.link);
    member.state.units += 1;
    member.state.batches.push((ticket, jobs.len()));
    for job in jobs {
        member.pool.enter(job.version());
        member.state.running.push_back(Running {
            job,
            started: Some(now),
            batch: Some(ticket),
            fate: Fate::Wanted,
            items: None,
            credit: FIRST,
            want: None,
        });
    }
}

/// Tells a worker to load a version.
pub(super) fn load(
    member: &mut Member,
    ticket: u64,
    version: &str,
    now: Instant,
    effects: &mut Effects,
) {
    member
        .link
        .out()
        .put(Kind::Load, ticket, &version_meta(version), b"");
    effects.flush(&member.link);
    member.pool.begin(version);
    member.state.units += 1;
    member.state.loads.push(Loading {
        ticket,
        version: version.to_owned(),
        since: now,
    });
}

/// Tells a worker to let a version go.
pub(super) fn release(member: &Member, version: &str, effects: &mut Effects) {
    member
        .link
        .out()
        .put(Kind::Release, 0, &version_meta(version), b"");
    effects.flush(&member.link);
}

/// `{"version":…}`.
pub(crate) fn version_meta(version: &str) -> Bytes {
    let mut meta = BytesMut::new();
    meta.put_slice(b"{\"version\":");
    put_json_text(&mut meta, version);
    meta.put_u8(b'}');
    meta.freeze()
}

fn put_target(meta: &mut BytesMut, call: &Call) {
    put_json_text(meta, &call.method);
    if !call.version.is_empty() {
        meta.put_slice(b",\"version\":");
        put_json_text(meta, &call.version);
    }
}

fn put_deadline(meta: &mut BytesMut, call: &Call, now: Instant) {
    if let Some(deadline) = call.deadline {
        let left = deadline.saturating_duration_since(now).as_millis();
        let _ = write!(meta, ",\"deadline_ms\":{left}");
    }
}

/// Sends a file to a worker that does not see it, as fast as the worker wants it.
///
/// # Errors
/// It can't be read to its end; the worker waits for the rest.
async fn input(
    link: Arc<Link>,
    ticket: u64,
    file: Arc<dyn Spooled>,
    mut wanted: mpsc::UnboundedReceiver<u64>,
) -> std::io::Result<()> {
    let mut source = tokio::fs::File::open(file.path()).await?;
    let (mut left, mut credit) = (file.len(), 0_u64);
    loop {
        while credit == 0 {
            match wanted.recv().await {
                Some(bytes) => credit = credit.saturating_add(bytes),
                // The call has ended.
                None => return Ok(()),
            }
        }
        let mut piece =
            BytesMut::with_capacity(PIECE.min(usize::try_from(left.min(credit)).unwrap_or(PIECE)));
        let mut limited = (&mut source).take(left.min(credit).min(PIECE as u64));
        while limited.limit() > 0 {
            if limited.read_buf(&mut piece).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        left -= piece.len() as u64;
        credit -= (piece.len() as u64).min(credit);
        link.out()
            .put_piece(Kind::Data, ticket, left > 0, piece.freeze());
        link.flush();
        if left == 0 {
            return Ok(());
        }
    }
}
