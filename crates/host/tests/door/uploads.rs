//! Uploads that go on where they broke.

use futures_util::stream;
use serde_json::json;
use tidegate_host::proto::uploads::{UploadRemoved, UploadRequest, UploadStatus};
use tonic::Code;

use crate::chaos::{fed, noise, only};
use crate::client::{
    channel, chaos, get, http, json, messages, problem, reason, request, told, unary,
};
use crate::fake::{served, sum, until};

const TOKEN: &str = "0123456789abcdef";

fn upload<'a>(name: &'a str, offset: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![
        ("x-func-name", name),
        ("x-tidegate-upload-id", "upload-1"),
        ("x-tidegate-upload-token", TOKEN),
        ("x-tidegate-upload-offset", offset),
    ]
}

#[tokio::test]
async fn an_upload_goes_on_where_its_connection_broke() {
    let door = served();
    let channel = channel(&door.socket).await;
    let input = noise(3 << 20);
    let kwargs = r#"{"_aipod_binary_size": 3145728}"#;
    let part = messages(kwargs, &input[..2 << 20]);
    let (feed, list) = fed(part);
    let answers = chaos(&channel, &upload("read", "0"), list).await.unwrap();
    assert_eq!(
        answers.metadata().get("x-tidegate-upload-offset").unwrap(),
        "0"
    );
    until(|| door.spool.used() == 2 << 20).await;
    drop(answers);
    drop(feed);

    let asked = UploadRequest {
        id: "upload-1".to_owned(),
        token: TOKEN.to_owned(),
    };
    let status: UploadStatus = unary(
        &channel,
        "/tidegate.Uploads/Status",
        tonic::Request::new(asked.clone()),
    )
    .await
    .unwrap()
    .into_inner();
    assert_eq!(
        (status.offset, status.size, status.complete),
        (2 << 20, 3 << 20, false)
    );
    assert_eq!(status.instance, "fake-0");
    let path = "/tidegate/uploads/upload-1";
    let told_ = http(
        &door.socket,
        request("GET", path, &[("x-tidegate-upload-token", TOKEN)], b""),
    )
    .await;
    assert_eq!(json(&told_)["offset"], 2 << 20);
    assert_eq!(problem(&get(&door.socket, path).await).1, "upload_token");

    // Beyond what is there: the right offset is told.
    let list = stream::iter(messages(kwargs, &input));
    let answers = chaos(&channel, &upload("read", "3000000"), list)
        .await
        .unwrap();
    assert_eq!(
        answers.metadata().get("x-tidegate-upload-offset").unwrap(),
        "2097152"
    );
    let status = told(answers.into_inner()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::OutOfRange, "upload_offset")
    );
    assert_eq!(
        status.metadata().get("x-tidegate-upload-offset").unwrap(),
        "2097152"
    );

    // The call fails in a way that may be tried again: the upload stays, complete.
    let rest = messages(kwargs, &input[2 << 20..]);
    let answers = chaos(&channel, &upload("crash", "2097152"), stream::iter(rest))
        .await
        .unwrap();
    let status = told(answers.into_inner()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(door.spool.used(), 3 << 20);

    let nothing = messages(kwargs, b"");
    let answers = chaos(&channel, &upload("read", "3145728"), stream::iter(nothing))
        .await
        .unwrap();
    let told_ = told(answers.into_inner()).await.unwrap();
    assert_eq!(
        only(&told_)["parts"],
        json!([["", input.len(), sum(&input), null]])
    );
    door.emptied().await;
    let gone = unary::<_, UploadStatus>(
        &channel,
        "/tidegate.Uploads/Status",
        tonic::Request::new(asked.clone()),
    )
    .await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    let removed = unary::<_, UploadRemoved>(
        &channel,
        "/tidegate.Uploads/Remove",
        tonic::Request::new(asked),
    )
    .await;
    removed.unwrap();
}

#[tokio::test]
async fn a_second_call_takes_the_upload_over_from_one_that_hangs() {
    let door = served();
    let channel = channel(&door.socket).await;
    let input = noise(1 << 20);
    let kwargs = r#"{"_aipod_binary_size": 1048576}"#;
    let (_feed, list) = fed(messages(kwargs, &input[..500_000]));
    let first = chaos(&channel, &upload("read", "0"), list).await.unwrap();
    until(|| door.spool.used() == 500_000).await;
    let rest = messages(kwargs, &input[500_000..]);
    let second = chaos(&channel, &upload("read", "500000"), stream::iter(rest))
        .await
        .unwrap();
    let told_ = told(second.into_inner()).await.unwrap();
    assert_eq!(
        only(&told_)["parts"],
        json!([["", input.len(), sum(&input), null]])
    );
    let status = told(first.into_inner()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Aborted, "upload_taken")
    );
    door.emptied().await;
}

#[tokio::test]
async fn uploads_are_removed_by_their_owner_alone() {
    let door = served();
    let channel = channel(&door.socket).await;
    let (feed, list) = fed(messages(
        r#"{"_aipod_binary_size": 1000000}"#,
        &noise(500_000),
    ));
    let answers = chaos(&channel, &upload("read", "0"), list).await.unwrap();
    until(|| door.spool.used() == 500_000).await;
    drop((answers, feed));
    let path = "/tidegate/uploads/upload-1";
    let delete =
        |token: &'static str| request("DELETE", path, &[("x-tidegate-upload-token", token)], b"");
    assert_eq!(
        http(&door.socket, delete("another-token-1234"))
            .await
            .status(),
        403
    );
    let mut other = upload("read", "0");
    other[2].1 = "another-token-1234";
    let status = chaos(&channel, &other, stream::pending())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::PermissionDenied, "upload_token")
    );
    // The call that left may still have it for a moment.
    while http(&door.socket, delete(TOKEN)).await.status() != 204 {
        tokio::task::yield_now().await;
    }
    door.emptied().await;
}

#[tokio::test]
async fn bad_names_of_uploads_are_refused() {
    let door = served();
    let channel = channel(&door.socket).await;
    let kwargs = r#"{"_aipod_binary_size": 3}"#;
    for (id, token, offset, size) in [
        ("../../../etc/x", TOKEN, "0", true),
        ("short", TOKEN, "0", true),
        ("upload-1", "short", "0", true),
        ("upload-1", TOKEN, "-1", true),
        ("upload-1", TOKEN, "0", false),
    ] {
        let metadata = [
            ("x-func-name", "read"),
            ("x-tidegate-upload-id", id),
            ("x-tidegate-upload-token", token),
            ("x-tidegate-upload-offset", offset),
        ];
        let list = messages(if size { kwargs } else { "{}" }, b"abc");
        let ended = match chaos(&channel, &metadata, stream::iter(list)).await {
            Ok(answers) => told(answers.into_inner()).await.map(|_| ()),
            Err(status) => Err(status),
        };
        assert_eq!(
            ended.unwrap_err().code(),
            Code::InvalidArgument,
            "{id} {token} {offset}"
        );
    }
    door.emptied().await;
}
