//! Addresses: where to listen, where to connect, which networks and hosts.

use super::Wrong;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `ip:port`; port 0 lets the system choose.
    Ip(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// 127.0.0.1 with this port.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }

    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for ListenAddress {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write ip:port, e.g. 0.0.0.0:8080 or [::]:8080, or unix:PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path).map(Self::Unix);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(Wrong::new("an address without a port", help));
        }
        if let Some(port) = text
            .strip_prefix(':')
            .or_else(|| text.strip_prefix("*:"))
            .or(Some(text))
            .filter(|p| p.parse::<u16>().is_ok())
        {
            return Err(Wrong::new(
                "a port without an address",
                format!(
                    "write 0.0.0.0:{port} for all addresses or 127.0.0.1:{port} for this machine only"
                ),
            ));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return Err(Wrong::new(
                "a listening address needs an IP",
                format!("write 127.0.0.1:{port}"),
            ));
        }
        Err(Wrong::new("not an address to listen on", help))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A host (name or IP) with a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name (lower case) or IP, without brackets.
    pub host: String,
    /// Port, at least 1.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write host:port, e.g. 10.0.0.5:8500, [fd00::5]:8500 or ranker.local:8500";
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err(Wrong::new("port 0", help));
            }
            return Ok(Self {
                host: address.ip().to_string(),
                port: address.port(),
            });
        }
        if text.contains("://") {
            return Err(Wrong::new(
                "a URL where host:port is expected",
                format!("{help}; TLS is switched on by `tls`"),
            ));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(Wrong::new("an address without a port", help));
        };
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| Wrong::new("not a port from 1 to 65535", help))?;
        if !is_host_name(host) {
            return Err(Wrong::new("not a host name or IP", help));
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `ip:port`.
    Ip(SocketAddr),
    /// `name:port`: one member; connecting tries the name's addresses in turn.
    Name(HostPort),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path).map(Self::Unix);
        }
        let address = HostPort::from_str(text)?;
        Ok(match address.host.parse::<IpAddr>() {
            Ok(ip) => Self::Ip(SocketAddr::new(ip, address.port)),
            Err(_) => Self::Name(address),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Name(name) => write!(f, "{name}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn unix(path: &str) -> Result<PathBuf, Wrong> {
    // sun_path holds 108 bytes, the last of them the terminator.
    if path.is_empty() || path.contains('\0') || path.len() > 107 {
        return Err(Wrong::new(
            "not a socket's path",
            "write unix:PATH with a path of 1 to 107 bytes",
        ));
    }
    Ok(path.into())
}

/// A DNS name: labels of letters, digits, `-` and `_`.
pub(crate) fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
        // All digits and dots is an IP gone wrong (10.0.0.256), never a name.
        && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// The base URL of an HTTP API: `http://host:port` or `https://host:port`, without path, query or credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    /// Whether it is https.
    pub tls: bool,
    /// Host and port (80 or 443 when not given).
    pub authority: HostPort,
}

impl HttpUrl {
    pub(crate) fn consul() -> Self {
        Self {
            tls: false,
            authority: HostPort {
                host: "127.0.0.1".into(),
                port: 8500,
            },
        }
    }
}

impl FromStr for HttpUrl {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write http://host:port or https://host:port";
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(Wrong::new("not an http URL", help)),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(Wrong::new(
                "credentials in a URL",
                format!("{help}; put the secret into `token`"),
            ));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(Wrong::new("a URL with a path", help));
        }
        let has_port = rest
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        let authority = if has_port {
            rest.to_owned()
        } else {
            format!("{rest}:{}", if tls { 443 } else { 80 })
        };
        Ok(Self {
            tls,
            authority: authority
                .parse()
                .map_err(|e: Wrong| Wrong::new(e.problem, help))?,
        })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            if self.tls { "https" } else { "http" },
            self.authority
        )
    }
}

/// Where durable state lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StateUrl {
    /// `file:PATH`: a folder on this machine.
    File(PathBuf),
    /// `redis://…` or `rediss://…`: shared by several Tidegates.
    Redis(super::RedisUrl),
}

