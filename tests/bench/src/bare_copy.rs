//! What copying frames costs with nothing else around it: what no switch that copies can be below.

use anyhow::{Context as _, Result};
use lab::Pages;
use memmap2::{MmapMut, MmapOptions};
use packet::cycles;

/// Frames' sizes in the table of forwarding.
pub(crate) const SIZES: [usize; 3] = [64, 512, 1518];

/// Buffers on each side: as many as the load's rings have. Together they are more than a second-level cache holds.
const BUFFERS: usize = 1024;
/// Their distance, as with DPDK's buffers of 2 KiB with their notes and headroom.
const STRIDE: usize = 2304;
/// Of a huge page, as a power of two.
const HUGE: u8 = 21;
const ROUNDS: usize = 15;

/// TSC cycles to copy one frame of each of [`SIZES`] on a core, by the C library's `memcpy`: medians of 15 rounds.
pub(crate) fn cycles_per_frame(core: usize, pages: Pages) -> Result<[f64; SIZES.len()]> {
    let measure = || -> Result<_> {
        lab::pin(core)?;
        let (mut from, mut to) = (buffers(pages)?, buffers(pages)?);
        Ok(SIZES.map(|size| {
            let mut samples = [0.0; ROUNDS];
            for sample in &mut samples {
                let start = cycles::now();
                let pairs = from.chunks_exact(STRIDE).zip(to.chunks_exact_mut(STRIDE)).take(BUFFERS);
                let frames = pairs.map(|(from, to)| to[..size].copy_from_slice(&from[..size])).count();
                *sample = (cycles::now() - start) as f64 / frames as f64;
                // What was written is read next, as a switch that forwards both ways does.
                std::mem::swap(&mut from, &mut to);
            }
            samples.sort_by(f64::total_cmp);
            samples[ROUNDS / 2]
        }))
    };
    std::thread::scope(|scope| scope.spawn(measure).join().expect("a copy doesn't panic"))
}

fn buffers(pages: Pages) -> Result<MmapMut> {
    let mut options = MmapOptions::new();
    options.len((BUFFERS * STRIDE).next_multiple_of(1 << HUGE));
    if pages == Pages::Huge {
        options.huge(Some(HUGE));
    }
    let mut buffers = options.map_anon().context("memory to copy")?;
    buffers.fill(1);
    Ok(buffers)
}
