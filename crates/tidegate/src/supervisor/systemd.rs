//! Tells the service manager how we are: the `sd_notify` datagrams of systemd, which are too simple for a library.
//!
//! Without `NOTIFY_SOCKET` in the environment (`Type=exec`, a terminal, a container) nothing is sent.

use std::os::unix::net::UnixDatagram;

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceManager {
    socket: Option<String>,
}

impl ServiceManager {
    /// The one that started this process.
    pub(super) fn from_environment() -> Self {
        Self {
            socket: std::env::var("NOTIFY_SOCKET")
                .ok()
                .filter(|path| !path.is_empty()),
        }
    }

    /// The one that the running supervisor reported to, unless this process has its own.
    pub(super) fn or(self, socket: Option<String>) -> Self {
        Self {
            socket: self.socket.or(socket),
        }
    }

    /// Where it listens, for a successor.
    pub(super) fn socket(&self) -> Option<String> {
        self.socket.clone()
    }

    /// Serving; `pid` becomes the service's main process.
    pub(super) fn ready(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}\nREADY=1\nSTATUS=serving"));
    }

    /// The main process is another from now on.
    pub(super) fn main_process(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// The configuration is being read again; [`Self::ready`] or [`Self::reload_refused`] ends it.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The old configuration goes on.
    pub(super) fn reload_refused(&self) {
        self.send("READY=1\nSTATUS=serving; the last reload was refused");
    }

    /// Draining.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    fn send(&self, state: &str) {
        let Some(path) = &self.socket else { return };
        if let Err(error) = send_datagram(path, state.as_bytes()) {
            tracing::warn!(socket = path, %error, "the service manager was not reached");
        }
    }
}

fn send_datagram(path: &str, state: &[u8]) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = path.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return socket.send_to_addr(state, &address).map(drop);
    }
    socket.send_to(state, path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn readiness_goes_to_the_managers_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::default().or(Some(path.display().to_string()));
        manager.ready(42);
        assert_eq!(received(&socket), "MAINPID=42\nREADY=1\nSTATUS=serving");
        manager.reloading();
        assert!(received(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_socket_is_reached_too() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("tidegate-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        ServiceManager::default()
            .or(Some(format!("@{name}")))
            .stopping();
        assert!(received(&socket).starts_with("STOPPING=1"));
    }
}
