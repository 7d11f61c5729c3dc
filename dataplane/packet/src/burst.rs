//! The burst: storage that a worker reuses for every batch of frames it moves.

use crate::Offload;
use crate::copy;

/// Most frames in a burst.
pub const BURST_MAX: usize = 32;
/// Bytes in front of a head for tags that are pushed.
pub const HEADROOM: usize = 64;
/// Bytes of a frame that are copied to be parsed in most cases.
pub const HEAD_FIRST: usize = 64;
/// Bytes of a frame that say where a bridge sends it: addresses and the outermost tag.
pub const START: usize = 16;
/// Most bytes of a frame that are copied to be parsed and rewritten.
pub const HEAD_MAX: usize = 128;
/// Most segments beyond the first, over all frames of a burst.
pub const SEGMENTS_MAX: usize = 2048;

/// A piece of a frame in memory that somebody else may write at any time.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its first byte.
    pub ptr: *const u8,
    /// Its length in bytes.
    pub len: u32,
}

/// One frame of a burst; one cache line. Reached through [`Burst`] only, so it can't outlive it.
#[repr(C, align(64))]
struct Frame {
    first: Segment,
    /// Length in bytes, as it would be sent now.
    len: u32,
    /// The segments beyond the first: `rest_count` from `rest_start` in the burst's table.
    rest_start: u16,
    rest_count: u16,
    head_start: u16,
    head_len: u16,
    skip: u16,
    offload: Offload,
    taken: bool,
    edited: bool,
    /// The receiving driver's own note on the frame (descriptor, buffer).
    token: u64,
}
const _: () = assert!(size_of::<Frame>() == 64);

impl Frame {
    const EMPTY: Frame = Frame {
        first: Segment { ptr: std::ptr::null(), len: 0 },
        len: 0,
        rest_start: 0,
        rest_count: 0,
        head_start: HEADROOM as u16,
        head_len: 0,
        skip: 0,
        offload: Offload { flags: 0, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 },
        taken: false,
        edited: false,
        token: 0,
    };
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Head([u8; HEADROOM + HEAD_MAX]);

/// Up to [`BURST_MAX`] borrowed frames and their heads. See the crate's documentation.
pub struct Burst {
    len: usize,
    owner: u64,
    takeable: u32,
    /// Bytes of the longest frame there was.
    longest: u32,
    /// A frame may ask for something.
    requests: bool,
    frames: Box<[Frame; BURST_MAX]>,
    heads: Box<[Head; BURST_MAX]>,
    rest: Vec<Segment>,
}

// SAFETY: the raw pointers are only followed between a driver's `push` and the burst's release, which happen on
// the thread that owns the burst; an empty burst may move between threads.
unsafe impl Send for Burst {}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Burst {
    /// Allocates the storage, once per worker.
    pub fn new() -> Self {
        Self {
            len: 0,
            owner: 0,
            takeable: 0,
            longest: 0,
            requests: false,
            frames: Box::new([Frame::EMPTY; BURST_MAX]),
            heads: Box::new([Head([0; HEADROOM + HEAD_MAX]); BURST_MAX]),
            rest: Vec::with_capacity(SEGMENTS_MAX),
        }
    }

    /// Frames in the burst.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the burst has no frame.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more frames it takes.
    #[inline(always)]
    pub fn room(&self) -> usize {
        BURST_MAX - self.len
    }

    /// How many more segments beyond a frame's first it takes.
    #[inline]
    pub fn segment_room(&self) -> usize {
        SEGMENTS_MAX - self.rest.len()
    }

    /// Forgets all frames.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.len = 0;
        self.owner = 0;
        self.takeable = 0;
        self.longest = 0;
        self.requests = false;
        self.rest.clear();
    }

    /// Appends a frame that lies in one piece.
    ///
    /// # Panics
    /// When the burst is full.
    ///
    /// # Safety
    /// `ptr` must stay readable for `len` bytes until [`clear`](Self::clear); others may write there meanwhile.
    #[inline(always)]
    pub unsafe fn push(&mut self, ptr: *const u8, len: u32, offload: Offload, token: u64) {
        let frame = &mut self.frames[self.len];
        *frame = Frame { first: Segment { ptr, len }, len, offload, token, ..Frame::EMPTY };
        self.note(len, &offload);
    }

