//! Behaviour of the spool: bounded, precise in its refusals, and empty afterwards.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use futures_util::stream;
use proptest::prelude::*;

use super::file::CallFile;
use super::sink::Sink;
use super::*;
use crate::Content;

const BOUNDS: InflateBounds = InflateBounds {
    most: u64::MAX,
    exact: false,
    ratio: 1000,
};

const MIB: u64 = 1 << 20;

fn spool(quota: u64) -> (tempfile::TempDir, Arc<Spool>) {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits {
        quota,
        resume: Duration::from_secs(3600),
    };
    let spool = Spool::open(folder.path(), limits).unwrap();
    (folder, spool)
}

fn files(folder: &tempfile::TempDir) -> Vec<String> {
    fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn exact(size: usize) -> Form {
    Form::Zstd(InflateBounds {
        most: size as u64,
        exact: true,
        ratio: 1000,
    })
}

fn pieces(data: &[u8], len: usize) -> Vec<Result<Bytes, Fault>> {
    data.chunks(len)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect()
}

async fn stored(
    spool: &Arc<Spool>,
    data: Vec<Result<Bytes, Fault>>,
    form: Form,
) -> Result<Stored, Fault> {
    store(&mut stream::iter(data), form, Target::Call(spool.clone())).await
}

fn read(content: &Content) -> Vec<u8> {
    match content {
        Content::Inline(bytes) => bytes.to_vec(),
        Content::File(file) => fs::read(file.path()).unwrap(),
    }
}

/// Waits until the threads that write have let go of everything.
async fn emptied(folder: &tempfile::TempDir, spool: &Spool) {
    while !files(folder).is_empty() || spool.used() != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_small_input_stays_in_memory_and_a_large_one_is_one_file_until_it_is_dropped() {
    let (folder, spool) = spool(100 * MIB);
    let small = stored(&spool, pieces(b"abc", 2), Form::Plain { most: MIB })
        .await
        .unwrap();
    assert!(matches!(&small.content, Content::Inline(bytes) if &bytes[..] == b"abc"));
    assert!(files(&folder).is_empty());

    let data = noise(3 << 20);
    let packed = zstd::encode_all(&data[..], 3).unwrap();
    let large = stored(&spool, pieces(&packed, 32 << 10), exact(data.len()))
        .await
        .unwrap();
    assert_eq!(files(&folder).len(), 1);
    assert_eq!(spool.used(), data.len() as u64);
    assert!(read(&large.content) == data);
    let again = large.content.clone();
    drop(large);
    assert_eq!(files(&folder).len(), 1);
    drop(again);
    emptied(&folder, &spool).await;
}

#[tokio::test]
async fn an_input_ends_where_its_size_says_though_the_stream_stays_open() {
    use futures_util::StreamExt;
    let (_folder, spool) = spool(100 * MIB);
    let packed = zstd::encode_all(&noise(1000)[..], 3).unwrap();
    let mut source = stream::iter(pieces(&packed, 100)).chain(stream::pending());
    let input = store(&mut source, exact(1000), Target::Call(spool))
        .await
        .unwrap();
    assert_eq!(read(&input.content), noise(1000));
}

#[tokio::test]
async fn every_failure_leaves_nothing_behind() {
    let (folder, spool) = spool(4 * MIB);
    let data = noise(3 << 20);
    let packed = zstd::encode_all(&data[..], 3).unwrap();
    let plain = |most| Form::Plain { most };
    let zstd = exact(data.len());
    let cut = |end: usize| pieces(&packed[..end], 50_000);
    let mut flipped = packed.clone();
    for byte in &mut flipped[1 << 20..(1 << 20) + 64] {
        *byte = !*byte;
    }
    let mut broken = cut(2 << 20);
    broken.push(Err(Fault::new(Code::Cancelled, "cancelled", "gone")));
    let twice = [&data[..], &data[..]].concat();
    for (what, input, form, reason) in [
        ("truncated", cut(packed.len() - 1), zstd, "truncated"),
        ("nothing", Vec::new(), zstd, "truncated"),
        (
            "too short",
            pieces(&packed, 9999),
            exact(data.len() + 1),
            "truncated",
        ),
        (
            "too long",
            pieces(&packed, 9999),
            exact(data.len() - 1),
            "size_mismatch",
        ),
        ("no zstd", pieces(&data, 9999), zstd, "bad_zstd"),
        (
            "flipped bytes",
            pieces(&flipped, 9999),
            exact(1 << 30),
            "bad_zstd",
        ),
        (
            "too large",
            pieces(&data, 9999),
            plain(2 * MIB),
            "too_large",
        ),
        (
            "beyond the quota",
            pieces(&twice, 65_536),
            plain(u64::MAX),
            "upload_quota",
        ),
        ("broken off", broken, zstd, "cancelled"),
    ] {
        let fault = stored(&spool, input, form).await.unwrap_err();
        // Noise is stored as it is, so that flipped bytes may also show as a wrong size.
        assert!(
            fault.reason == reason || (what == "flipped bytes" && fault.reason == "truncated"),
            "{what}: {fault:?}"
        );
        emptied(&folder, &spool).await;
    }
}

#[tokio::test]
async fn an_input_that_nobody_waits_for_any_longer_leaves_nothing_behind() {
    use futures_util::StreamExt;
    let (folder, spool) = spool(100 * MIB);
    let mut source = stream::iter(pieces(&noise(2 << 20), 65_536)).chain(stream::pending());
    {
        let input = store(
            &mut source,
            Form::Plain { most: u64::MAX },
            Target::Call(spool.clone()),
        );
        tokio::pin!(input);
        while spool.used() < 2 * MIB {
            tokio::select! {
                biased;
                _ = &mut input => panic!("the source never ends"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(files(&folder).len(), 1);
    }
    emptied(&folder, &spool).await;
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_nothing() {
    let (folder, spool) = spool(100 * MIB);
    let (call, _) = CallFile::create(&spool).unwrap();
    let file = File::options().write(true).open("/dev/full").unwrap();
    let mut sink = Sink::Call { file, call };
    let fault = sink.write(&noise(1000)).unwrap_err();
    assert_eq!(
        (fault.code, fault.reason),
        (Code::ResourceExhausted, "disk_full")
    );
    drop(sink);
    assert!(files(&folder).is_empty());
    assert_eq!(spool.used(), 0);
}

#[tokio::test]
async fn a_folder_that_is_gone_is_the_host_s_fault() {
    let (folder, spool) = spool(100 * MIB);
    fs::remove_dir(folder.path()).unwrap();
    let fault = stored(
        &spool,
        pieces(&noise(1 << 20), 9999),
        Form::Plain { most: MIB },
    )
    .await
    .unwrap_err();
    assert_eq!((fault.code, fault.reason), (Code::Internal, "spool"));
}

#[test]
fn a_bomb_is_refused_early() {
    let mut packed = Vec::new();
    let mut encoder = zstd::Encoder::new(&mut packed, 3).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..256 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap();
    let mut inflate = Inflate::new(BOUNDS).unwrap();
    let mut given = 0;
    let fault = packed
        .chunks(1000)
        .try_for_each(|piece| {
            inflate.feed(piece, |out| {
                given += out.len() as u64;
                Ok(())
            })
        })
        .unwrap_err();
    assert_eq!((fault.code, fault.reason), (Code::InvalidArgument, "ratio"));
    // 64 MiB are free, then 1000 bytes for each that came.
    assert!(given < 100 * MIB, "{given}");
}

#[test]
fn a_frame_that_wants_a_large_window_is_refused() {
    let mut packed = Vec::new();
    let mut encoder = zstd::Encoder::new(&mut packed, 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&noise(20 << 20)).unwrap();
    encoder.finish().unwrap();
    let fault = inflate_whole(&packed, u64::MAX, 1000).unwrap_err();
    assert_eq!(fault.reason, "bad_zstd");
    assert!(fault.message.contains("8 MiB"), "{}", fault.message);
}

#[test]
fn what_an_earlier_process_left_is_removed_when_a_spool_opens() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["1-2.call", "lost-upload.part"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    fs::write(folder.path().join("foreign"), "x").unwrap();
    let limits = SpoolLimits {
        quota: 1,
        resume: Duration::from_secs(1),
    };
    Spool::open(folder.path(), limits).unwrap();
    assert_eq!(files(&folder), ["foreign"]);
}

const ID: &str = "upload-1";
const TOKEN: &str = "0123456789abcdef";

/// Sends what a connection of so many bytes would bring before it breaks.
async fn interrupted(spool: &Arc<Spool>, data: &[u8], from: usize, to: usize) {
    use futures_util::StreamExt;
    let claim = spool
        .claim(ID, TOKEN, data.len() as u64, from as u64)
        .await
        .unwrap();
    let packed = zstd::encode_all(&data[from..to], 3).unwrap();
    let gone = Err(Fault::new(Code::Cancelled, "cancelled", "gone"));
    // The break comes when all before it was written: what is on its way then may be lost.
    let mut source = Box::pin(
        stream::iter(pieces(&packed, 10_000)).chain(stream::once(async {
            while spool.status(ID, TOKEN).unwrap().offset < to as u64 {
                tokio::task::yield_now().await;
            }
            gone
        })),
    );
    let form = exact(data.len() - from);
    let fault = store(&mut source, form, Target::Kept(claim))
        .await
        .unwrap_err();
    assert_eq!(fault.reason, "cancelled");
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_even_in_another_process() {
    let (folder, first) = spool(100 * MIB);
    let data = noise(2 << 20);
    interrupted(&first, &data, 0, 700_000).await;
    assert_eq!(first.status(ID, TOKEN).unwrap().offset, 700_000);
    assert_eq!(first.used(), 700_000);

    drop(first);
    let limits = SpoolLimits {
        quota: 100 * MIB,
        resume: Duration::from_secs(3600),
    };
    let second = Spool::open(folder.path(), limits).unwrap();
    let status = second.status(ID, TOKEN).unwrap();
    assert_eq!((status.offset, status.size), (700_000, 2 << 20));
    assert_eq!(second.used(), 700_000);
    // From a little before: the host cuts.
    interrupted(&second, &data, 600_000, 1_500_000).await;

    let claim = second
        .claim(ID, TOKEN, data.len() as u64, 1_500_000)
        .await
        .unwrap();
    let packed = zstd::encode_all(&data[1_500_000..], 3).unwrap();
    let form = exact(data.len() - 1_500_000);
    let mut source = stream::iter(pieces(&packed, 10_000));
    let input = store(&mut source, form, Target::Kept(claim)).await.unwrap();
    assert!(read(&input.content) == data);
    input.claim.unwrap().done();
    assert!(files(&folder).is_empty());
    assert_eq!(second.used(), 0);
    assert_eq!(
        second.status(ID, TOKEN).unwrap_err().reason,
        "upload_unknown"
    );
}

#[tokio::test]
async fn an_upload_belongs_to_its_token_and_to_one_call_at_a_time() {
    let (_folder, spool) = spool(100 * MIB);
    let data = noise(1000);
    interrupted(&spool, &data, 0, 500).await;
    let reason = |result: Result<Claim, Fault>| result.unwrap_err().reason;
    let other = "another token 123".replace(' ', "-");
    assert_eq!(
        reason(spool.claim(ID, &other, 1000, 500).await),
        "upload_token"
    );
    assert_eq!(spool.status(ID, &other).unwrap_err().reason, "upload_token");
    assert_eq!(spool.remove(ID, &other).unwrap_err().reason, "upload_token");
    assert_eq!(
        reason(spool.claim(ID, TOKEN, 999, 500).await),
        "size_mismatch"
    );
    assert_eq!(
        reason(spool.claim(ID, TOKEN, 1000, 501).await),
        "upload_offset"
    );
    assert_eq!(
        reason(spool.claim("upload-2", TOKEN, 1000, 1).await),
        "upload_unknown"
    );
    for id in ["short", "../../etc/passwd", ".hidden-file", "a/b/c/d/e/f"] {
        assert_eq!(
            reason(spool.claim(id, TOKEN, 1, 0).await),
            "bad_request",
            "{id}"
        );
    }
    assert_eq!(
        reason(spool.claim(ID, "short", 1000, 0).await),
        "bad_request"
    );

    let held = spool.claim(ID, TOKEN, 1000, 500).await.unwrap();
    assert_eq!(spool.remove(ID, TOKEN).unwrap_err().reason, "upload_busy");
    let taken = held.taken();
    let (next, ()) = tokio::join!(spool.claim(ID, TOKEN, 1000, 500), async {
        taken.await;
        drop(held);
    });
    drop(next.unwrap());
    spool.remove(ID, TOKEN).unwrap();
    assert_eq!(spool.used(), 0);
}

#[tokio::test]
async fn uploads_go_when_their_time_is_over_or_when_nothing_of_them_came() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits {
        quota: MIB,
        resume: Duration::ZERO,
    };
    let spool = Spool::open(folder.path(), limits).unwrap();
    let claim = spool.claim(ID, TOKEN, 1000, 0).await.unwrap();
    assert_eq!(spool.sweep(), 0, "a call has it");
    drop(claim);
    assert!(files(&folder).is_empty());

    let claim = spool.claim(ID, TOKEN, 1000, 0).await.unwrap();
    let mut sink = Sink::kept(claim).unwrap();
    sink.write(b"some").unwrap();
    drop(sink);
    assert_eq!(files(&folder).len(), 2);
    assert_eq!(spool.sweep(), 1);
    assert!(files(&folder).is_empty());
    assert_eq!(spool.used(), 0);
}

#[tokio::test]
async fn corrupt_bytes_end_an_upload_for_good() {
    let (folder, spool) = spool(100 * MIB);
    let claim = spool.claim(ID, TOKEN, 1000, 0).await.unwrap();
    let mut source = stream::iter(pieces(&noise(1000), 100));
    let fault = store(&mut source, exact(1000), Target::Kept(claim))
        .await
        .unwrap_err();
    assert_eq!(fault.reason, "bad_zstd");
    assert!(files(&folder).is_empty());
}

proptest! {
    #[test]
    fn frames_come_back_however_they_are_cut(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 1..5),
        cut in 1usize..300,
        level in 1i32..6,
    ) {
        let packed: Vec<u8> = parts
            .iter()
            .flat_map(|part| zstd::encode_all(&part[..], level).unwrap())
            .collect();
        let data = parts.concat();
        let bounds = InflateBounds { most: data.len() as u64, exact: true, ratio: 1000 };
        let mut inflate = Inflate::new(bounds).unwrap();
        let mut back = Vec::new();
        for piece in packed.chunks(cut) {
            inflate.feed(piece, |out| { back.extend_from_slice(out); Ok(()) }).unwrap();
        }
        prop_assert!(inflate.complete());
        prop_assert!(inflate.end().is_ok());
        prop_assert_eq!(back, data);
    }

    #[test]
    fn a_cut_stream_is_never_taken_for_a_whole_one(data in proptest::collection::vec(any::<u8>(), 1..3000), cut in 0usize..3000) {
        let packed = zstd::encode_all(&data[..], 3).unwrap();
        let cut = cut % packed.len();
        let bounds = InflateBounds { most: data.len() as u64, exact: true, ratio: 1000 };
        let mut inflate = Inflate::new(bounds).unwrap();
        inflate.feed(&packed[..cut], |_| Ok(())).unwrap();
        prop_assert!(!inflate.complete());
        prop_assert_eq!(inflate.end().unwrap_err().reason, "truncated");
    }

    #[test]
    fn any_bytes_are_refused_without_harm(garbage in proptest::collection::vec(any::<u8>(), 1..2000), magic in any::<bool>()) {
        let mut bytes = garbage;
        if magic {
            bytes.splice(0..0, [0x28, 0xb5, 0x2f, 0xfd]);
        }
        let bounds = InflateBounds { most: 1 << 20, exact: false, ratio: 10 };
        let mut inflate = Inflate::new(bounds).unwrap();
        let mut given = 0u64;
        let _ = inflate.feed(&bytes, |out| { given += out.len() as u64; Ok(()) });
        prop_assert!(given <= 1 << 20);
    }
}

#[tokio::test]
async fn two_processes_share_what_may_be_resumed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, calls) = (folder.path().join("kept"), folder.path().join("calls"));
    let limits = SpoolLimits {
        quota: 100 * MIB,
        resume: Duration::from_secs(3600),
    };
    let opened = |name: &str| Spool::open_beside(&shared, &calls.join(name), limits).unwrap();
    let first = opened("1");
    let data = noise(1 << 20);
    interrupted(&first, &data, 0, 300_000).await;
    // The next one begins while the first still has calls.
    let (_call, file) = CallFile::create(&first).unwrap();
    let second = opened("2");
    assert!(file.metadata().unwrap().is_file() && calls.join("1").read_dir().unwrap().count() == 1);
    assert_eq!(second.status(ID, TOKEN).unwrap().offset, 300_000);
    let stranger = "fedcba9876543210";
    assert_eq!(
        second.status(ID, stranger).unwrap_err().reason,
        "upload_token"
    );
    interrupted(&second, &data, 300_000, 600_000).await;
    // What the one got further, the other knows, either way.
    assert_eq!(first.status(ID, TOKEN).unwrap().offset, 600_000);
    assert_eq!((first.used(), second.used()), (600_000, 600_000));

    // Only one of them has it at a time.
    let held = first
        .claim(ID, TOKEN, data.len() as u64, 600_000)
        .await
        .unwrap();
    assert_eq!(second.remove(ID, TOKEN).unwrap_err().reason, "upload_busy");
    let (next, ()) = tokio::join!(second.claim(ID, TOKEN, data.len() as u64, 600_000), async {
        tokio::task::yield_now().await;
        drop(held);
    });
    next.unwrap().done();
    assert!(shared.read_dir().unwrap().next().is_none());
    assert_eq!(
        first.status(ID, TOKEN).unwrap_err().reason,
        "upload_unknown"
    );
    assert_eq!((first.used(), second.used()), (0, 0));

    // One that began after the other had opened the folder is found there, too.
    interrupted(&first, &data, 0, 10_000).await;
    assert_eq!(second.status(ID, TOKEN).unwrap().offset, 10_000);
    // And what the one ends is nothing to the other: not its time, not its room.
    first.remove(ID, TOKEN).unwrap();
    interrupted(&first, &data, 0, 20_000).await;
    assert_eq!((second.sweep(), second.used()), (0, 20_000));
    first.remove(ID, TOKEN).unwrap();
    assert_eq!((second.sweep(), second.used()), (1, 0));
}
