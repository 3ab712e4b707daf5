//! Endpoints from DNS: the addresses of a name, or its SRV records, asked for again when their time to live is over.
//!
//! - `a`: every A and AAAA address is a member, at the configured port.
//! - `srv`: every record is a member at its target's **name** (connected by happy eyeballs, so that a target with a v4 and a v6
//!   address is one member). Weights are taken as they are, with 0 ("a small proportion", RFC 2782) as 1; priorities are
//!   ranked from 0.
//!
//! Time to live is honoured between `min_interval` and `max_interval`, so that records with 0 don't make a loop. An answer
//! that fails keeps the last good list. "No such name" and "no records" do so for [`crate::resolve::NEGATIVE_GRACE`] too, and are believed
//! when nothing else was heard for that long: a list that never empties would send requests to whoever got the addresses next.

use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use tidegate_config::model::{DnsDiscovery, DnsRecord};
use tokio::time::Instant;

use crate::endpoint::{Endpoint, EndpointSet, tcp};
use crate::jitter::{Backoff, between};
use crate::resolve::{Answer, Data, MAX_NEGATIVE_TTL, Negatives, ResolveError, Resolver};
use crate::source::{Publisher, Watch};
use crate::tls::SetupError;

/// Follows a name.
///
/// # Errors
/// When the configured name servers cannot be used.
pub(crate) fn follow(config: &DnsDiscovery, resolver: &Resolver) -> Result<Watch, SetupError> {
    let own = if config.servers.is_empty() {
        resolver.clone()
    } else {
        let _inside = resolver.runtime().enter();
        Resolver::with_servers(&config.servers)?
    };
    let kind = match (config.record, config.port) {
        (Some(DnsRecord::A), Some(port)) | (None, Some(port)) => Kind::Addresses { port },
        // The configuration refuses addresses without a port.
        (Some(DnsRecord::Srv), _) | (_, None) => Kind::Services,
    };
    let question = Question {
        name: config.name.clone(),
        kind,
        min: config.min_interval,
        max: config.max_interval,
    };
    Ok(Watch::start(
        "dns",
        &config.name,
        resolver.runtime(),
        |publisher| run(own, question, publisher),
    ))
}

/// Whether [`follow`] would begin.
pub(crate) fn check(config: &DnsDiscovery) -> Result<(), SetupError> {
    if !config.servers.is_empty() {
        Resolver::with_servers(&config.servers)?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Addresses { port: u16 },
    Services,
}

#[derive(Debug)]
struct Question {
    name: String,
    kind: Kind,
    min: Duration,
    max: Duration,
}

async fn run(resolver: Resolver, question: Question, publisher: Publisher) {
    let Question { min, max, .. } = question;
    let max = max.max(min);
    let mut negatives = Negatives::default();
    let mut backoff = Backoff::new(
        min.max(Duration::from_millis(500)),
        MAX_NEGATIVE_TTL.min(max),
    );
    loop {
        let wait = match ask(&resolver, &question).await {
            Ok(answer) => {
                negatives.end();
                backoff.reset();
                let wait = answer.ttl.clamp(min, max);
                publisher.good(endpoints(answer, question.kind), None);
                // Not before its time: a caching server would answer with the last second of the same record.
                between(wait, 1.0, 1.05)
            }
            Err(error) => {
                if negatives.believed(&error, Instant::now()) {
                    publisher.good(EndpointSet::default(), Some(format!("dns: {error}")));
                } else {
                    publisher.trouble(format!("dns: {error}"));
                }
                match error {
                    ResolveError::Negative { ttl: Some(ttl), .. } => {
                        ttl.clamp(min, MAX_NEGATIVE_TTL.max(min))
                    }
                    _ => backoff.wait().max(min),
                }
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn ask(resolver: &Resolver, question: &Question) -> Result<Answer, ResolveError> {
    match question.kind {
        Kind::Addresses { .. } => resolver.look_up_both(&question.name).await,
        Kind::Services => resolver.look_up(&question.name, RecordType::SRV).await,
    }
}

fn endpoints(answer: Answer, kind: Kind) -> EndpointSet {
    let mut records = answer.records;
    // Name servers rotate their answers: sorted, an unchanged list is seen as unchanged.
    records.sort();
    records.dedup();
    let mut priorities: Vec<u16> = records.iter().filter_map(Data::priority).collect();
    priorities.dedup();
    let rank = |priority: u16| priorities.binary_search(&priority).unwrap_or_default();
    records
        .into_iter()
        .filter_map(|record| match (record, kind) {
            (Data::Ip(ip), Kind::Addresses { port }) => {
                Some(Endpoint::new(tcp(&ip.to_string(), port)))
            }
            // Port 0 and target "." say "decidedly not available" (RFC 2782).
            (Data::Srv { port, target, .. }, Kind::Services) if port == 0 || target == "." => None,
            (
                Data::Srv {
                    priority,
                    weight,
                    port,
                    target,
                },
                Kind::Services,
            ) => Some(Endpoint {
                weight: u32::from(weight).max(1),
                priority: u32::try_from(rank(priority)).unwrap_or(u32::MAX),
                ..Endpoint::new(tcp(&target, port))
            }),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Data {
        Data::Srv {
            priority,
            weight,
            port,
            target: target.to_owned(),
        }
    }

    fn read(records: Vec<Data>) -> Vec<(String, u32, u32)> {
        let set = endpoints(
            Answer {
                records,
                ttl: Duration::ZERO,
            },
            Kind::Services,
        );
        set.iter()
            .map(|e| (e.id.to_string(), e.weight, e.priority))
            .collect()
    }

    #[test]
    fn srv_priorities_are_ranked_and_weight_zero_still_gets_a_little() {
        let records = vec![
            srv(20, 0, 80, "b.x."),
            srv(10, 30, 80, "a.x."),
            srv(20, 5, 81, "c.x."),
        ];
        let expected = [("a.x.:80", 30, 0), ("b.x.:80", 1, 1), ("c.x.:81", 5, 1)];
        assert_eq!(
            read(records),
            expected.map(|(id, weight, priority)| (id.to_owned(), weight, priority))
        );
    }

    #[test]
    fn a_service_that_is_decidedly_not_available_has_no_endpoint() {
        assert!(read(vec![srv(0, 0, 0, ".")]).is_empty());
        assert!(read(vec![srv(0, 0, 80, ".")]).is_empty());
    }

    #[test]
    fn rotated_answers_are_no_change() {
        let [a, b] = ["10.0.0.1", "fd00::1"].map(|ip| Data::Ip(ip.parse().expect("address")));
        let read = |records| {
            endpoints(
                Answer {
                    records,
                    ttl: Duration::ZERO,
                },
                Kind::Addresses { port: 80 },
            )
        };
        assert_eq!(read(vec![a.clone(), b.clone()]), read(vec![b, a]));
    }
}
