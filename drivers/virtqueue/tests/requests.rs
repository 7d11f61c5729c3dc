//! Queues of requests: what is asked, what is answered, what a hostile driver gets.

mod support;

use support::{BOTH, DATA, GPA, Guest};
use virtio_defs::feature::INDIRECT_DESC;
use virtqueue::RequestQueue;
use virtqueue::driver::Buffer;

fn queue(guest: &Guest) -> RequestQueue {
    RequestQueue::new(guest.tx_config(), guest.map.clone()).unwrap()
}

fn at(offset: usize) -> u64 {
    GPA + (DATA + offset) as u64
}

#[test]
fn a_request_is_read_and_answered_across_its_buffers() {
    for features in BOTH {
        let mut guest = Guest::new(8, features);
        let mut queue = queue(&guest);
        assert!(queue.take().unwrap().is_none());
        guest.write(DATA, b"hel");
        guest.write(DATA + 64, b"lo");
        let chain = [
            Buffer::readable(at(0), 3),
            Buffer::readable(at(64), 2),
            Buffer::writable(at(128), 1),
            Buffer::writable(at(192), 4),
        ];
        assert!(guest.tx.add(&chain, 7));
        guest.tx.publish();
        let request = queue.take().unwrap().unwrap();
        assert_eq!((request.readable_len(), request.writable_len()), (5, 5));
        let mut text = [0; 8];
        assert_eq!((request.read(0, &mut text), &text[..5]), (5, &b"hello"[..]));
        assert_eq!((request.read(2, &mut text[..2]), &text[..2]), (2, &b"ll"[..]));
        assert_eq!(request.read(5, &mut text), 0);
        assert_eq!(request.write(0, b"world!"), 5);
        queue.complete(request, 5);
        assert_eq!((guest.read(DATA + 128, 1), guest.read(DATA + 192, 4)), (b"w".to_vec(), b"orld".to_vec()));
        let mut got = vec![];
        guest.tx.poll(8, |token, len| got.push((token, len))).unwrap();
        assert_eq!(got, [(7, 5)]);
    }
}

#[test]
fn requests_may_be_completed_in_another_order() {
    for features in BOTH {
        let mut guest = Guest::new(8, features);
        let mut queue = queue(&guest);
        for token in 0..3 {
            assert!(guest.tx.add(&[Buffer::writable(at(0), 4)], token));
        }
        guest.tx.publish();
        let requests: Vec<_> = (0..3).map(|_| queue.take().unwrap().unwrap()).collect();
        requests.into_iter().rev().for_each(|request| queue.complete(request, 1));
        let mut got = vec![];
        guest.tx.poll(8, |token, _| got.push(token)).unwrap();
        got.sort_unstable();
        assert_eq!(got, [0, 1, 2]);
    }
}

#[test]
fn indirect_requests_are_taken_where_they_were_negotiated() {
    for features in BOTH {
        let mut guest = Guest::new(8, features | INDIRECT_DESC);
        let mut queue = queue(&guest);
        let table = guest.place(64);
        assert!(guest.tx.add_indirect(&[Buffer::readable(at(0), 2), Buffer::writable(at(64), 1)], table, 1));
        guest.tx.publish();
        let request = queue.take().unwrap().unwrap();
        assert_eq!((request.readable_len(), request.writable_len()), (2, 1));
    }
}

#[test]
fn a_buffer_to_read_behind_one_to_write_stops_the_queue() {
    for features in BOTH {
        let mut guest = Guest::new(8, features);
        let mut queue = queue(&guest);
        assert!(guest.tx.add(&[Buffer::writable(at(0), 1), Buffer::readable(at(64), 1)], 1));
        guest.tx.publish();
        let fault = queue.take().unwrap_err();
        assert_eq!(queue.take().unwrap_err(), fault);
        assert!(!queue.ask_for_kicks());
    }
}

#[test]
fn a_request_outside_of_memory_stops_the_queue() {
    for features in BOTH {
        let mut guest = Guest::new(8, features);
        let mut queue = queue(&guest);
        assert!(guest.tx.add(&[Buffer::readable(GPA - 4096, 8)], 1));
        guest.tx.publish();
        assert!(queue.take().is_err());
    }
}
