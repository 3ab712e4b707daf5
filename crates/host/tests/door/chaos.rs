//! `ai.AI/chaos`.

use std::sync::atomic::Ordering;

use futures_util::stream;
use serde_json::{Value as Json, json};
use tidegate_host::proto::ai::Raw;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::{Told, channel, chaos, messages, packed, raw, reason, told};
use crate::fake::{QUOTA, served, sum, until};

async fn called(channel: &Channel, name: &str, list: Vec<Raw>) -> Result<Told, Status> {
    told(
        chaos(channel, &[("x-func-name", name)], stream::iter(list))
            .await?
            .into_inner(),
    )
    .await
}

pub(crate) fn only(told: &Told) -> Json {
    assert_eq!(told.data.len(), 1, "{told:?}");
    serde_json::from_slice(&told.data[0]).unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
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

/// A stream that a test feeds, and that stays open until it is dropped.
pub(crate) fn fed(
    list: Vec<Raw>,
) -> (
    mpsc::UnboundedSender<Raw>,
    impl futures_util::Stream<Item = Raw> + Send + 'static,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    for message in list {
        sender.send(message).unwrap();
    }
    (sender, stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

#[tokio::test]
async fn an_input_of_megabytes_reaches_the_method_and_leaves_nothing() {
    let door = served();
    let channel = channel(&door.socket).await;
    let input = noise(20 << 20);
    let kwargs = format!(
        r#"{{"a": 1, "version": "v2", "_aipod_binary_size": {}}}"#,
        input.len()
    );
    let told = called(&channel, "read", messages(&kwargs, &input))
        .await
        .unwrap();
    let result = only(&told);
    assert_eq!(result["kwargs"], json!({"a": 1}));
    assert_eq!(result["version"], "v2");
    assert_eq!(
        result["parts"],
        json!([["", input.len(), sum(&input), null]])
    );
    assert_eq!(told.trailers.get("x-tidegate-result").unwrap(), "value");
    door.emptied().await;
}

#[tokio::test]
async fn chunks_may_be_frames_of_their_own_and_the_caller_need_not_end_its_side() {
    let door = served();
    let channel = channel(&door.socket).await;
    let input = noise(300_000);
    let mut list = vec![raw(packed(br#"{"_aipod_binary_size": 300000}"#))];
    list.extend(input.chunks(32 << 10).map(|piece| raw(packed(piece))));
    // A frame without content behind it harms nobody.
    list.push(raw(packed(b"")));
    let (open, list) = fed(list);
    let answers = chaos(&channel, &[("x-func-name", "read")], list)
        .await
        .unwrap();
    let told = told(answers.into_inner()).await.unwrap();
    assert_eq!(
        only(&told)["parts"],
        json!([["", input.len(), sum(&input), null]])
    );
    drop(open);
}

#[tokio::test]
async fn without_a_size_the_input_ends_with_the_caller_s_side() {
    let door = served();
    let channel = channel(&door.socket).await;
    let told = called(&channel, "read", messages("{}", b"abc"))
        .await
        .unwrap();
    assert_eq!(only(&told)["parts"], json!([["", 3, sum(b"abc"), null]]));
    let told = called(&channel, "train", messages("{}", b""))
        .await
        .unwrap();
    assert_eq!(only(&told)["parts"], json!([]));
}

#[tokio::test]
async fn heartbeats_come_from_the_beginning_to_the_end() {
    let door = served();
    let channel = channel(&door.socket).await;
    let (feed, list) = fed(vec![]);
    let mut answers = chaos(&channel, &[("x-func-name", "slow")], list)
        .await
        .unwrap()
        .into_inner();
    // Nothing was sent yet.
    for _ in 0..3 {
        assert_eq!(answers.message().await.unwrap().unwrap().data, "PONG");
    }
    feed.send(raw(packed(br#"{"_aipod_binary_size": 0}"#)))
        .unwrap();
    until(|| door.model.running.load(Ordering::SeqCst) == 1).await;
    for _ in 0..3 {
        assert_eq!(answers.message().await.unwrap().unwrap().data, "PONG");
    }
    door.model.release.notify_one();
    let told = told(answers).await.unwrap();
    assert_eq!(only(&told), json!("done"));
}

#[tokio::test]
async fn an_empty_result_is_null() {
    let door = served();
    let channel = channel(&door.socket).await;
    let told = called(&channel, "nothing", messages("{}", b""))
        .await
        .unwrap();
    assert_eq!(told.data, [b"null"]);
}

#[tokio::test]
async fn a_generator_gives_a_message_an_item_and_may_give_none() {
    let door = served();
    let channel = channel(&door.socket).await;
    let list = called(&channel, "items", messages(r#"{"count": 5}"#, b""))
        .await
        .unwrap();
    assert_eq!(list.data, [b"0", b"1", b"2", b"3", b"4"]);
    assert_eq!(list.trailers.get("x-tidegate-result").unwrap(), "items");
    let none = called(&channel, "items", messages(r#"{"count": 0}"#, b""))
        .await
        .unwrap();
    assert!(none.data.is_empty());
    assert_eq!(none.trailers.get("x-tidegate-result").unwrap(), "items");
}

#[tokio::test]
async fn errors_are_statuses_with_details_also_in_the_middle_of_items() {
    let door = served();
    let channel = channel(&door.socket).await;
    let status = called(&channel, "fail", messages("{}", b""))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Internal, "model_error")
    );
    assert!(String::from_utf8_lossy(status.details()).contains("KeyError"));

    let answers = chaos(
        &channel,
        &[("x-func-name", "fail_late")],
        stream::iter(messages("{}", b"")),
    )
    .await;
    let mut answers = answers.unwrap().into_inner();
    let item = loop {
        let message = answers.message().await.unwrap().unwrap();
        if message.data != "PONG" {
            break message;
        }
    };
    assert_eq!(zstd::decode_all(&item.data[..]).unwrap(), b"0");
    let status = loop {
        match answers.message().await {
            Ok(Some(message)) => assert_eq!(message.data, "PONG"),
            Ok(None) => panic!("ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status), "model_error");
}

#[tokio::test]
async fn what_can_be_refused_from_the_head_is_refused_before_anything_is_sent() {
    let door = served();
    let channel = channel(&door.socket).await;
    for (name, code) in [
        ("_private", Code::Unimplemented),
        ("__init__", Code::Unimplemented),
        ("no_such", Code::Unimplemented),
        ("", Code::InvalidArgument),
    ] {
        let answers = chaos(&channel, &[("x-func-name", name)], stream::pending()).await;
        assert_eq!(answers.unwrap_err().code(), code, "{name}");
    }
    let status = chaos(&channel, &[], stream::pending()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // Without a worker of its own: the group's to run, or to have wait.
    door.model.ready.send_replace(false);
    let answers = chaos(&channel, &[("x-func-name", "read")], stream::pending()).await;
    assert!(answers.is_ok());
    // Nothing is known of the model yet.
    door.model.blank.store(true, Ordering::SeqCst);
    let status = chaos(&channel, &[("x-func-name", "read")], stream::pending())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unavailable, "not_ready")
    );
}

#[tokio::test]
async fn bad_input_has_a_precise_status_and_leaves_nothing() {
    let door = served();
    let channel = channel(&door.socket).await;
    let input = noise(1 << 20);
    let good = messages(r#"{"_aipod_binary_size": 1048576}"#, &input);
    let first = |text: &str| vec![raw(packed(text.as_bytes()))];
    let mut truncated = good.clone();
    truncated.pop();
    let mut corrupt = good.clone();
    corrupt[5] = raw(vec![0xff; 32 << 10]);
    let with = |size: usize| {
        let mut list = good.clone();
        list[0] = raw(packed(
            format!(r#"{{"_aipod_binary_size": {size}}}"#).as_bytes(),
        ));
        list
    };
    let mut bomb = first(r#"{"_aipod_binary_size": 1000000000}"#);
    let zeros = vec![0; 100 << 20];
    bomb.extend(packed(&zeros).chunks(1000).map(|piece| raw(piece.to_vec())));
    let no_size = |mut list: Vec<Raw>| {
        list[0] = raw(packed(b"{}"));
        list
    };
    let strange = vec![raw([&b"\x28\xb5\x2f\xfd"[..], &[0xff; 20]].concat())];
    for (what, list, code, word) in [
        ("no message", vec![], Code::InvalidArgument, "bad_arguments"),
        (
            "no zstd",
            vec![raw(&b"{}"[..])],
            Code::InvalidArgument,
            "bad_zstd",
        ),
        ("bad zstd", strange, Code::InvalidArgument, "bad_zstd"),
        (
            "no object",
            first("[1]"),
            Code::InvalidArgument,
            "bad_arguments",
        ),
        (
            "reserved",
            first(r#"{"_aipod_x": 1}"#),
            Code::InvalidArgument,
            "reserved_argument",
        ),
        (
            "bad size",
            first(r#"{"_aipod_binary_size": 1.5}"#),
            Code::InvalidArgument,
            "bad_arguments",
        ),
        ("truncated", truncated, Code::InvalidArgument, "truncated"),
        ("corrupt", corrupt, Code::InvalidArgument, "bad_zstd"),
        (
            "fewer than announced",
            with((1 << 20) + 1),
            Code::InvalidArgument,
            "truncated",
        ),
        (
            "more than announced",
            with(1 << 19),
            Code::InvalidArgument,
            "size_mismatch",
        ),
        (
            "beyond the quota",
            with(QUOTA as usize + 1),
            Code::ResourceExhausted,
            "upload_quota",
        ),
        (
            "a bomb beyond the quota",
            no_size(bomb),
            Code::ResourceExhausted,
            "upload_quota",
        ),
    ] {
        let status = called(&channel, "read", list).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status)),
            (code, word),
            "{what}: {status:?}"
        );
        door.emptied().await;
    }
    let status = called(
        &channel,
        "strict",
        messages(r#"{"_aipod_binary_size": 1}"#, b"a"),
    )
    .await
    .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::InvalidArgument, "bad_arguments")
    );
    assert_eq!(door.model.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn more_content_behind_a_whole_input_ends_the_call() {
    let door = served();
    let channel = channel(&door.socket).await;
    let (feed, list) = fed(messages(r#"{"_aipod_binary_size": 0}"#, b""));
    let answers = chaos(&channel, &[("x-func-name", "hang")], list)
        .await
        .unwrap();
    until(|| door.model.running.load(Ordering::SeqCst) == 1).await;
    feed.send(raw(packed(b"d"))).unwrap();
    let status = told(answers.into_inner()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::InvalidArgument, "size_mismatch")
    );
    until(|| door.model.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_caller_that_leaves_frees_the_model_and_the_disk() {
    let door = served();
    let channel = channel(&door.socket).await;
    let input = noise(2 << 20);
    // In the middle of the upload.
    let mut list = messages(r#"{"_aipod_binary_size": 2097152}"#, &input);
    list.pop();
    let (feed, list) = fed(list);
    let answers = chaos(&channel, &[("x-func-name", "read")], list)
        .await
        .unwrap();
    until(|| door.spool.used() > 1 << 20).await;
    drop(answers);
    drop(feed);
    door.emptied().await;
    // While the model works.
    let list = stream::iter(messages(
        r#"{"_aipod_binary_size": 2097152, "hang": 1}"#,
        &input,
    ));
    let answers = chaos(&channel, &[("x-func-name", "predict")], list)
        .await
        .unwrap();
    until(|| door.model.running.load(Ordering::SeqCst) == 1).await;
    drop(answers);
    until(|| door.model.cancelled.load(Ordering::SeqCst) == 1).await;
    door.emptied().await;
}

#[tokio::test]
async fn a_deadline_covers_the_upload_too() {
    let door = served();
    let channel = channel(&door.socket).await;
    let (_feed, list) = fed(messages(r#"{"_aipod_binary_size": 5}"#, b""));
    let answers = chaos(
        &channel,
        &[("x-func-name", "read"), ("grpc-timeout", "30m")],
        list,
    )
    .await
    .unwrap();
    let status = told(answers.into_inner()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::DeadlineExceeded, "deadline")
    );
}

#[tokio::test]
async fn a_large_result_goes_as_bytes_and_is_never_made_json_in_memory() {
    let door = served();
    let channel = channel(&door.socket).await;
    let metadata = [("x-func-name", "huge"), ("x-tidegate-parts", "1")];
    let answers = chaos(&channel, &metadata, stream::iter(messages("{}", b"")))
        .await
        .unwrap();
    let list = told(answers.into_inner()).await.unwrap().data;
    let len: usize = list[1..].iter().map(|piece| piece.len()).sum();
    assert_eq!(len as u64, crate::fake::MESSAGE + 1);
    let status = called(&channel, "huge", messages("{}", b""))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::ResourceExhausted, "result_too_large")
    );
}

#[tokio::test]
async fn parts_come_as_bytes_to_a_caller_that_understands_them() {
    let door = served();
    let channel = channel(&door.socket).await;
    let metadata = [("x-func-name", "tensor"), ("x-tidegate-parts", "1")];
    let answers = chaos(&channel, &metadata, stream::iter(messages("{}", b"")))
        .await
        .unwrap();
    let list = told(answers.into_inner()).await.unwrap().data;
    let head: Json = serde_json::from_slice(&list[0]).unwrap();
    assert_eq!(
        head,
        json!({"_aipod_value": {"n": 1}, "_aipod_parts": [
            {"name": "y", "size": 8, "datatype": "FP32", "shape": [2, 1]}, {"name": "b", "size": 2}]})
    );
    assert_eq!(list[1], [1.5f32, 2.5].map(f32::to_le_bytes).concat());
    assert_eq!(list[2], b"ab");
    let plain = called(&channel, "tensor", messages("{}", b""))
        .await
        .unwrap();
    assert_eq!(
        only(&plain),
        json!({"n": 1, "y": [[1.5], [2.5]], "b": "YWI="})
    );
    let bytes = called(&channel, "bytes", messages("{}", b""))
        .await
        .unwrap();
    assert_eq!(only(&bytes), json!("AAFieXRlcw=="));
}

#[tokio::test]
async fn who_asks_for_it_is_told_how_far_the_call_is_and_nobody_else() {
    let door = served();
    let channel = channel(&door.socket).await;
    for (name, asked, steps) in [
        ("steps", true, vec![0.5, 1.0]),
        ("item_steps", true, vec![0.1, 0.5, 0.5]),
        ("steps", false, vec![]),
    ] {
        let mut metadata = vec![("x-func-name", name)];
        if asked {
            metadata.push(("x-tidegate-progress", "1"));
        }
        let list = stream::iter(messages("{}", b""));
        let mut answers = chaos(&channel, &metadata, list).await.unwrap().into_inner();
        let (mut seen, mut data) = (Vec::new(), 0);
        while let Some(raw) = answers.message().await.unwrap() {
            if raw.data == "PONG" {
                continue;
            }
            if raw.progress.is_empty() {
                data += 1;
            } else {
                assert!(raw.data.is_empty());
                let told: Json = serde_json::from_slice(&raw.progress).unwrap();
                seen.push(told["progress"].as_f64().unwrap());
                assert!(name == "item_steps" || data == 0, "behind the result");
            }
        }
        assert_eq!((seen, data), (steps, 1 + usize::from(name == "item_steps")));
    }
}
