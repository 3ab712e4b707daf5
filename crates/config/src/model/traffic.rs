//! What a route does about slowness, failure and excess: retries, hedging, faults, limits.

use crate::checks::{By, SizeWithin, TIMER, Within};
use crate::record::{choice, one_of, record};
use crate::values::{ByteSize, GrpcStatus, LimitKey, Percent, Period, RetryOn};
use std::time::Duration;

record! {
    /// When another attempt is made. Attempts that are safe whatever the method (nothing was written, or the peer says that it
    /// did not process the request) are made in any case and do not count, at most 4 for a request; a connection that breaks under
    /// a request that may be repeated (idempotent, or `replay`) needs no mention in `on`, but counts.
    pub default struct Retry {
        /// Attempts in **total**, the first included; 1 to 10. Default 2. 1: only the safe ones. (Istio counts only the others.)
        attempts: u32 = 2 => By(crate::validate::attempts),
        /// Outcomes after which another attempt is made. Default connect-failure, refused-stream, unavailable.
        on: Vec<RetryOn> = vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Unavailable],
        /// Bound of one attempt. Default: off.
        per_try_timeout: Option<Duration> => TIMER,
        /// Pauses between attempts.
        backoff: Backoff = Backoff::default(),
        /// How much of the traffic may be retries, per upstream; `off`: no bound. Default 20%, at least 3 at once.
        budget: Option<RetryBudget> = Some(RetryBudget::default()),
        /// Bytes of a request's body that are kept for another attempt; beyond, the attempt commits. Default 64KiB.
        buffer: ByteSize = ByteSize::kib(64) => SizeWithin(ByteSize::ZERO, ByteSize::kib(16 * 1024)),
        /// Requests that were written and not answered may be repeated although their method is not idempotent. Default false.
        replay: bool = false,
        ; finish crate::validate::retry
    }
}

record! {
    /// Exponential pauses with ±20% jitter.
    pub default struct Backoff {
        /// First pause. Default 25ms.
        initial: Duration = Duration::from_millis(25) => TIMER,
        /// Longest pause. Default 1s.
        max: Duration = Duration::from_secs(1) => TIMER,
        ; finish crate::validate::backoff
    }
}

record! {
    /// How much of the traffic may be retries. `budget: 20%` is short for `{ percent: 20% }`.
    pub default struct RetryBudget {
        /// Retries in flight / requests in flight. Default 20%.
        percent: Percent = Percent::of(20),
        /// Retries in flight that are allowed in any case. Default 3.
        min: u32 = 3,
        ; short "percent"
    }
}

record! {
    /// A further attempt before the first has failed; the first answer wins.
    pub struct Hedge {
        /// Time without an answer's head after which the next attempt starts.
        delay: Duration => TIMER,
        /// Attempts in flight at once, the first included; 2 to 5. Default 2.
        max: u32 = 2 => Within(2, 5),
    }
}

record! {
    /// Injected faults.
    pub default struct Fault {
        /// A pause before the request goes on.
        delay: Option<FaultDelay>,
        /// An answer instead of the upstream's.
        abort: Option<FaultAbort>,
        ; inspect crate::validate::fault_keys
    }
}

record! {
    /// An injected pause.
    pub struct FaultDelay {
        /// Its length.
        duration: Duration => TIMER,
        /// Share of the requests. Default 100%.
        percent: Percent = Percent::HUNDRED,
    }
}

record! {
    /// An injected answer.
    pub struct FaultAbort {
        /// Share of the requests. Default 100%.
        percent: Percent = Percent::HUNDRED,
        ; flatten
        /// The answer.
        with: AbortWith
    }
}

one_of! {
    /// The answer of an injected abort.
    pub enum AbortWith {
        /// HTTP status, 200 to 599.
        Status(u16) = "status" => Within(200, 599),
        /// gRPC status by name or number.
        GrpcStatus(GrpcStatus) = "grpc_status",
    }
}

record! {
    /// Requests per time; beyond: 429 or RESOURCE_EXHAUSTED. Exact across workers.
    pub struct RateLimit {
        /// Requests in each period, at least 1.
        requests: u32 => Within(1, 1_000_000_000),
        /// The period: second, minute, hour, day, or a duration.
        per: Period,
        /// Each distinct combination of these has its own count: `header:NAME`, `cookie:NAME`, `query:NAME`, `source_ip`,
        /// `host`, `path`, `method`. Default: one count for the route.
        key: Vec<LimitKey>,
        /// Requests that may come at once (GCRA only). Default: `requests`.
        burst: Option<u32> => Within(1, 1_000_000_000),
        /// How it is counted. Default gcra.
        algorithm: LimitAlgorithm = LimitAlgorithm::Gcra,
        /// Distinct keys that are remembered; the least recently used is forgotten. Default 65536.
        max_keys: u32 = 65_536 => Within(1, 10_000_000),
        ; later "domain", "descriptors"
        ; finish crate::validate::rate_limit
    }
}

choice! {
    /// How a rate limit counts.
    pub enum LimitAlgorithm {
        /// Generic cell rate: smooth, no burst at a window's edge.
        Gcra = "gcra",
        /// Windows aligned to the epoch; up to twice the limit may pass at a boundary.
        FixedWindow = "fixed_window",
    }
}

record! {
    /// Requests at once; beyond: 429 or RESOURCE_EXHAUSTED. Exact across workers.
    pub struct Concurrency {
        /// Requests in flight, at least 1.
        requests: u32 => Within(1, 1_000_000_000),
        /// Each distinct combination of these has its own count, as in `rate_limit`. Default: one count for the route.
        key: Vec<LimitKey>,
        /// Distinct keys that are remembered. Default 65536.
        max_keys: u32 = 65_536 => Within(1, 10_000_000),
    }
}
