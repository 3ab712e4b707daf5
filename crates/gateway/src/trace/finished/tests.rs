use super::*;

use tidegate_otlp::Record as _;

/// A request that was answered by Tidegate itself.
fn finished() -> Finished {
    Finished {
        parent: None,
        own: TraceContext {
            trace_id: 1,
            span_id: 2,
            flags: 1,
        },
        state: String::new(),
        attempts: Vec::new(),
        made: 0,
        at: Duration::from_secs(1_800_000_000),
        started: Instant::now(),
        took: Duration::from_millis(5),
        method: "GET".into(),
        path: "/a".into(),
        authority: Some("[::1]:81".into()),
        agent: None,
        request_id: None,
        version: Version::HTTP_11,
        scheme: Scheme::Http,
        listener: "main".into(),
        peer: None,
        route: Some("r".into()),
        status: 200,
        grpc: None,
        is_grpc: false,
        error: false,
        code: "",
        bytes_up: 0,
        bytes_down: 0,
        operation: None,
        virtual_key: None,
    }
}

fn span_of(finished: Finished) -> Span {
    let mut spans = Vec::new();
    assert_eq!(Box::new(finished).spans_written(&mut spans), 1);
    spans.remove(0)
}

trait Written {
    /// How many it said that it makes, which it does.
    fn spans_written(self, out: &mut Vec<Span>) -> usize;
}

impl Written for Box<Finished> {
    fn spans_written(self, out: &mut Vec<Span>) -> usize {
        let n = self.spans();
        self.write(out);
        assert_eq!(out.len(), n);
        n
    }
}

/// The attribute, as debugging shows its value.
fn shown(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    found.map_or_else(String::new, |pair| format!("{:?}", pair.value))
}

#[test]
fn a_request_says_who_was_asked_for_what_and_what_came_of_it() {
    let span = span_of(finished());
    assert_eq!(span.name, "GET r");
    assert_eq!(span.start_time_unix_nano, 1_800_000_000_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_800_000_000_005_000_000);
    assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
    assert!(span.parent_span_id.is_empty() && span.status.is_none());
    assert!(shown(&span, "server.address").contains("[::1]"));
    assert!(shown(&span, "server.port").contains("81"));
    assert!(shown(&span, "http.response.status_code").contains("200"));
    assert!(shown(&span, "error.type").is_empty());
}

#[test]
fn a_servers_errors_are_those_of_the_server() {
    let failed = |finished: Finished| {
        let span = span_of(finished);
        (span.status.is_some(), shown(&span, "error.type"))
    };
    let with = |status, grpc| Finished {
        status,
        grpc,
        is_grpc: grpc.is_some(),
        ..finished()
    };
    assert!(!failed(with(404, None)).0);
    assert!(failed(with(503, None)).1.contains("503"));
    assert!(!failed(with(200, Some(5))).0);
    assert!(failed(with(200, Some(14))).1.contains("UNAVAILABLE"));
    let cut = Finished {
        error: true,
        code: "upstream-cut",
        ..finished()
    };
    assert!(failed(cut).1.contains("upstream-cut"));
    let gone = span_of(with(0, None));
    assert!(gone.status.is_none() && shown(&gone, "http.response.status_code").is_empty());
    assert!(shown(&gone, "tidegate.caller_gone").contains("true"));
}

#[test]
fn names_of_spans_are_few_whatever_method_comes() {
    let odd = Finished {
        method: "BREW".into(),
        route: None,
        ..finished()
    };
    let span = span_of(odd);
    assert_eq!(span.name, "HTTP");
    assert!(shown(&span, "http.request.method").contains("_OTHER"));
    let call = Finished {
        is_grpc: true,
        path: "/p.Service/Call".into(),
        ..finished()
    };
    assert_eq!(span_of(call).name, "p.Service/Call");
}

#[test]
fn a_host_has_a_port_or_none() {
    assert_eq!(host_and_port("a.test:80"), ("a.test", Some(80)));
    assert_eq!(host_and_port("a.test"), ("a.test", None));
    assert_eq!(host_and_port("[::1]"), ("[::1]", None));
    assert_eq!(host_and_port("a:b"), ("a", None));
}

#[test]
fn a_long_text_is_cut_between_letters() {
    let long = cut(&"ä".repeat(TEXT));
    assert_eq!((long.len(), long.capacity()), (TEXT, TEXT));
    assert_eq!(cut(&("x".repeat(TEXT - 1) + "ä")).len(), TEXT - 1);
    assert_eq!(cut("short"), "short");
}

#[test]
fn an_attribute_of_the_configuration_takes_the_place_of_ours() {
    let text = "tracing: { otlp: \"http://c\", service_name: edge, resource: { service.version: v9, team: a } }\nnode: { region: eu }";
    let config = tidegate_config::load_str("test", text)
        .expect("good")
        .config;
    let tracing = config.tracing.expect("on");
    let made = resource(&tracing, &config.node, "i");
    let keys: Vec<_> = made.iter().map(|pair| &*pair.key).collect();
    let expected = [
        "service.name",
        "service.instance.id",
        "cloud.region",
        "service.version",
        "team",
    ];
    assert_eq!(keys, expected);
}
