//! Loss, duplicates, order and latency, with memory allocated beforehand.

/// Sub-buckets in a power of two: values are told within 1/32.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Powers of two: up to 2^41 ns, 36 minutes.
const BUCKETS: usize = (41 - SUB_BITS as usize + 1) * SUB;

/// A histogram of nanoseconds, exact below 32 and within 3 % above.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS].into(), count: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    /// Counts a value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.buckets[bucket_of(value)] += 1;
        self.count += 1;
        self.sum += u128::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest; 0 when there is none.
    pub fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    /// The largest; 0 when there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean; 0 when there is none.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// The smallest value that this part (0 to 1) of all is not above, as far as buckets tell.
    pub fn quantile(&self, part: f64) -> u64 {
        let wanted = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, &n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return highest_in(bucket).clamp(self.min(), self.max);
            }
        }
        self.max
    }
}

#[inline]
fn bucket_of(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let power = value.ilog2();
    let sub = (value >> (power - SUB_BITS)) as usize & (SUB - 1);
    ((power - SUB_BITS + 1) as usize * SUB + sub).min(BUCKETS - 1)
}

fn highest_in(bucket: usize) -> u64 {
    let (power, sub) = (bucket / SUB, (bucket % SUB) as u64);
    if power == 0 { sub } else { ((SUB as u64 + sub + 1) << (power - 1)) - 1 }
}

/// What a numbered frame's arrival tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one, or one after a gap.
    InOrder,
    /// It was missing: a later one came before it.
    Reordered,
    /// It had come already.
    Duplicate,
    /// Too far behind to know whether it had come already.
    Late,
}

const WINDOW: u64 = 256;

/// The numbers seen of one flow.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// The highest number plus one; 0 while there is none. Wider than on the wire, so it doesn't wrap.
    next: u64,
    first: u64,
    unique: u64,
    /// Bit n: number `next - 1 - n` has come.
    seen: [u64; WINDOW as usize / 64],
}

impl Sequence {
    /// Numbers on the wire wrap at 32 bits; this is where those of a flow begin here, so that one before the first
    /// can be told.
    const ORIGIN: u64 = 1 << 40;

    /// Notes a number.
    #[inline]
    pub fn note(&mut self, number: u32) -> Arrival {
        if self.next == 0 {
            self.first = Self::ORIGIN + u64::from(number);
            self.next = self.first + 1;
            self.seen[0] = 1;
            self.unique = 1;
            return Arrival::InOrder;
        }
        let ahead = number.wrapping_sub(self.next as u32) as i32;
        if ahead >= 0 {
            self.shift(ahead as u64 + 1);
            self.next += ahead as u64 + 1;
            self.seen[0] |= 1;
            self.unique += 1;
            return Arrival::InOrder;
        }
        let behind = u64::from(ahead.unsigned_abs()) - 1;
        if behind >= WINDOW {
            return Arrival::Late;
        }
        let (word, bit) = ((behind / 64) as usize, 1 << (behind % 64));
        if self.seen[word] & bit != 0 {
            return Arrival::Duplicate;
        }
        self.seen[word] |= bit;
        self.unique += 1;
        self.first = self.first.min(self.next - 1 - behind);
        Arrival::Reordered
    }

    fn shift(&mut self, by: u64) {
        if by >= WINDOW {
            self.seen = Default::default();
            return;
        }
        let (words, bits) = ((by / 64) as usize, by % 64);
        for n in (0..self.seen.len()).rev() {
            let from = |n: Option<usize>| n.map_or(0, |n| self.seen[n]);
            let high = from(n.checked_sub(words)) << bits;
            let low = if bits == 0 { 0 } else { from(n.checked_sub(words + 1)) >> (64 - bits) };
            self.seen[n] = high | low;
        }
    }

    /// Different numbers that came.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Numbers between the first and the last that did not come.
    pub fn lost(&self) -> u64 {
        self.next - self.first - self.unique
    }
}

/// What arrived of all flows of one generator.
#[derive(Debug, Default)]
pub struct Arrivals {
    flows: Vec<Sequence>,
    pub duplicated: u64,
    pub reordered: u64,
    pub latency: Histogram,
}

impl Arrivals {
    /// Notes frame `number` of `flow`, which took `latency_ns`.
    #[inline]
    pub fn note(&mut self, flow: u16, number: u32, latency_ns: u64) {
        let flow = usize::from(flow);
        if flow >= self.flows.len() {
            // At most sixteen times in a generator's life.
            self.flows.resize((flow + 1).next_power_of_two(), Sequence::default());
        }
        self.latency.record(latency_ns);
        match self.flows[flow].note(number) {
            Arrival::InOrder => {}
            Arrival::Reordered | Arrival::Late => self.reordered += 1,
            Arrival::Duplicate => self.duplicated += 1,
        }
    }

