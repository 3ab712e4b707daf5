//! What is registered: the service's id, address and check, as Consul's agent API wants them. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use tidegate_config::model::{ConsulCheck, ConsulCheckKind, ConsulRegistration};
use tidegate_config::values::HostPort;

/// Service metadata key that tells whose registration it is.
pub(super) const INSTANCE: &str = "tidegate-instance";

/// What the registration needs to know of a listener.
#[derive(Clone, Debug)]
pub struct ListenerFacts {
    /// Name of the listener, for the service's id.
    pub name: String,
    /// Bound address with the real port; none for a Unix socket.
    pub address: Option<SocketAddr>,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Same after a restart, so that a crashed process's registration is taken over; different for listeners of different
/// machines that share an agent.
pub(super) fn default_id(config: &ConsulRegistration, listener: &ListenerFacts) -> String {
    let place = match (&config.advertise, listener.address) {
        (Some(advertise), _) => format!("{}-{}", advertise.host, advertise.port),
        (None, Some(at)) if at.ip().is_unspecified() => format!("{}-{}", host_name(), at.port()),
        (None, Some(at)) => format!("{}-{}", at.ip(), at.port()),
        (None, None) => host_name(),
    };
    // Slashes and the like would need care in every URL that names it.
    format!("{}-{place}", config.service).replace(
        |c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c)),
        "-",
    )
}

fn host_name() -> String {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    name.map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "host".to_owned())
}

/// The body of a registration. `seen` is our address as a remote agent sees it.
pub(super) fn body(
    config: &ConsulRegistration,
    listener: &ListenerFacts,
    id: &str,
    instance: &str,
    seen: Option<IpAddr>,
) -> Vec<u8> {
    let (address, at) = place(config, listener, seen);
    let mut meta: BTreeMap<&str, &str> = config
        .meta
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    meta.insert(INSTANCE, instance);
    let service = Service {
        id,
        name: &config.service,
        tags: &config.tags,
        address,
        port: at.port,
        meta,
        check: config
            .check
            .as_ref()
            .map(|config| check(config, &at, listener.tls)),
    };
    serde_json::to_vec(&service).expect("strings and numbers only")
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Service<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    port: u16,
    meta: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    name: String,
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "std::ops::Not::not")]
    grpc_use_tls: bool,
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "std::ops::Not::not")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_critical_service_after: Option<String>,
}

