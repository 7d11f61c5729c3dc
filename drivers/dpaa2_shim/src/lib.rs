//! A preload library that shows an unmodified program the DPAA2 model as VFIO devices.
//!
//! ```text
//! LD_PRELOAD=libdpaa2_shim.so DPAA2_MODEL=board.toml DPRC=dprc.2 dpdk-testpmd …
//! ```
//!
//! The program sees `/sys/bus/fsl-mc` (a directory tree made for it) and `/dev/vfio` (descriptors whose ioctls are answered
//! here). Portal windows are mapped read-only: loads run at memory's speed, a store faults, is read from the registers
//! ([`decode`]), carried out by the model, and skipped. No kernel support, no privilege, no thread is needed.
//!
//! Environment, read once when the library is loaded:
//! - `DPAA2_MODEL`: a description (a file of `dpaa2_model::Description`), or `unix:PATH` of a `dpaa2_model serve`. Without it
//!   the library does nothing.
//! - `DPAA2_MODEL_CONTROL`: a socket to make, for reports and events while the program runs (`dpaa2_model::control`).
//! - `DPAA2_MODEL_REPORT`: a file for the report at the program's end.

// UNSAFETY: the functions here replace those of the C library, take what a program passes them, and handle its faults.
#![allow(unsafe_code)]
#![cfg(target_os = "linux")]
#![cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "stores are decoded on x86-64 only"))]

mod backend;
#[cfg(target_arch = "x86_64")]
mod decode;
mod interpose;
mod real;
#[cfg(target_arch = "x86_64")]
mod trap;
mod tree;
mod vfio;

use backend::Backend;
use std::io::Write;
use std::sync::OnceLock;
use tree::Tree;

/// What the library keeps; absent when it has nothing to do.
struct Shim {
    tree: Tree,
    backend: Box<dyn Backend>,
    vfio: vfio::Vfio,
}

static SHIM: OnceLock<Shim> = OnceLock::new();

fn shim() -> Option<&'static Shim> {
    SHIM.get()
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;

/// Runs when the library is loaded, before the program.
extern "C" fn start() {
    let Some(model) = std::env::var_os("DPAA2_MODEL") else { return };
    if cfg!(not(target_arch = "x86_64")) {
        stop("stores to portals can be decoded on x86-64 only");
    }
    let made = backend::open(&model).and_then(|backend| {
        let tree = Tree::new(&*backend).map_err(|error| format!("the directory tree: {error}"))?;
        Ok(Shim { tree, backend, vfio: vfio::Vfio::default() })
    });
    match made {
        Ok(shim) => {
            #[cfg(target_arch = "x86_64")]
            trap::install();
            let _ = SHIM.set(shim);
        }
        Err(error) => stop(&format!("DPAA2_MODEL={}: {error}", model.display())),
    }
}

/// Runs when the program ends in order.
extern "C" fn end() {
    if let Some(shim) = shim() {
        if let Some(path) = std::env::var_os("DPAA2_MODEL_REPORT")
            && let Err(error) = std::fs::write(&path, shim.backend.report())
        {
            eprintln!("dpaa2_shim: {}: {error}", path.display());
        }
        shim.tree.remove();
    }
}

/// Ends the program: without the model it would only fail later, and less clearly.
fn stop(why: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "dpaa2_shim: {why}");
    // SAFETY: ends the process without running anything of the program's.
    unsafe { libc::_exit(125) }
}
