//! What workers say, and what is refused of it.

use proptest::prelude::*;

use super::*;

fn result(meta: &str, data: &[u8]) -> Frame {
    Frame {
        kind: Kind::Result,
        more: false,
        call: 1,
        meta: Bytes::copy_from_slice(meta.as_bytes()),
        data: Bytes::copy_from_slice(data),
    }
}

#[test]
fn a_result_with_parts_is_taken_apart() {
    let meta =
        r#"{"json":4,"parts":[{"name":"x","size":2,"datatype":"INT8","shape":[2]},{"size":1}]}"#;
    let value = value(&result(meta, b"null\x01\x02z"), true)
        .unwrap()
        .unwrap();
    assert_eq!(&value.json[..], b"null");
    assert_eq!(
        value.parts[0].tensor,
        Some(TensorOf {
            datatype: "INT8".into(),
            shape: vec![2]
        })
    );
    assert!(matches!(&value.parts[1].content, Content::Inline(bytes) if &bytes[..] == b"z"));
}

#[test]
fn a_result_that_lies_about_its_parts_is_a_fault_of_its_call() {
    for meta in [
        r#"{"json":9}"#,
        r#"{"json":4,"parts":[{"size":4}]}"#,
        r#"{"json":4,"parts":[{"size":18446744073709551615}]}"#,
        r#"{"json":4,"parts":[{"size":3,"file":"/no/such/file"}]}"#,
    ] {
        let fault = value(&result(meta, b"nullabc"), true).unwrap().unwrap_err();
        assert_eq!(
            (fault.code, fault.reason),
            (Code::Internal, "bad_result"),
            "{meta}"
        );
    }
    assert!(value(&result("[", b""), true).is_err());
}

#[test]
fn a_result_file_is_removed_with_its_last_handle_also_when_the_result_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, b"abc").unwrap();
        path
    };
    let (good, bad) = (file("good"), file("bad"));
    let meta = |path: &Path, size| {
        format!(r#"{{"json":0,"parts":[{{"size":{size},"file":{path:?},"remove":true}}]}}"#)
    };
    let kept = value(&result(&meta(&good, 3), b""), true).unwrap().unwrap();
    let Content::File(held) = &kept.parts[0].content else {
        panic!("a file")
    };
    let path = held.path().to_owned();
    assert_eq!(std::fs::read(&path).unwrap(), b"abc");
    drop(kept);
    // Its descriptor's number may be another's by now.
    let left = std::fs::read(&path).ok();
    assert!(!good.exists() && left.as_deref() != Some(b"abc"));
    assert!(value(&result(&meta(&bad, 4), b""), true).unwrap().is_err());
    assert!(!bad.exists());
}

#[test]
fn a_worker_of_another_machine_names_no_file_of_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, b"xyz").unwrap();
    let meta = format!(r#"{{"json":0,"parts":[{{"size":3,"file":{secret:?},"remove":true}}]}}"#);
    let fault = value(&result(&meta, b""), false).unwrap().unwrap_err();
    assert_eq!(fault.reason, "bad_result");
    assert!(secret.exists());
}

#[test]
fn nothing_is_left_of_a_result_whose_first_part_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    for first in [r#"{"size":9}"#, r#"{"size":1,"file":"/no/such/file"}"#] {
        for json in [0, 7] {
            std::fs::write(&file, b"xyz").unwrap();
            let meta = format!(
                r#"{{"json":{json},"parts":[{first},{{"size":3,"file":{file:?},"remove":true}}]}}"#
            );
            assert!(value(&result(&meta, b""), true).unwrap().is_err());
            assert!(!file.exists(), "{meta}");
        }
    }
}

proptest! {
    #[test]
    fn any_message_is_read_without_a_panic(
        kind in prop_oneof![Just(Kind::Result), Just(Kind::Error), Just(Kind::Loaded), Just(Kind::Log), Just(Kind::Want)],
        meta in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "\\{\"(json|parts|version|bytes|code|level)\":(-1|1|\\[\\]|\\{\\}|null|\"x\"|\\[\\{\"size\":[0-9]{1,20}\\}\\])\\}".prop_map(String::into_bytes),
        ],
        data in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let _ = Incoming::read(Frame { kind, more: false, call: 1, meta: meta.into(), data: data.into() }, true);
    }

    #[test]
    fn json_texts_are_read_back(text in any::<String>()) {
        let mut out = BytesMut::new();
        put_json_text(&mut out, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}