/// Go's notation, to the millisecond.
fn go(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// What Consul checks, and where.
fn check(config: &ConsulCheck, at: &HostPort, tls: bool) -> Check {
    let mut check = Check {
        name: "tidegate".to_owned(),
        deregister_critical_service_after: config.deregister_after.map(go),
        ..Check::default()
    };
    if let ConsulCheckKind::Ttl(ttl) = &config.kind {
        check.ttl = Some(go(*ttl));
        return check;
    }
    check.interval = Some(go(config.interval));
    check.timeout = Some(go(config.timeout));
    match &config.kind {
        ConsulCheckKind::Http(url) if url.contains("://") => check.http = Some(url.clone()),
        ConsulCheckKind::Http(path) => {
            check.http = Some(format!(
                "{}://{at}{path}",
                if tls { "https" } else { "http" }
            ));
            // It asks an address, which certificates rarely name.
            check.tls_skip_verify = tls;
        }
        ConsulCheckKind::Grpc(service) => {
            check.grpc = Some(if service.is_empty() {
                at.to_string()
            } else {
                format!("{at}/{service}")
            });
            check.grpc_use_tls = tls;
            check.tls_skip_verify = tls;
        }
        ConsulCheckKind::Tcp(_) => check.tcp = Some(at.to_string()),
        ConsulCheckKind::Ttl(_) => {}
    }
    check
}

/// The address to register (none: the node's) and the one that Consul's checks use. `seen` is our address as a remote agent
/// sees it.
fn place(
    config: &ConsulRegistration,
    listener: &ListenerFacts,
    seen: Option<IpAddr>,
) -> (Option<String>, HostPort) {
    if let Some(advertise) = &config.advertise {
        return (Some(advertise.host.clone()), advertise.clone());
    }
    // `start` refuses a listener with neither.
    let bound = listener
        .address
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let at = |ip: IpAddr| HostPort {
        host: ip.to_string(),
        port: bound.port(),
    };
    match (bound.ip(), seen) {
        (ip, _) if !ip.is_unspecified() => (Some(ip.to_string()), at(ip)),
        (_, Some(seen)) => (
            Some(seen.to_canonical().to_string()),
            at(seen.to_canonical()),
        ),
        (IpAddr::V4(_), None) => (None, at(IpAddr::from([127, 0, 0, 1]))),
        (IpAddr::V6(_), None) => (None, at(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(address: &str) -> ListenerFacts {
        ListenerFacts {
            name: "main".into(),
            address: Some(address.parse().expect("address")),
            tls: false,
        }
    }

    fn config() -> ConsulRegistration {
        ConsulRegistration {
            address: "http://127.0.0.1:8500".parse().expect("url"),
            service: "gate".into(),
            id: None,
            advertise: None,
            tags: vec![],
            meta: BTreeMap::new(),
            datacenter: None,
            token: None,
            check: None,
        }
    }

    fn placed(
        config: &ConsulRegistration,
        listener: &str,
        seen: Option<&str>,
    ) -> (Option<String>, String) {
        let (address, at) = place(
            config,
            &facts(listener),
            seen.map(|ip| ip.parse().expect("ip")),
        );
        (address, at.to_string())
    }

    #[test]
    fn the_address_is_one_that_others_can_use() {
        let plain = config();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            placed(&plain, "10.0.0.5:80", Some("10.0.0.6")),
            (some("10.0.0.5"), "10.0.0.5:80".into())
        );
        assert_eq!(
            placed(&plain, "0.0.0.0:80", None),
            (None, "127.0.0.1:80".into())
        );
        assert_eq!(placed(&plain, "[::]:80", None), (None, "[::1]:80".into()));
        assert_eq!(
            placed(&plain, "[::]:80", Some("::ffff:10.0.0.6")),
            (some("10.0.0.6"), "10.0.0.6:80".into())
        );
        let advertised = ConsulRegistration {
            advertise: Some("gate.local:443".parse().expect("address")),
            ..plain
        };
        assert_eq!(
            placed(&advertised, "0.0.0.0:80", None),
            (some("gate.local"), "gate.local:443".into())
        );
    }

    #[test]
    fn the_id_is_the_same_after_a_restart_and_safe_in_a_url() {
        assert_eq!(
            default_id(&config(), &facts("10.0.0.5:80")),
            "gate-10.0.0.5-80"
        );
        assert_eq!(
            default_id(&config(), &facts("[fd00::1]:80")),
            "gate-fd00--1-80"
        );
        assert!(default_id(&config(), &facts("0.0.0.0:80")).ends_with("-80"));
    }

    #[test]
    fn each_kind_of_check_is_asked_where_the_listener_is() {
        let at: HostPort = "[::1]:80".parse().expect("address");
        let of = |kind, tls| {
            let config = ConsulCheck {
                interval: Duration::from_secs(10),
                timeout: Duration::from_secs(1),
                deregister_after: Some(Duration::from_secs(60)),
                kind,
            };
            serde_json::to_value(check(&config, &at, tls)).expect("json")
        };
        let http = of(ConsulCheckKind::Http("/readyz".into()), true);
        assert_eq!(
            (&http["HTTP"], &http["TLSSkipVerify"], &http["Interval"]),
            (
                &"https://[::1]:80/readyz".into(),
                &true.into(),
                &"10000ms".into()
            )
        );
        assert_eq!(http["DeregisterCriticalServiceAfter"], "60000ms");
        assert_eq!(
            of(ConsulCheckKind::Http("http://other/x".into()), false)["HTTP"],
            "http://other/x"
        );
        let grpc = of(ConsulCheckKind::Grpc("a.B".into()), false);
        assert_eq!(
            (&grpc["GRPC"], grpc.get("GRPCUseTLS")),
            (&"[::1]:80/a.B".into(), None)
        );
        assert_eq!(of(ConsulCheckKind::Tcp(true), false)["TCP"], "[::1]:80");
        let ttl = of(ConsulCheckKind::Ttl(Duration::from_secs(9)), false);
        assert_eq!((&ttl["TTL"], ttl.get("Interval")), (&"9000ms".into(), None));
    }
}
