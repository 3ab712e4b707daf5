//! `grpc.reflection.v1.ServerReflection` and the same as `v1alpha`: the built-in services describe themselves. What routed services
//! are made of only their endpoints know; a route for the reflection service asks them.

use tidegate_wire::grpc::GrpcStatus;

use super::call::{Call, End};
use super::descriptors::Index;
use super::proto::{Fields, Malformed, put_bytes, put_number};

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
enum Question<'a> {
    File(&'a str),
    Symbol(&'a str),
    Extension(&'a str),
    ExtensionNumbers(&'a str),
    Services,
}

/// Answers until the caller has no more questions.
pub(super) async fn answer(call: &mut Call<'_, '_>) -> End {
    let patience = call.context.caller.listener.config.limits.idle_timeout;
    loop {
        let request = match call.next(patience).await {
            Ok(Some(request)) => request,
            Ok(None) => return End::ok(),
            Err(end) => return end,
        };
        let response = match question(&request) {
            Ok(Some(question)) => response(&request, &question),
            Ok(None) => {
                return End::new(
                    GrpcStatus::InvalidArgument,
                    "the request asks nothing known",
                );
            }
            Err(e) => return e.into(),
        };
        if let Err(end) = call.send(&response).await {
            return end;
        }
        if call.context.worker.shared.is_draining() {
            return End::new(GrpcStatus::Unavailable, "the gateway is draining");
        }
    }
}

/// Reads a `ServerReflectionRequest`. Of a choice the last one that is set counts.
fn question(request: &[u8]) -> Result<Option<Question<'_>>, Malformed> {
    let mut question = None;
    for field in Fields::new(request) {
        let (number, value) = field?;
        match number {
            3 => question = Some(Question::File(value.text()?)),
            4 => question = Some(Question::Symbol(value.text()?)),
            5 => {
                let mut of = "";
                for field in Fields::new(value.bytes()?) {
                    if let (1, value) = field? {
                        of = value.text()?;
                    }
                }
                question = Some(Question::Extension(of));
            }
            6 => question = Some(Question::ExtensionNumbers(value.text()?)),
            7 => {
                value.text()?;
                question = Some(Question::Services);
            }
            _ => {}
        }
    }
    Ok(question)
}

/// A `ServerReflectionResponse`.
fn response(request: &[u8], question: &Question<'_>) -> Vec<u8> {
    let index = Index::get();
    let mut out = Vec::new();
    put_bytes(&mut out, 2, request);
    let mut body = Vec::new();
    let found = match *question {
        Question::File(name) => index.file(name).map(|file| (4, file)),
        Question::Symbol(name) => index.declaring(name).map(|file| (4, file)),
        // None of the types here can be extended.
        Question::Extension(_) => None,
        Question::ExtensionNumbers(name) => index.is_message(name).then_some((5, name.as_bytes())),
        Question::Services => {
            for service in index.services() {
                let mut entry = Vec::with_capacity(service.len() + 4);
                put_bytes(&mut entry, 1, service.as_bytes());
                put_bytes(&mut body, 1, &entry);
            }
            put_bytes(&mut out, 6, &body);
            return out;
        }
    };
    match found {
        Some((field, value)) => {
            put_bytes(&mut body, 1, value);
            put_bytes(&mut out, field, &body);
        }
        None => {
            let what = match question {
                Question::File(_) => "file",
                Question::Symbol(_) => "symbol",
                Question::Extension(_) => "extension",
                Question::ExtensionNumbers(_) | Question::Services => "type",
            };
            put_number(&mut body, 1, u64::from(GrpcStatus::NotFound.code()));
            let text = format!("no such {what} among the services that the gateway answers itself");
            put_bytes(&mut body, 2, text.as_bytes());
            put_bytes(&mut out, 7, &body);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::proto::Value;
    use super::*;

    fn ask(field: u32, text: &[u8]) -> Vec<u8> {
        let mut request = Vec::new();
        put_bytes(&mut request, 1, b"host");
        put_bytes(&mut request, field, text);
        request
    }

    /// The answer's field and its content, after a look at the copy of the request.
    fn answered(request: &[u8]) -> (u32, Vec<u8>) {
        let question = question(request).expect("valid").expect("known");
        let out = response(request, &question);
        let fields: Vec<_> = Fields::new(&out).collect::<Result<_, _>>().expect("valid");
        assert_eq!(fields[0], (2, Value::Bytes(request)));
        assert_eq!(fields.len(), 2);
        (
            fields[1].0,
            fields[1].1.bytes().expect("a message").to_vec(),
        )
    }

    #[test]
    fn files_are_found_by_name_and_by_what_they_declare() {
        let by_name = answered(&ask(3, b"grpc/health/v1/health.proto"));
        let by_symbol = answered(&ask(4, b"grpc.health.v1.Health.Check"));
        assert_eq!(by_name, by_symbol);
        assert_eq!(by_name.0, 4);
    }

    #[test]
    fn what_is_unknown_is_an_error_in_the_answer() {
        for request in [
            ask(3, b"no.proto"),
            ask(4, b"no.Such"),
            ask(5, b"\x0a\x21grpc.health.v1.HealthCheckRequest\x10\x07"),
            ask(6, b"no.Such"),
        ] {
            let (field, error) = answered(&request);
            assert_eq!((field, &error[..2]), (7, &[8, 5][..]));
        }
        let (field, numbers) = answered(&ask(6, b"grpc.health.v1.HealthCheckRequest"));
        assert_eq!((field, numbers.len()), (5, 2 + 33));
    }

    #[test]
    fn an_empty_request_asks_nothing() {
        assert_eq!(question(b""), Ok(None));
        assert_eq!(question(b"\x0a\x01h"), Ok(None));
        assert_eq!(question(b"\x3a\x00"), Ok(Some(Question::Services)));
        assert_eq!(question(b"\x1a\x05x"), Err(Malformed));
    }
}
