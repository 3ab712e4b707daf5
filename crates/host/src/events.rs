//! What happens to workers, told to whoever keeps the log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Takes events. It is called on the threads that serve calls, so it must return at once.
pub trait Events: fmt::Debug + Send + Sync + 'static {
    /// Something happened.
    fn event(&self, event: Event);
}

/// Something that happened to an instance.
#[derive(Debug, Clone)]
pub struct Event {
    /// Name of the service.
    pub service: Arc<str>,
    /// Name of the instance; empty where the service as a whole is meant.
    pub instance: Arc<str>,
    /// Process id of the worker, where there is one.
    pub pid: Option<u32>,
    /// What it is.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// A worker process was started.
    Started {
        /// Counts the reloads of the service.
        revision: u64,
    },
    /// The worker takes calls.
    Ready {
        /// Time since its start.
        took: Duration,
    },
    /// The worker is gone, and nobody asked for it.
    Died {
        /// Why, in a sentence.
        cause: String,
        /// When the next one is started.
        restart_in: Duration,
    },
    /// Workers die again and again; they are started seldom from now on.
    CrashLoop {
        /// Why the last one died.
        cause: String,
    },
    /// No new worker could be made ready in a reload; the old one goes on.
    ReloadFailed {
        /// Why.
        cause: String,
    },
    /// The worker gets no more calls, and ends after those that it has.
    Draining,
    /// The worker has ended as it was asked to.
    Stopped,
    /// A version is in memory.
    Loaded {
        /// Its name; empty for the one without a name.
        version: String,
        /// How long it took.
        took: Duration,
    },
    /// A version could not be loaded.
    LoadFailed {
        /// Its name.
        version: String,
        /// Why.
        message: String,
        /// Where in the model's code, if it raised an exception.
        traceback: String,
    },
    /// A version left the memory.
    Released {
        /// Its name.
        version: String,
        /// Why.
        why: Release,
    },
    /// The worker wrote a line.
    Line {
        /// To where.
        stream: Stream,
        /// The line without its end; what is not UTF-8 is replaced.
        text: String,
    },
    /// The model logged something.
    Log {
        /// `debug`, `info`, `warning`, `error`, `critical`.
        level: String,
        /// Name of the logger.
        logger: String,
        /// What it said.
        message: String,
    },
    /// A call tells how far it is.
    Progress {
        /// The call's [`crate::Call::id`].
        call: String,
        /// What it said: a JSON object with `progress`, `message`, `stage`, `status`, `data`.
        progress: serde_json::Value,
    },
    /// A call failed in the model.
    Raised {
        /// The call's [`crate::Call::id`].
        call: String,
        /// Name of the method.
        method: String,
        /// Type of the exception.
        exception: String,
        /// What it said.
        message: String,
        /// Where; for the log, never for the caller.
        traceback: String,
    },
    /// A call was lost to the death of its worker and runs again on another.
    Retried {
        /// The call's [`crate::Call::id`].
        call: String,
        /// Name of the method.
        method: String,
    },
}

/// Why a version left the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// More than `versions.max_loaded` would be loaded.
    Count,
    /// The worker took more than `versions.memory`.
    Memory,
    /// Somebody asked for it, or a method left another model on the disk.
    Asked,
}

/// Where a worker wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Writes events with `tracing`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traced;

impl Events for Traced {
    fn event(&self, event: Event) {
        let (service, instance, pid) = (&*event.service, &*event.instance, event.pid.unwrap_or(0));
        match event.what {
            What::Started { revision } => {
                tracing::info!(service, instance, pid, revision, "worker started");
            }
            What::Ready { took } => {
                tracing::info!(
                    service,
                    instance,
                    pid,
                    took_ms = took.as_millis() as u64,
                    "worker ready"
                );
            }
            What::Died { cause, restart_in } => {
                tracing::warn!(service, instance, pid, %cause, restart_in_ms = restart_in.as_millis() as u64, "worker died");
            }
            What::CrashLoop { cause } => {
                tracing::error!(service, instance, pid, %cause, "crash loop")
            }
            What::ReloadFailed { cause } => {
                tracing::error!(service, instance, pid, %cause, "reload failed")
            }
            What::Draining => tracing::info!(service, instance, pid, "worker draining"),
            What::Stopped => tracing::info!(service, instance, pid, "worker stopped"),
            What::Loaded { version, took } => {
                tracing::info!(service, instance, pid, %version, took_ms = took.as_millis() as u64, "version loaded");
            }
            What::LoadFailed {
                version,
                message,
                traceback,
            } => {
                tracing::warn!(service, instance, pid, %version, %message, %traceback, "version failed to load");
            }
            What::Released { version, why } => {
                tracing::info!(service, instance, pid, %version, ?why, "version released");
            }
            What::Line {
                stream: Stream::Stdout,
                text,
            } => tracing::info!(service, instance, pid, line = %text, "stdout"),
            What::Line {
                stream: Stream::Stderr,
                text,
            } => tracing::info!(service, instance, pid, line = %text, "stderr"),
            What::Log {
                level,
                logger,
                message,
            } => match level.as_str() {
                "debug" => tracing::debug!(service, instance, pid, %logger, %message, "model log"),
                "warning" | "warn" => {
                    tracing::warn!(service, instance, pid, %logger, %message, "model log")
                }
                "error" | "critical" => {
                    tracing::error!(service, instance, pid, %logger, %message, "model log")
                }
                _ => tracing::info!(service, instance, pid, %logger, %message, "model log"),
            },
            What::Progress { call, progress } => {
                tracing::info!(service, instance, pid, %call, %progress, "progress");
            }
            What::Raised {
                call,
                method,
                exception,
                message,
                traceback,
            } => {
                tracing::warn!(service, instance, pid, %call, %method, %exception, %message, %traceback, "call failed");
            }
            What::Retried { call, method } => {
                tracing::info!(service, instance, pid, %call, %method, "call runs again");
            }
        }
    }
}
