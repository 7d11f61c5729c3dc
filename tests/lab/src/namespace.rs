//! Network namespaces with names nobody else uses.

use anyhow::Result;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::process::run_to_end;

const LIMIT: Duration = Duration::from_secs(10);

/// A network namespace, deleted on drop. Making one needs root.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace whose loopback device is up.
    ///
    /// # Errors
    /// When `ip netns add` fails.
    pub fn create(purpose: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let serial = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rw-{}-{serial}-{purpose}", std::process::id());
        run_to_end("ip", &["netns", "add", &name], LIMIT)?;
        let namespace = Self { name };
        namespace.run(&["ip", "link", "set", "lo", "up"], LIMIT)?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command inside and returns its standard output.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    pub fn run(&self, command: &[&str], limit: Duration) -> Result<String> {
        let mut args = vec!["netns", "exec", &self.name];
        args.extend(command);
        run_to_end("ip", &args, limit)
    }

    /// Command prefix for [`Process::start_as`](crate::Process::start_as).
    pub fn wrap(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Gives device `name` inside an address (`10.1.0.1/24`) and brings it up.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn configure(&self, name: &str, address: &str, mtu: u32) -> Result<()> {
        self.run(&["ip", "addr", "add", address, "dev", name], LIMIT)?;
        self.run(&["ip", "link", "set", name, "mtu", &mtu.to_string(), "up"], LIMIT)?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run_to_end("ip", &["netns", "del", &self.name], LIMIT) {
            eprintln!("{error:#}");
        }
    }
}