    /// Appends a frame that lies in several pieces. `segments` must not be empty.
    ///
    /// # Panics
    /// When the burst has no room for the frame, or for its segments ([`segment_room`](Self::segment_room)).
    ///
    /// # Safety
    /// As [`push`](Self::push), for each segment.
    #[inline]
    pub unsafe fn push_segments(&mut self, segments: &[Segment], offload: Offload, token: u64) {
        assert!(segments.len() - 1 <= self.segment_room(), "no room for {} segments", segments.len());
        let len = segments.iter().map(|s| s.len).sum();
        let rest_start = self.rest.len() as u16;
        self.rest.extend_from_slice(&segments[1..]);
        let frame = &mut self.frames[self.len];
        *frame = Frame {
            first: segments[0],
            len,
            rest_start,
            rest_count: (segments.len() - 1) as u16,
            offload,
            token,
            ..Frame::EMPTY
        };
        self.note(len, &offload);
    }

    /// Counts the frame that was appended.
    #[inline(always)]
    fn note(&mut self, len: u32, offload: &Offload) {
        self.len += 1;
        self.longest = self.longest.max(len);
        self.requests |= *offload != Offload::default();
    }

    /// Appends these frames, none of which has a loaded head or several segments, to another burst.
    pub(crate) fn append_to(&self, other: &mut Burst) {
        for f in &self.frames[..self.len] {
            assert!(f.rest_count == 0 && f.head_len == 0, "only untouched frames are lent");
            other.frames[other.len] =
                Frame { first: f.first, len: f.len, offload: f.offload, ..Frame::EMPTY };
            other.note(f.len, &f.offload);
        }
    }

    /// Length of frame `i` in bytes, as it would be sent now.
    #[inline(always)]
    pub fn frame_len(&self, i: usize) -> usize {
        self.frames[i].len as usize
    }

    /// No frame of the burst is longer than this many bytes.
    #[inline(always)]
    pub fn longest(&self) -> usize {
        self.longest as usize
    }

    /// Whether a frame of the burst may have an [`Offload`] that says anything.
    #[inline(always)]
    pub fn has_requests(&self) -> bool {
        self.requests
    }

    /// What the frame's sender left to be done.
    #[inline(always)]
    pub fn offload(&self, i: usize) -> &Offload {
        &self.frames[i].offload
    }

    /// For rewriting: the request moves with pushed tags, or is done.
    #[inline(always)]
    pub fn offload_mut(&mut self, i: usize) -> &mut Offload {
        self.requests = true;
        &mut self.frames[i].offload
    }

    /// The receiving driver's note on frame `i`.
    #[inline(always)]
    pub fn token(&self, i: usize) -> u64 {
        self.frames[i].token
    }

    /// Says who knows what the tokens of this burst mean: a number that one driver has given itself, not 0.
    #[inline]
    pub fn set_owner(&mut self, owner: u64) {
        self.owner = owner;
    }

    /// Who knows what the tokens mean; 0 for nobody but the queue it came from.
    #[inline(always)]
    pub fn owner(&self) -> u64 {
        self.owner
    }

    /// Says that the next output of frame `i` is its only one.
    #[inline(always)]
    pub fn allow_take(&mut self, i: usize) {
        self.allow_take_of(1 << i);
    }

    /// Says that the next output of each frame whose bit is set is its only one.
    #[inline(always)]
    pub fn allow_take_of(&mut self, frames: u32) {
        self.takeable |= frames;
    }

    /// Whether a transmit queue may [take](Self::take) frame `i` instead of copying it.
    #[inline(always)]
    pub fn may_take(&self, i: usize) -> bool {
        self.takeable & 1 << i != 0
    }

    /// Marks frame `i` as taken over by a transmit queue that understands its token: the buffer moved on, and
    /// the receiving driver must not give it back. Only for a frame that [may be taken](Self::may_take).
    #[inline]
    pub fn take(&mut self, i: usize) {
        self.frames[i].taken = true;
    }

    /// Whether frame `i` was [taken](Self::take).
    #[inline]
    pub fn is_taken(&self, i: usize) -> bool {
        self.frames[i].taken
    }

    /// Makes the frame's head reach to its first `want` bytes (at most [`HEAD_MAX`]). What is in the head stays: bytes that were
    /// judged are never read again. No-op when at least as many are there, or the head was moved.
    #[inline(always)]
    pub fn load_head(&mut self, i: usize, want: usize) {
        let f = &mut self.frames[i];
        let want = want.min(f.len as usize).min(HEAD_MAX);
        if (f.head_len as usize) < want && f.head_len == f.skip && f.head_start as usize == HEADROOM {
            let have = f.head_len as usize;
            let dst = &mut self.heads[i].0[HEADROOM + have..HEADROOM + want];
            if f.first.len as usize >= want {
                // SAFETY: the pusher promised `first.len` readable bytes, of which those from `have` to `want` go to `dst`.
                unsafe { copy::copy(f.first.ptr.add(have), dst.as_mut_ptr(), dst.len()) };
            } else {
                gather(f.first, rest_of(&self.rest, f), have, dst);
            }
            f.head_len = want as u16;
            f.skip = want as u16;
        }
    }