impl FromStr for StateUrl {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write file:PATH, e.g. file:./tidegate-data, or redis://HOST:PORT";
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("redis" | "rediss", _)) => text.parse().map(Self::Redis),
            Some((scheme @ ("etcd" | "mysql" | "postgres" | "postgresql"), _)) => {
                Err(Wrong::new(format!("{scheme} is not in this build"), help))
            }
            _ => Err(Wrong::new("not a place for state", help)),
        }
    }
}

impl fmt::Display for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Redis(url) => write!(f, "{url}"),
        }
    }
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to; opened again on SIGHUP.
    File(PathBuf),
}

impl FromStr for LogTarget {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            "" => Err(Wrong::new(
                "an empty path",
                "write stdout, stderr or a file's path",
            )),
            // `access_log: on` is a switch in other systems, here it would be a file of that name.
            "on" | "true" | "yes" => Err(Wrong::new(
                "a switch where the log's target is expected",
                "write stdout, stderr or a file's path",
            )),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A network: `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The network's first address; all bits beyond the prefix are 0.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the prefix in bits: 0 to 32, or 0 to 128 for IPv6.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether an address is in the network. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                (u32::from(net) ^ u32::from(ip))
                    .checked_shr(32 - u32::from(self.prefix))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                (u128::from(net) ^ u128::from(ip))
                    .checked_shr(128 - u32::from(self.prefix))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write a network such as 10.0.0.0/8 or fd00::/8, or one address";
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address
            .parse()
            .map_err(|_| Wrong::new("not a network", help))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix =
            match prefix {
                None => bits,
                Some(text) => text.parse().ok().filter(|p| *p <= bits).ok_or_else(|| {
                    Wrong::new(format!("not a prefix length from 0 to {bits}"), help)
                })?,
            };
        let network = Self { address, prefix }.masked();
        if network.address == address {
            Ok(network)
        } else {
            // 10.1.2.3/8 is more often a slip than a network: say so instead of matching more than was meant.
            Err(Wrong::new(
                "bits beyond the prefix are set",
                format!("write {network} for the network or {address} for the address alone"),
            ))
        }
    }
}

impl Cidr {
    fn masked(self) -> Self {
        let address = match self.address {
            IpAddr::V4(ip) => IpAddr::V4(
                (u32::from(ip)
                    & u32::MAX
                        .checked_shl(32 - u32::from(self.prefix))
                        .unwrap_or(0))
                .into(),
            ),
            IpAddr::V6(ip) => IpAddr::V6(
                (u128::from(ip)
                    & u128::MAX
                        .checked_shl(128 - u32::from(self.prefix))
                        .unwrap_or(0))
                .into(),
            ),
        };
        Self {
            address,
            prefix: self.prefix,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Host names that a route is for; lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `*`: every host, and requests without one.
    Any,
    /// This name.
    Exact(String),
    /// `*.example.com`: one or more labels before this suffix; holds `.example.com`, with its dot.
    Suffix(String),
}

impl FromStr for HostPattern {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write a name such as ranker.local, *.ranker.local for names below it, or *";
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        if let Some(name) = lower.strip_prefix("*.") {
            if is_host_name(name) {
                return Ok(Self::Suffix(format!(".{name}")));
            }
        } else if is_host_name(&lower) {
            return Ok(Self::Exact(lower));
        } else if let Ok(ip) = lower
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
        {
            return Ok(Self::Exact(if ip.is_ipv6() {
                format!("[{ip}]")
            } else {
                ip.to_string()
            }));
        }
        if text.contains("://") {
            return Err(Wrong::new("a URL where a host name is expected", help));
        }
        if let Some((name, port)) = lower.rsplit_once(':')
            && port.parse::<u16>().is_ok()
        {
            return Err(Wrong::new(
                "a host pattern with a port",
                format!("hosts are compared without the port: write {name}"),
            ));
        }
        if text.contains('*') {
            return Err(Wrong::new(
                "a wildcard that is not the whole first label",
                help,
            ));
        }
        Err(Wrong::new("not a host name", help))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}