    /// Frames missing between the first and the last of each flow.
    pub fn lost(&self) -> u64 {
        self.flows.iter().map(Sequence::lost).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn quantiles_are_those_of_the_sorted_values_within_3_percent() {
        let mut histogram = Histogram::new();
        let mut values: Vec<u64> = (0..10_000u64).map(|n| n * n % 7919 * n + 1).collect();
        values.iter().for_each(|&v| histogram.record(v));
        values.sort_unstable();
        for part in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = values[(values.len() as f64 * part).ceil() as usize - 1];
            let told = histogram.quantile(part);
            assert!(told >= exact && told as f64 <= exact as f64 * 1.04, "{part}: {told} for {exact}");
        }
        assert_eq!((histogram.min(), histogram.max()), (values[0], *values.last().unwrap()));
        assert_eq!(histogram.count(), 10_000);
    }

    #[test]
    fn any_value_has_a_bucket_and_small_ones_are_exact() {
        let mut histogram = Histogram::new();
        for value in [0, 31, u64::MAX] {
            histogram.record(value);
        }
        assert_eq!((histogram.quantile(0.01), histogram.quantile(0.6)), (0, 31));
        assert_eq!(histogram.quantile(1.0), highest_in(BUCKETS - 1));
        for value in (0..60).map(|shift| 1u64 << shift) {
            let bucket = bucket_of(value);
            assert!(bucket == BUCKETS - 1 || highest_in(bucket) >= value);
            assert!(bucket == 0 || highest_in(bucket - 1) < value);
        }
    }

    #[test]
    fn two_histograms_add_up() {
        let (mut a, mut b) = (Histogram::new(), Histogram::new());
        a.record(10);
        b.record(20);
        b.record(30);
        a.add(&b);
        assert_eq!((a.count(), a.min(), a.max(), a.mean()), (3, 10, 30, 20.0));
        assert_eq!(Histogram::new().quantile(0.5), 0);
    }

    fn numbers(all: &[u32]) -> (Sequence, Vec<Arrival>) {
        let mut sequence = Sequence::default();
        let arrivals = all.iter().map(|&n| sequence.note(n)).collect();
        (sequence, arrivals)
    }

    #[test]
    fn a_gap_is_loss_until_it_is_filled() {
        let (sequence, _) = numbers(&[0, 1, 4]);
        assert_eq!((sequence.unique(), sequence.lost()), (3, 2));
        let (sequence, arrivals) = numbers(&[0, 1, 4, 2, 3]);
        assert_eq!((sequence.unique(), sequence.lost()), (5, 0));
        assert_eq!(arrivals[3..], [Arrival::Reordered; 2]);
    }

    #[test]
    fn a_number_that_came_before_is_a_duplicate() {
        let (sequence, arrivals) = numbers(&[5, 6, 6, 5, 7]);
        assert_eq!(arrivals[2..4], [Arrival::Duplicate; 2]);
        assert_eq!((sequence.unique(), sequence.lost()), (3, 0));
    }

    #[test]
    fn numbers_wrap_and_may_come_before_the_first() {
        let (sequence, arrivals) = numbers(&[u32::MAX, 1, 0, u32::MAX - 1]);
        assert_eq!(arrivals, [Arrival::InOrder, Arrival::InOrder, Arrival::Reordered, Arrival::Reordered]);
        assert_eq!((sequence.unique(), sequence.lost()), (4, 0));
    }

    #[test]
    fn what_comes_far_too_late_is_counted_as_nothing_else() {
        let (sequence, arrivals) = numbers(&[0, 1000, 500]);
        assert_eq!(arrivals[2], Arrival::Late);
        assert_eq!((sequence.unique(), sequence.lost()), (2, 999));
    }

    #[test]
    fn loss_and_duplicates_are_those_of_a_set() {
        use proptest::prelude::*;
        proptest!(|(start in any::<u32>(), steps in proptest::collection::vec(-100i32..110, 1..300))| {
            let mut sequence = Sequence::default();
            let mut set = BTreeSet::new();
            let (mut at, mut highest) = (0i64, i64::MIN);
            for step in steps {
                at += i64::from(step);
                // Within the window, as a network would.
                at = at.max(highest.saturating_sub(200));
                let arrival = sequence.note(start.wrapping_add(at as u32));
                prop_assert_eq!(arrival == Arrival::Duplicate, !set.insert(at));
                prop_assert_eq!(arrival == Arrival::InOrder, at > highest);
                highest = highest.max(at);
            }
            prop_assert_eq!(sequence.unique(), set.len() as u64);
            let span = set.last().unwrap() - set.first().unwrap() + 1;
            prop_assert_eq!(sequence.lost(), span as u64 - set.len() as u64);
        });
    }

    #[test]
    fn flows_are_counted_apart() {
        let mut arrivals = Arrivals::default();
        for (flow, number) in [(0, 0), (65535, 10), (0, 2), (65535, 11), (65535, 11)] {
            arrivals.note(flow, number, 1000);
        }
        assert_eq!((arrivals.lost(), arrivals.duplicated, arrivals.reordered), (1, 1, 0));
        assert_eq!(arrivals.latency.count(), 5);
    }
}