    /// Copies the first `N` bytes of each frame ([`HEAD_FIRST`] or [`START`]) into its head: [`load_head`](Self::load_head) for
    /// a burst as it was received.
    #[inline(always)]
    pub fn load_heads<const N: usize>(&mut self) {
        const { assert!(N <= HEAD_MAX) };
        for i in 0..self.len.min(BURST_MAX) {
            let f = &mut self.frames[i];
            if f.first.len as usize >= N && f.head_len | f.skip == 0 {
                let dst: &mut [u8; N] = self.heads[i].0[HEADROOM..]
                    .first_chunk_mut()
                    .expect("a head has room for its first bytes");
                // SAFETY: the pusher promised `first.len` readable bytes; `dst` is as long.
                unsafe { copy::block::<N>(f.first.ptr, dst.as_mut_ptr()) };
                f.head_len = N as u16;
                f.skip = N as u16;
            } else {
                self.load_head(i, N);
            }
        }
    }

    /// The first bytes of frame `i`'s loaded head, if it has so many.
    #[inline(always)]
    pub fn start<const N: usize>(&self, i: usize) -> Option<&[u8; N]> {
        let f = &self.frames[i];
        if (f.head_len as usize) < N {
            return None;
        }
        self.heads[i].0.get(f.head_start as usize..)?.first_chunk()
    }

    /// The loaded head of frame `i`.
    #[inline(always)]
    pub fn head(&self, i: usize) -> &[u8] {
        let f = &self.frames[i];
        &self.heads[i].0[f.head_start as usize..][..f.head_len as usize]
    }

    /// Whether the head of frame `i` may differ from the source's bytes it stands for.
    #[inline(always)]
    pub fn is_edited(&self, i: usize) -> bool {
        self.frames[i].edited
    }

    /// Bytes of the source that the head of frame `i` stands for.
    #[inline(always)]
    pub fn replaced(&self, i: usize) -> usize {
        self.frames[i].skip as usize
    }

    /// The loaded head of frame `i`, to be rewritten.
    #[inline(always)]
    pub fn head_mut(&mut self, i: usize) -> &mut [u8] {
        let f = &mut self.frames[i];
        f.edited = true;
        &mut self.heads[i].0[f.head_start as usize..][..f.head_len as usize]
    }

    /// Makes the head longer by `n` bytes at its front and returns whether the headroom allowed it. The new
    /// first bytes are whatever was there; the caller moves and fills.
    pub fn grow_front(&mut self, i: usize, n: usize) -> bool {
        let f = &mut self.frames[i];
        let ok = f.head_start as usize >= n;
        if ok {
            f.edited = true;
            f.head_start -= n as u16;
            f.head_len += n as u16;
            f.len += n as u32;
            self.longest = self.longest.max(f.len);
        }
        ok
    }

    /// Removes the first `n` bytes of the head.
    ///
    /// # Panics
    /// When the head is shorter.
    pub fn shrink_front(&mut self, i: usize, n: usize) {
        let f = &mut self.frames[i];
        assert!(n <= f.head_len as usize, "head of {} bytes can't lose {n}", f.head_len);
        f.edited = true;
        f.head_start += n as u16;
        f.head_len -= n as u16;
        f.len -= n as u32;
    }

    /// Frame `i` when it lies in one piece and its head was not loaded: the fastest case to copy.
    #[inline(always)]
    pub fn whole(&self, i: usize) -> Option<Segment> {
        let f = &self.frames[i];
        (f.rest_count == 0 && f.head_len == 0 && f.skip == 0).then_some(f.first)
    }

    /// Frame `i` when it lies in one piece and only its [`START`] was looked at: quickest to copy whole, with the start that was
    /// looked at written over it.
    #[inline(always)]
    pub fn started(&self, i: usize) -> Option<(Segment, &[u8; START])> {
        let f = &self.frames[i];
        let started = f.rest_count == 0 && f.head_len as usize == START && f.skip as usize == START;
        let start = self.heads[i].0.get(f.head_start as usize..)?.first_chunk()?;
        started.then_some((f.first, start))
    }

