//! A service account's key file, what it signs, and what the token endpoint answers: with a key made for these tests, not with
//! Google's.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tidegate_llm::service_account::{AccountError, ServiceAccount, read_token};

const FILE: &str = include_str!("fixtures/service_account.json");

fn changed(key: &str, to: Value) -> String {
    let mut file: Value = serde_json::from_str(FILE).unwrap();
    file[key] = to;
    file.to_string()
}

#[test]
fn an_assertion_says_who_asks_for_what_and_is_signed_with_the_files_key() {
    let account = ServiceAccount::parse(FILE).unwrap();
    let body = account.request(1_000_000_000).unwrap();
    let body = std::str::from_utf8(&body).unwrap();
    let assertion = body
        .strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")
        .unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let (head, claims) = signed.split_once('.').unwrap();
    let json = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    assert_eq!(
        json(head),
        serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": "0123456789abcdef"})
    );
    assert_eq!(
        json(claims),
        serde_json::json!({
            "iss": "tests@a-test.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "aud": "https://oauth2.googleapis.com/token",
            "iat": 999_999_990,
            "exp": 1_000_003_590,
        })
    );
    let file: Value = serde_json::from_str(FILE).unwrap();
    let pem = file["private_key"].as_str().unwrap();
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key());
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    public.verify(signed.as_bytes(), &signature).unwrap();
    let shown = format!("{account:?}");
    assert!(shown.contains("tests@a-test") && !shown.contains(&pem[40..60]));
}

#[test]
fn a_file_that_can_not_be_used_is_told_without_a_part_of_the_key() {
    assert!(ServiceAccount::looks_like_one(FILE) && !ServiceAccount::looks_like_one("ya29.token"));
    for text in ["", "{}", "{", &changed("type", "authorized_user".into())] {
        assert_eq!(
            ServiceAccount::parse(text).unwrap_err(),
            AccountError::Fields
        );
    }
    let bad_key = ServiceAccount::parse(&changed("private_key", "s3cret".into()));
    let told = bad_key.unwrap_err().to_string();
    assert!(told.contains("private_key is no RSA key") && !told.contains("s3cret"));
    for (uri, good) in [
        ("https://oauth2.googleapis.com/token", true),
        ("http://127.0.0.1:9/token", true),
        ("http://[::1]:9/token", true),
        ("http://localhost/token", true),
        ("http://oauth2.googleapis.com/token", false),
        ("/token", false),
        ("ftp://127.0.0.1/token", false),
    ] {
        let account = ServiceAccount::parse(&changed("token_uri", uri.into()));
        assert_eq!(account.is_ok(), good, "{uri}");
    }
}

#[test]
fn the_token_endpoints_answer_gives_a_token_or_one_word() {
    let given = read_token(
        200,
        br#"{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}"#,
    );
    let given = given.unwrap();
    assert_eq!(
        (given.token.as_str(), given.lasts),
        ("ya29.x", Duration::from_secs(3599))
    );
    assert!(!format!("{given:?}").contains("ya29"));
    assert_eq!(
        read_token(
            400,
            br#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#
        ),
        Err("400 invalid_grant".to_owned())
    );
    // What is no word of the protocol is not passed on.
    for body in [
        &br#"{"error":"ya29.SECRET key"}"#[..],
        b"",
        b"<html>",
        br#"{"access_token":""}"#,
    ] {
        assert_eq!(read_token(500, body), Err("500".to_owned()));
        assert!(read_token(200, body).is_err());
    }
}
