//! Entry points for fuzzers, as plain functions; any input may be given to them.

use crate::codec::Decoder;
use crate::message::FDS_MAX;
use crate::request::Request;

/// Feeds `data` to the decoder in pieces of any size with any number of descriptors, and decodes what comes out.
///
/// The first bytes steer: each piece is a byte for its length, a byte for its descriptors, then its bytes.
/// What is decoded is encoded and decoded again, and must stay the same.
pub fn fuzz_messages(data: &[u8]) {
    let mut decoder = Decoder::<u8>::new();
    let mut rest = data;
    while let [len, fds, tail @ ..] = rest {
        let n = usize::from(*len).max(1).min(decoder.wanted()).min(tail.len());
        let (piece, tail) = tail.split_at(n);
        rest = tail;
        let fds = (0..*fds).take(FDS_MAX + 1);
        match decoder.feed(piece, fds) {
            Err(_) => return,
            Ok(None) => {}
            Ok(Some(message)) => {
                if let Ok(request) = Request::parse(message) {
                    round_trip(request);
                }
            }
        }
    }
    let (bytes, fds) = decoder.into_parts();
    let decoder = Decoder::from_parts(&bytes, fds).expect("parts of a decoder make a decoder");
    assert_eq!(decoder.parts().0, bytes);
}

fn round_trip(request: Request<u8>) {
    let code = request.code();
    let sent = request.encode(true);
    let (again, fds) = (sent.bytes.clone(), sent.fds.clone());
    let mut decoder = Decoder::new();
    let (head, payload) = sent.bytes.split_at(crate::HEADER_LEN);
    let message = match decoder.feed(head, sent.fds).expect("own header") {
        Some(message) => message,
        None => decoder.feed(payload, []).expect("own payload").expect("complete"),
    };
    let request = Request::parse(message).expect("own encoding");
    assert_eq!(request.code(), code);
    let sent = request.encode(true);
    assert_eq!((sent.bytes, sent.fds), (again, fds));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fuzz_messages;
    use crate::{Header, RequestCode};
    use zerocopy::IntoBytes;

    proptest! {
        #[test]
        fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            fuzz_messages(&data);
        }

        #[test]
        fn any_payload_under_a_valid_header_is_survived(
            code in 0u32..50,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            fds in 0u8..40,
        ) {
            let code = RequestCode(code);
            let mut data = vec![12, fds];
            data.extend_from_slice(Header { code: code.0, flags: 1, size: payload.len() as u32 }.as_bytes());
            for piece in payload.chunks(200) {
                data.extend_from_slice(&[200, 0]);
                data.extend_from_slice(piece);
            }
            fuzz_messages(&data);
        }
    }
}
