//! TLS settings that cannot work are refused with the file and the reason.

mod support;

use support::tls::Authority;
use tidegate_config::model::UpstreamTls;
use tidegate_discovery::tls::{client_config, client_tls};

#[test]
fn mistakes_name_the_file_and_what_is_wrong_with_it() {
    let authority = Authority::new();
    let settings = |change: &dyn Fn(&mut UpstreamTls)| {
        let mut tls = UpstreamTls {
            ca: Some(authority.path("ca.pem")),
            ..UpstreamTls::default()
        };
        change(&mut tls);
        client_tls(&tls, &[b"h2"]).expect_err("refused").to_string()
    };
    let missing = settings(&|tls| tls.ca = Some(authority.path("missing.pem")));
    assert!(missing.contains("missing.pem"), "{missing}");
    let key_for_ca = settings(&|tls| tls.ca = Some(authority.path("server.key")));
    assert!(
        key_for_ca.contains("server.key") && key_for_ca.contains("holds no certificate"),
        "{key_for_ca}"
    );
    let lonely = settings(&|tls| tls.certificate = Some(authority.path("client.pem")));
    assert!(lonely.contains("belong together"), "{lonely}");
    let mismatched = settings(&|tls| {
        tls.certificate = Some(authority.path("client.pem"));
        tls.key = Some(authority.path("server.key"));
    });
    assert!(mismatched.contains("client.pem"), "{mismatched}");
    let name = settings(&|tls| tls.sni = Some("not a name".into()));
    assert!(name.contains("\"not a name\""), "{name}");
}

#[test]
fn the_protocols_offered_are_the_ones_asked_for() {
    let authority = Authority::new();
    let tls = UpstreamTls {
        ca: Some(authority.path("ca.pem")),
        ..UpstreamTls::default()
    };
    assert_eq!(
        client_config(&tls, &[b"h2", b"http/1.1"])
            .expect("a config")
            .alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
}