    /// Head and rest of frame `i` when its source lies in one piece; either may be empty.
    #[inline(always)]
    pub fn halves(&self, i: usize) -> Option<(Segment, Segment)> {
        let f = &self.frames[i];
        let len = f.first.len.checked_sub(u32::from(f.skip)).filter(|_| f.rest_count == 0)?;
        let head = Segment { ptr: self.head(i).as_ptr(), len: u32::from(f.head_len) };
        Some((head, Segment { ptr: f.first.ptr.wrapping_add(f.skip.into()), len }))
    }

    /// The pieces of frame `i` in order, head first: what a driver copies to send it.
    #[inline(always)]
    pub fn parts(&self, i: usize) -> Parts<'_> {
        let f = &self.frames[i];
        Parts { head: self.head(i), first: f.first, rest: rest_of(&self.rest, f), skip: f.skip as u32 }
    }

    /// Hints that the first bytes of frame `i` will be read soon.
    #[inline(always)]
    pub fn prefetch(&self, i: usize) {
        copy::prefetch_read(self.frames[i].first.ptr);
    }

    /// Where frame `i` begins in its source.
    #[inline(always)]
    pub fn source(&self, i: usize) -> *const u8 {
        self.frames[i].first.ptr
    }

    /// Copies `out.len()` bytes of frame `i` from `offset` on, head and source as they are now.
    ///
    /// # Panics
    /// When the frame ends before.
    pub fn read(&self, i: usize, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.frame_len(i), "read past the end of a frame");
        let f = &self.frames[i];
        let head = self.head(i);
        let from_head = head.len().saturating_sub(offset).min(out.len());
        if from_head > 0 {
            out[..from_head].copy_from_slice(&head[offset..offset + from_head]);
        }
        if from_head == out.len() {
            return;
        }
        let source_offset = (offset + from_head) - head.len() + f.skip as usize;
        gather(f.first, rest_of(&self.rest, f), source_offset, &mut out[from_head..]);
    }
}

#[inline(always)]
fn rest_of<'a>(rest: &'a [Segment], f: &Frame) -> &'a [Segment] {
    if f.rest_count == 0 { &[] } else { &rest[f.rest_start as usize..][..f.rest_count as usize] }
}

/// Copies from the segments, starting `offset` bytes into them. Reads nothing past their end.
fn gather(first: Segment, rest: &[Segment], mut offset: usize, mut out: &mut [u8]) {
    for s in std::iter::once(&first).chain(rest) {
        let len = s.len as usize;
        if offset >= len {
            offset -= len;
            continue;
        }
        let n = (len - offset).min(out.len());
        // SAFETY: the pusher promised `len` readable bytes and offset + n <= len; `out` holds n.
        unsafe { copy::copy(s.ptr.add(offset), out.as_mut_ptr(), n) };
        out = &mut out[n..];
        offset = 0;
        if out.is_empty() {
            return;
        }
    }
}

/// Iterator over the pieces of a frame, in order. Pieces are never empty.
#[derive(Clone)]
pub struct Parts<'a> {
    head: &'a [u8],
    first: Segment,
    rest: &'a [Segment],
    skip: u32,
}

