//! Every fuzz target: a parser of what a guest, a front-end, a client, a user or a file says, as a function of bytes.
//!
//! [`TARGETS`] is the one list. The binaries in `tests/fuzz` run its entries under libFuzzer (`cargo xtask fuzz`); a test
//! here feeds the committed corpus (`tests/fuzz/corpus/<target>/`) to the same functions, and fails when a
//! target has no binary or no corpus.

use std::path::PathBuf;

/// A fuzz target.
pub struct Target {
    /// Its name: that of its binary and of its corpus.
    pub name: &'static str,
    /// Takes any bytes; panics when a promise is broken.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident: $run:expr,)+) => {
        /// All targets, by name.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $run },)+];
    };
}

targets! {
    blk_request: devices::fuzz::fuzz_blk,
    capture: pcap_port::fuzz_capture,
    config: switch_config::fuzz_config,
    control_request: control::fuzz_request,
    flow_extract: flow::fuzz_extract,
    flow_text: flow_text::fuzz_flow,
    headers: headers::fuzz::fuzz_headers,
    indirect_table: virtqueue::fuzz::fuzz_indirect,
    memory_table: guest_memory::fuzz::fuzz_memory_table,
    net_header: virtqueue::fuzz::fuzz_net_header,
    packed_recovery: virtqueue::fuzz::fuzz_recovery,
    packed_ring: virtqueue::fuzz::fuzz_packed,
    pci_config: devices::fuzz::fuzz_pci,
    segmentation: headers::fuzz::fuzz_segmentation,
    session_state: session_state,
    split_ring: virtqueue::fuzz::fuzz_split,
    switch_state: switch_state::fuzz_state,
    vhost_user_messages: vhost_user::fuzz::fuzz_messages,
    vhost_user_session: vhost_user_port::fuzz::fuzz_session,
    virtio_mmio: devices::fuzz::fuzz_virtio_mmio,
    virtio_pci: devices::fuzz::fuzz_virtio_pci,
}

/// The state of a session, as JSON, handed to a successor with descriptors of both kinds.
fn session_state(data: &[u8]) {
    if let Ok(state) = serde_json::from_slice(data) {
        vhost_user_port::fuzz::fuzz_import(&state);
    }
}

/// Runs a target on one input: what each fuzz binary does.
///
/// # Panics
/// When there is no such target, or it finds something.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target is called {name}")).run)(data);
}

/// Where the fuzz binaries and the corpora are.
pub fn fuzz_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}
