//! The frames a stream consists of, and what differs from one to the next.

use bench::traffic::Headers;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
/// Addresses, ports and identifiers of testpmd's flowgen (app/test-pmd/flowgen.c), so that rules fit both loads.
const SOURCE: [u8; 4] = [10, 254, 0, 0];
const FIRST_DESTINATION: u32 = u32::from_be_bytes([10, 253, 0, 0]);
const PORTS: [u16; 2] = [1000, 1001];

/// A stream's frame and the state of what changes.
pub struct Template {
    frame: Vec<u8>,
    headers: Headers,
    next: u32,
    random: u64,
}

impl Template {
    /// A frame of `size` bytes between the ports with these addresses. Random headers are the same for the same `seed`.
    ///
    /// # Panics
    /// When the headers do not fit.
    pub fn new(headers: Headers, size: usize, from: u8, to: u8, seed: u64) -> Template {
        let is_v6 = matches!(headers, Headers::Flows6(_) | Headers::Random6);
        let ip = if is_v6 { IPV6 } else { IPV4 };
        assert!(size >= ETHERNET + ip + UDP, "{size} bytes");
        let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from];
        if is_v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(((size - ETHERNET - IPV6) as u16).to_be_bytes());
            frame.extend([17, 64]);
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(((size - ETHERNET) as u16).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(SOURCE);
            frame.extend(FIRST_DESTINATION.to_be_bytes());
            let sum = checksum(&frame[ETHERNET..]);
            frame[24..26].copy_from_slice(&sum);
        }
        frame.extend(PORTS.map(u16::to_be_bytes).as_flattened());
        frame.extend(((size - ETHERNET - ip) as u16).to_be_bytes());
        // No UDP checksum: nobody on the way computes one.
        frame.extend([0, 0]);
        frame.resize(size, 0);
        // Not zero, which would stay zero.
        Template { frame, headers, next: 0, random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The frame as it is before anything is changed.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Bytes of the frame.
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    /// Where the time of sending lies: at the start of the UDP payload.
    pub fn stamp_at(&self) -> usize {
        let ip = if matches!(self.headers, Headers::Flows6(_) | Headers::Random6) { IPV6 } else { IPV4 };
        ETHERNET + ip + UDP
    }

    /// Hands out what is to be written into the next frame, as offset and bytes.
    #[inline]
    pub fn vary(&mut self, mut write: impl FnMut(usize, &[u8])) {
        match self.headers {
            Headers::Flows(1) | Headers::Flows6(1) => {}
            Headers::Flows(count) => {
                let destination = FIRST_DESTINATION + self.step(count);
                self.frame[30..34].copy_from_slice(&destination.to_be_bytes());
                self.frame[24..26].fill(0);
                let sum = checksum(&self.frame[ETHERNET..ETHERNET + IPV4]);
                self.frame[24..26].copy_from_slice(&sum);
                write(24, &self.frame[24..34]);
            }
            Headers::Flows6(count) => write(50, &self.step(count).to_be_bytes()),
            Headers::Random => {
                let bytes = [self.draw(), self.draw()].map(u64::to_le_bytes);
                self.frame[26..38].copy_from_slice(&bytes.as_flattened()[..12]);
                self.frame[24..26].fill(0);
                let sum = checksum(&self.frame[ETHERNET..ETHERNET + IPV4]);
                self.frame[24..26].copy_from_slice(&sum);
                write(24, &self.frame[24..38]);
            }
            Headers::Random6 => {
                let bytes = [(); 5].map(|()| self.draw().to_le_bytes());
                write(22, &bytes.as_flattened()[..36]);
            }
        }
    }

    /// The next flow's number.
    fn step(&mut self, count: u32) -> u32 {
        let number = self.next;
        self.next = if number + 1 < count { number + 1 } else { 0 };
        number
    }

    /// Marsaglia's xorshift64*: cheap, and good enough to meet no header twice.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.as_chunks::<2>().0;
    let sum: u32 = words.iter().map(|&word| u32::from(u16::from_be_bytes(word))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn frames(headers: Headers, count: usize) -> Vec<Vec<u8>> {
        let mut template = Template::new(headers, 64, 1, 2, 7);
        let mut frame = template.frame().to_vec();
        let mut next = || {
            template.vary(|offset, bytes| frame[offset..offset + bytes.len()].copy_from_slice(bytes));
            frame.clone()
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn checksums_of_ipv4_headers_are_right_in_every_frame() {
        for headers in [Headers::Flows(1), Headers::Flows(70_000), Headers::Random] {
            for frame in frames(headers, 66_000) {
                assert_eq!(checksum(&frame[14..34]), [0, 0], "{headers:?}");
            }
        }
    }

    #[test]
    fn there_are_as_many_flows_as_asked_for() {
        for headers in [Headers::Flows(300), Headers::Flows6(300)] {
            let different: BTreeSet<_> = frames(headers, 900).into_iter().collect();
            assert_eq!(different.len(), 300);
        }
    }

    #[test]
    fn random_headers_do_not_repeat() {
        for headers in [Headers::Random, Headers::Random6] {
            let different: BTreeSet<_> = frames(headers, 10_000).into_iter().collect();
            assert_eq!(different.len(), 10_000);
        }
    }

    #[test]
    fn lengths_agree_with_the_frame() {
        let v4 = Template::new(Headers::Flows(1), 1514, 1, 2, 7);
        assert_eq!(u16::from_be_bytes([v4.frame()[16], v4.frame()[17]]), 1500);
        assert_eq!(u16::from_be_bytes([v4.frame()[38], v4.frame()[39]]), 1480);
        let v6 = Template::new(Headers::Flows6(1), 70, 1, 2, 7);
        assert_eq!(u16::from_be_bytes([v6.frame()[18], v6.frame()[19]]), 16);
        assert_eq!(v6.stamp_at(), 62);
    }
}
