//! Values are written in a form that reads to the same value, and mean what they say.

use proptest::prelude::*;
use std::fmt::{Debug, Display};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use tidegate_config::values::*;

fn same<T: FromStr<Err = Wrong> + Display + PartialEq + Debug>(
    value: T,
) -> Result<(), TestCaseError> {
    let written = value.to_string();
    prop_assert_eq!(written.parse::<T>(), Ok(value), "{}", written);
    Ok(())
}

proptest! {
    #[test]
    fn durations_are_written_to_read_the_same(nanos in 0..31_000_000_000_000_000_u64) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        if nanos > 0 {
            same(Period(duration))?;
        }
    }

    #[test]
    fn sizes_are_written_to_read_the_same(bytes in 0..=i64::MAX as u64, shift in 0_u32..40) {
        same(ByteSize::new(bytes >> shift << shift))?;
    }

    #[test]
    fn percentages_are_written_to_read_the_same(percent in 0.0..=100.0_f64) {
        same(percent.to_string().parse::<Percent>().expect("a percentage"))?;
    }

    #[test]
    fn addresses_are_written_to_read_the_same(ip in any::<IpAddr>(), port in 1_u16..) {
        same(SocketAddr::new(ip, port).to_string().parse::<Address>().expect("an address"))?;
        same(SocketAddr::new(ip, port).to_string().parse::<ListenAddress>().expect("an address"))?;
        same(SocketAddr::new(ip, port).to_string().parse::<HostPort>().expect("an address"))?;
    }

    #[test]
    fn a_network_holds_exactly_the_addresses_with_its_prefix(a in any::<u32>(), b in any::<u32>(), prefix in 0_u32..=32) {
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        let network = format!("{}/{prefix}", std::net::Ipv4Addr::from(a & mask)).parse::<Cidr>().expect("a network");
        prop_assert_eq!(network.contains(std::net::Ipv4Addr::from(b).into()), a & mask == b & mask);
        prop_assert!(network.contains(std::net::Ipv4Addr::from(a).to_ipv6_mapped().into()));
        same(network)?;
    }

    #[test]
    fn an_ipv6_network_holds_exactly_the_addresses_with_its_prefix(a in any::<u128>(), b in any::<u128>(), prefix in 0_u32..=128) {
        let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
        // Addresses that mean IPv4 are IPv4.
        let (a, b) = (a | 1 << 127, b | 1 << 127);
        let network = format!("{}/{prefix}", std::net::Ipv6Addr::from(a & mask)).parse::<Cidr>().expect("a network");
        prop_assert_eq!(network.contains(std::net::Ipv6Addr::from(b).into()), a & mask == b & mask);
        same(network)?;
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in any::<String>()) {
        let _ = (parse_duration(&text), text.parse::<ByteSize>(), text.parse::<Percent>(), text.parse::<Period>());
        let _ = (text.parse::<Address>(), text.parse::<ListenAddress>(), text.parse::<HostPort>(), text.parse::<HttpUrl>());
        let _ = (text.parse::<Cidr>(), text.parse::<HostPattern>(), text.parse::<HeaderName>(), text.parse::<Method>());
        let _ = (text.parse::<LimitKey>(), text.parse::<StatusRange>(), text.parse::<RetryOn>(), text.parse::<GrpcStatus>());
        let _ = (text.parse::<StateUrl>(), text.parse::<LogTarget>(), text.parse::<Pattern>());
    }

    #[test]
    fn host_patterns_are_written_to_read_the_same(text in "(\\*\\.)?[a-zA-Z0-9]{1,5}(\\.[a-z-]{1,4}){0,3}") {
        if let Ok(pattern) = text.parse::<HostPattern>() {
            same(pattern)?;
        }
    }
}

#[test]
fn durations_add_their_parts() {
    for (text, millis) in [
        ("25ms", 25),
        ("1m30s", 90_000),
        ("1.5s", 1_500),
        ("2h", 7_200_000),
        ("0", 0),
        ("0s", 0),
        ("1d", 86_400_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in [
        "",
        "30",
        "s",
        "1x",
        "-1s",
        "1s2",
        "1.2.3s",
        "1e3s",
        "9999999d",
        "1.0000000001s",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_tell_binary_from_decimal_units() {
    for (text, bytes) in [
        ("64KiB", 65_536),
        ("64kB", 64_000),
        ("1 MiB", 1 << 20),
        ("7", 7),
        ("0", 0),
        ("3gib", 3 << 30),
    ] {
        assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize::new(bytes)), "{text}");
    }
    for text in ["", "KiB", "-1", "1.5MiB", "1Xi", "99999999999TiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn endpoint_addresses_are_ips_names_or_sockets() {
    assert!(matches!("10.0.0.1:80".parse(), Ok(Address::Ip(_))));
    assert!(matches!("[::1]:80".parse(), Ok(Address::Ip(_))));
    assert_eq!(
        "Ranker.Local:80".parse(),
        Ok(Address::Name(HostPort {
            host: "ranker.local".into(),
            port: 80
        }))
    );
    assert!(matches!("unix:/run/a.sock".parse(), Ok(Address::Unix(_))));
    for text in [
        "10.0.0.1",
        "10.0.0.256:80",
        "ranker",
        "ranker:0",
        "ranker:99999",
        "http://ranker:80",
        "a b:80",
        "unix:",
        "-a:80",
    ] {
        assert!(text.parse::<Address>().is_err(), "{text}");
    }
}

#[test]
fn consuls_url_has_a_scheme_and_no_credentials() {
    let url = "https://consul.local/".parse::<HttpUrl>().expect("a URL");
    assert_eq!((url.tls, url.authority.port), (true, 443));
    assert_eq!(
        "http://[::1]"
            .parse::<HttpUrl>()
            .expect("a URL")
            .to_string(),
        "http://[::1]:80"
    );
    for text in [
        "consul:8500",
        "http://u:p@consul:8500",
        "http://consul:8500/v1",
        "ftp://consul",
    ] {
        assert!(text.parse::<HttpUrl>().is_err(), "{text}");
    }
}

#[test]
fn retry_outcomes_are_names_or_statuses() {
    for text in ["connect-failure", "5xx", "503", "429", "resource-exhausted"] {
        assert_eq!(
            text.parse::<RetryOn>().map(|on| on.to_string()),
            Ok(text.to_owned())
        );
    }
    assert!(
        "connect_failure"
            .parse::<RetryOn>()
            .expect_err("underscore")
            .help
            .contains("`connect-failure`")
    );
    assert!("200".parse::<RetryOn>().is_err());
}

#[test]
fn grpc_statuses_are_names_in_any_case_or_numbers() {
    for text in ["unavailable", "UNAVAILABLE", "14"] {
        assert_eq!(
            text.parse::<GrpcStatus>().map(GrpcStatus::code),
            Ok(14),
            "{text}"
        );
    }
    assert_eq!(
        "RESOURCE_EXHAUSTED"
            .parse::<GrpcStatus>()
            .map(GrpcStatus::code),
        Ok(8)
    );
    assert!("17".parse::<GrpcStatus>().is_err());
}
