//! What the tests of compiled routes share.

#![allow(dead_code)] // each test program uses a part

use http::{HeaderMap, HeaderValue, Method};
use tidegate_route::{Model, RequestView, Router};

pub(crate) fn router(yaml: &str) -> Router {
    let text = format!("listeners: [{{ name: main, address: 127.0.0.1:0 }}]\n{yaml}");
    let loaded = tidegate_config::load_str("test.yaml", &text)
        .unwrap_or_else(|problems| panic!("{problems}"));
    Router::compile(&loaded.config).unwrap()
}

pub(crate) const UPSTREAMS: &str = "
upstreams:
  - { name: a, endpoints: [ { address: 127.0.0.1:1 } ] }
  - { name: b, endpoints: [ { address: 127.0.0.1:2 } ], balance: { ring_hash: { header: x-user } } }
  - { name: c, endpoints: [ { address: 127.0.0.1:3 } ], balance: source_ip_hash }
";

pub(crate) fn routes(yaml: &str) -> Router {
    router(&format!("routes:\n{yaml}\n{UPSTREAMS}"))
}

pub(crate) struct Ask {
    pub(crate) host: &'static str,
    pub(crate) path: &'static str,
    pub(crate) query: Option<&'static str>,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) source: Option<std::net::IpAddr>,
    pub(crate) zone: &'static str,
}

pub(crate) fn ask(host: &'static str, path: &'static str) -> Ask {
    Ask {
        host,
        path,
        query: None,
        method: Method::GET,
        headers: HeaderMap::new(),
        source: None,
        zone: "",
    }
}

impl Ask {
    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Ask {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            host: self.host,
            path: self.path,
            query: self.query,
            method: &self.method,
            headers: &self.headers,
            source: self.source,
            caller_region: "",
            caller_zone: self.zone,
            model: Model::Unread,
        }
    }

    pub(crate) fn by<'r>(&self, router: &'r Router) -> Option<&'r str> {
        let found = router.find(&self.view());
        let linear = router.find_linearly(&self.view());
        assert_eq!(
            found.map(|f| (f.route.index, f.matched)),
            linear.map(|f| (f.route.index, f.matched))
        );
        found.map(|found| &*found.route.name)
    }
}
