//! `grpc.health.v1.Health/Check`: two messages of one field each, written by hand.

use bytes::{BufMut, Bytes, BytesMut};

/// Path of the method.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";
/// Longest answer that is read: the message is two bytes long, the rest is room for what may be added to it.
pub(super) const MAX_ANSWER: usize = 4096;

/// Field 1, length-delimited.
const SERVICE: u8 = 1 << 3 | 2;
/// Field 1 of the answer, a varint.
const STATUS: u64 = 1 << 3;

/// `HealthCheckRequest { service }` as one gRPC message.
pub(super) fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(SERVICE);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a service name of the configuration"));
    frame.put_slice(&message);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads the answer's message: `Ok` when it says SERVING, otherwise what it says.
pub(super) fn serving(body: &[u8]) -> Result<(), String> {
    match status(body) {
        Some(1) => Ok(()),
        Some(0) => Err("gRPC health: UNKNOWN".to_owned()),
        Some(2) => Err("gRPC health: NOT_SERVING".to_owned()),
        Some(3) => Err("gRPC health: SERVICE_UNKNOWN".to_owned()),
        Some(other) => Err(format!("gRPC health: status {other}")),
        None => Err("gRPC health: the answer is no HealthCheckResponse".to_owned()),
    }
}

/// `HealthCheckResponse.status` of one uncompressed message; none when it is not one.
fn status(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let mut rest = message;
    // proto3: a field that is not there has the value 0.
    let mut status = 0;
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut rest)?;
                if key == STATUS {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What a gRPC status of the call itself means for the endpoint.
pub(super) fn refused(code: &str, message: &str) -> String {
    let what = match code {
        "5" => "gRPC health: the server does not know this service (NOT_FOUND)".to_owned(),
        "12" => "the server has no grpc.health.v1.Health service (UNIMPLEMENTED): check by http or tcp instead".to_owned(),
        code => format!("gRPC health: the call failed with status {code}"),
    };
    if message.is_empty() {
        what
    } else {
        format!("{what}: {message}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_request_is_what_protobuf_would_write() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(
            &request("a.B")[..],
            [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']
        );
        assert_eq!(request(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn only_serving_is_healthy() {
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert_eq!(
            serving(&[0, 0, 0, 0, 5, 0x12, 1, b'x', 8, 1]),
            Ok(()),
            "unknown fields are skipped"
        );
        for bad in [
            &[0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 2, 8, 2],
            &[0, 0, 0, 0, 2, 8, 3],
            &[0, 0, 0, 0, 2, 8, 9],
            &[0, 0, 0, 0, 2, 8],
            &[1, 0, 0, 0, 2, 8, 1],
            &[],
            &[0, 0, 0, 0, 1, 0xff],
        ] {
            assert!(serving(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_can_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = serving(&body);
            let mut framed = vec![0, 0, 0, 0, body.len() as u8];
            framed.extend(&body);
            let _ = serving(&framed);
        }
    }
}
