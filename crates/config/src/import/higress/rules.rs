//! Rules: what they fit, and what stands in for it where only Higress knows.

use crate::import::Cx;
use crate::import::reader::Section;
use crate::import::text::Yaml;
use crate::source::Span;

/// An override with the conditions under which it holds.
pub(super) struct Rule<'a> {
    pub(super) config: Section<'a>,
    span: Span,
    domains: Vec<&'a str>,
    routes: Vec<&'a str>,
    route_prefixes: Vec<&'a str>,
    services: Vec<&'a str>,
}

/// Where a route of ours takes requests.
pub(super) struct Criteria {
    /// A name for the route.
    pub(super) name: String,
    hosts: Vec<String>,
    /// Headers that name the place: all of one of these.
    stand_ins: Vec<Vec<StandIn>>,
}

/// A header and its value.
type StandIn = (&'static str, String);

const ROUTE: &str = "x-higress-route";
const ROUTE_PREFIX: &str = "x-higress-route-prefix";
const SERVICE: &str = "x-higress-service";

/// Rules inside a plugin's configuration.
pub(super) fn inline<'a>(config: &Section<'a>, cx: &mut Cx<'_>) -> Vec<Rule<'a>> {
    let list = config.sections("_rules_", cx);
    let rule = |config: Section<'a>| Rule {
        span: config.span,
        domains: names(&config, "_match_domain_"),
        routes: names(&config, "_match_route_"),
        route_prefixes: names(&config, "_match_route_prefix_"),
        services: names(&config, "_match_service_"),
        config,
    };
    list.into_iter().map(rule).collect()
}

/// Rules of a WasmPlugin object.
pub(super) fn of_object<'a>(spec: &Section<'a>, cx: &mut Cx<'_>) -> Vec<Rule<'a>> {
    let mut rules = Vec::new();
    for section in spec.sections("matchRules", cx) {
        if section.flag("configDisable") == Some(true) {
            let text = "a rule that turns the plugin off lets requests pass as they are: left out, add a route to an upstream";
            cx.note(section.span, text);
            continue;
        }
        let Some(config) = section.section("config") else {
            cx.note(section.span, "a rule without `config`: left out");
            continue;
        };
        let rule = Rule {
            span: section.span,
            domains: names(&section, "domain"),
            routes: names(&section, "ingress"),
            route_prefixes: Vec::new(),
            services: names(&section, "service"),
            config,
        };
        section.note_unread(cx);
        rules.push(rule);
    }
    rules
}

fn names<'a>(section: &Section<'a>, key: &str) -> Vec<&'a str> {
    section
        .texts(key)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

impl Rule<'_> {
    /// What our route matches; `None` if nothing can be said.
    pub(super) fn criteria(&self, cx: &mut Cx<'_>) -> Option<Criteria> {
        let mut hosts = Vec::new();
        for domain in &self.domains {
            match host(domain) {
                Some(host) => hosts.push(host),
                None => cx.note(
                    self.span,
                    format!("the domain {domain:?} has no counterpart (hosts are NAME, *.NAME or *): left out"),
                ),
            }
        }
        if !self.domains.is_empty() && hosts.is_empty() {
            let text = "a rule of which no domain is left is left out: its requests take the next route that fits";
            cx.note(self.span, text);
            return None;
        }
        for (kind, header, names) in [
            ("the route", ROUTE, &self.routes),
            ("routes that begin with", ROUTE_PREFIX, &self.route_prefixes),
            ("the service", SERVICE, &self.services),
        ] {
            for name in names {
                let text = format!(
                    "what takes {kind} {name} stands in Higress's routes, not here: the header `{header}: {name}` stands in for it; write the hosts, paths or models into `match`"
                );
                cx.note(self.span, text);
            }
        }
        let stand_ins = self.stand_ins();
        let name = stand_ins
            .iter()
            .flatten()
            .next()
            .map(|(_, name)| name.as_str());
        let name = name.or(hosts.first().map(String::as_str)).unwrap_or("rule");
        let name = name.rsplit('/').next().unwrap_or(name);
        Some(Criteria {
            name: name.trim_start_matches("*.").replace('*', "any"),
            hosts,
            stand_ins,
        })
    }
}

impl Rule<'_> {
    /// A rule with routes and services holds where both fit; else any of its names does.
    fn stand_ins(&self) -> Vec<Vec<StandIn>> {
        let named = |header: &'static str, names: &[&str]| -> Vec<StandIn> {
            names
                .iter()
                .map(|name| (header, (*name).to_owned()))
                .collect()
        };
        let routes = named(ROUTE, &self.routes);
        let services = named(SERVICE, &self.services);
        let prefixes = named(ROUTE_PREFIX, &self.route_prefixes).into_iter();
        if routes.is_empty() || services.is_empty() {
            let any = routes.into_iter().chain(prefixes).chain(services);
            return any.map(|one| vec![one]).collect();
        }
        let pairs = routes.iter().flat_map(|route| {
            services
                .iter()
                .map(|service| vec![route.clone(), service.clone()])
        });
        pairs.chain(prefixes.map(|one| vec![one])).collect()
    }
}

/// A domain of Higress as a host of ours; ports are not looked at there either.
fn host(domain: &str) -> Option<String> {
    let name = match domain.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => domain,
    };
    let text = match name.strip_prefix('*') {
        Some("") => return Some("*".into()),
        Some(rest) => rest.strip_prefix('.')?,
        None => name,
    };
    let label = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!text.is_empty() && text.chars().all(label)).then(|| name.to_ascii_lowercase())
}

impl Criteria {
    /// Takes every request.
    pub(super) fn everything() -> Self {
        Self {
            name: "default".into(),
            hosts: Vec::new(),
            stand_ins: Vec::new(),
        }
    }

    /// The route's `match`.
    pub(super) fn condition(&self) -> Option<Yaml> {
        let hosts = || {
            let hosts = self.hosts.iter().cloned().map(Yaml::Text).collect();
            ("hosts".to_owned(), Yaml::List(hosts))
        };
        let mut any = Vec::new();
        for all in &self.stand_ins {
            let header =
                |(header, name): &StandIn| ((*header).to_owned(), Yaml::text(name.clone()));
            let headers = Yaml::Map(all.iter().map(header).collect());
            any.push(Yaml::Map(vec![("headers".to_owned(), headers)]));
        }
        if !self.hosts.is_empty() {
            any.push(Yaml::Map(vec![hosts()]));
        }
        match any.len() {
            0 => None,
            1 => any.pop(),
            _ => Some(Yaml::List(any)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn domains_become_hosts_where_they_mean_the_same() {
        let cases = [
            ("a.example.com", Some("a.example.com")),
            ("A.example.com:8080", Some("a.example.com")),
            ("*.example.com", Some("*.example.com")),
            ("*", Some("*")),
            ("www.*", None),
            ("*example.com", None),
        ];
        for (domain, wanted) in cases {
            assert_eq!(host(domain).as_deref(), wanted, "{domain}");
        }
    }
}