impl Iterator for Parts<'_> {
    type Item = Segment;

    #[inline(always)]
    fn next(&mut self) -> Option<Segment> {
        if !self.head.is_empty() {
            let head = Segment { ptr: self.head.as_ptr(), len: self.head.len() as u32 };
            self.head = &[];
            return Some(head);
        }
        loop {
            if self.skip < self.first.len {
                // SAFETY: skip < len, so the result points into the same segment.
                let ptr = unsafe { self.first.ptr.add(self.skip as usize) };
                let len = self.first.len - self.skip;
                self.skip = 0;
                self.first.len = 0;
                return Some(Segment { ptr, len });
            }
            self.skip -= self.first.len;
            let (&next, rest) = self.rest.split_first()?;
            self.first = next;
            self.rest = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(burst: &Burst, i: usize) -> Vec<u8> {
        let mut out = vec![];
        for part in burst.parts(i) {
            // SAFETY: the tests' segments point to vectors that are alive.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(part.ptr, part.len as usize) });
        }
        out
    }

    fn segments(bytes: &[u8], cuts: &[usize]) -> Vec<Segment> {
        let mut at = 0;
        let mut out = vec![];
        for &n in cuts {
            out.push(Segment { ptr: bytes[at..].as_ptr(), len: n as u32 });
            at += n;
        }
        assert_eq!(at, bytes.len());
        out
    }

    #[test]
    fn a_frame_reads_the_same_with_and_without_its_head_however_it_is_cut() {
        let bytes: Vec<u8> = (0..300).map(|i| i as u8).collect();
        for cuts in
            [&[300][..], &[1, 299], &[64, 236], &[63, 1, 1, 235], &[128, 172], &[150, 150], &[20, 20, 260]]
        {
            for want in [0, 14, 64, 100, 128, 1000] {
                let mut burst = Burst::new();
                // SAFETY: `bytes` outlives the burst.
                unsafe { burst.push_segments(&segments(&bytes, cuts), Offload::default(), 7) };
                burst.load_head(0, want);
                assert_eq!(burst.head(0), &bytes[..want.min(HEAD_MAX)]);
                assert_eq!(contents(&burst, 0), bytes, "cuts {cuts:?}, head {want}");
                assert_eq!(burst.frame_len(0), 300);
                let mut middle = [0; 90];
                burst.read(0, 50, &mut middle);
                assert_eq!(middle, bytes[50..140]);
                burst.read(0, 2, &mut middle[..9]);
                assert_eq!(middle[..9], bytes[2..11]);
            }
        }
    }

    #[test]
    fn a_head_can_be_extended_before_it_is_edited_but_not_after() {
        let bytes: Vec<u8> = (0..200).map(|i| i as u8).collect();
        let mut burst = Burst::new();
        // SAFETY: `bytes` outlives the burst.
        unsafe { burst.push(bytes.as_ptr(), 200, Offload::default(), 0) };
        burst.load_head(0, 64);
        burst.load_head(0, 128);
        assert_eq!(burst.head(0).len(), 128);
        assert!(burst.grow_front(0, 4));
        burst.head_mut(0)[..4].copy_from_slice(b"tag!");
        burst.load_head(0, 128);
        let expected: Vec<u8> = b"tag!".iter().chain(&bytes).copied().collect();
        assert_eq!(contents(&burst, 0), expected);
        burst.shrink_front(0, 24);
        assert_eq!(contents(&burst, 0), bytes[20..]);
    }

    #[test]
    fn bytes_that_were_judged_are_not_read_again() {
        for cuts in [&[200][..], &[10, 190], &[16, 84, 100]] {
            let mut bytes: Vec<u8> = (0..200).map(|i| i as u8).collect();
            let mut burst = Burst::new();
            // SAFETY: `bytes` outlives the burst.
            unsafe { burst.push_segments(&segments(&bytes, cuts), Offload::default(), 0) };
            burst.load_heads::<START>();
            let judged = burst.head(0).to_vec();
            // The sender changes its mind.
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
            let expected = [&judged[..], &bytes[START..]].concat();
            assert_eq!(
                burst.started(0).map(|(_, start)| start.to_vec()),
                (cuts.len() == 1).then_some(judged)
            );
            assert_eq!(contents(&burst, 0), expected, "cuts {cuts:?}");
            for want in [64, 128] {
                burst.load_head(0, want);
                assert_eq!(burst.head(0), &expected[..want], "cuts {cuts:?}");
                assert_eq!(contents(&burst, 0), expected);
            }
        }
    }

    #[test]
    fn only_heads_that_were_touched_count_as_edited() {
        let bytes = [0u8; 60];
        let mut burst = Burst::new();
        for _ in 0..3 {
            // SAFETY: `bytes` outlives the burst.
            unsafe { burst.push(bytes.as_ptr(), 60, Offload::default(), 0) };
        }
        (0..3).for_each(|i| burst.load_head(i, 64));
        burst.head_mut(1)[0] = 1;
        burst.shrink_front(2, 4);
        assert_eq!([0, 1, 2].map(|i| burst.is_edited(i)), [false, true, true]);
        assert_eq!([0, 1, 2].map(|i| burst.replaced(i)), [60; 3]);
    }

    #[test]
    fn a_frame_may_be_taken_only_when_said_so_and_not_in_the_next_burst() {
        let bytes = [0u8; 60];
        let mut burst = Burst::new();
        for _ in 0..2 {
            burst.set_owner(7);
            // SAFETY: `bytes` outlives the burst.
            unsafe { burst.push(bytes.as_ptr(), 60, Offload::default(), 0) };
            assert!(!burst.may_take(0) && !burst.is_taken(0));
            burst.allow_take(0);
            assert!(burst.may_take(0));
            burst.take(0);
            assert!(burst.is_taken(0));
            burst.clear();
            assert_eq!(burst.owner(), 0);
        }
    }

    #[test]
    fn pushing_more_than_the_headroom_is_refused() {
        let bytes = [0u8; 60];
        let mut burst = Burst::new();
        // SAFETY: `bytes` outlives the burst.
        unsafe { burst.push(bytes.as_ptr(), 60, Offload::default(), 0) };
        burst.load_head(0, 60);
        assert!(burst.grow_front(0, HEADROOM));
        assert!(!burst.grow_front(0, 1));
    }
}
