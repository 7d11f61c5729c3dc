//! Traffic between two Linux hosts, whatever they are made of: ping and iperf3, with what came through read back.

use anyhow::{Context as _, Result, ensure};
use lab::{Guest, Namespace, Process};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const SECONDS: u32 = 3;

/// A Linux host that runs shell commands.
pub(crate) trait Host {
    /// Runs a command and returns what it printed.
    ///
    /// # Errors
    /// When it fails or takes longer than a minute.
    fn shell(&mut self, command: &str) -> Result<String>;

    /// Starts an iperf3 server for one test in the background.
    ///
    /// # Errors
    /// When it cannot be started.
    fn serve_one_test(&mut self) -> Result<()>;
}

impl Host for Guest {
    fn shell(&mut self, command: &str) -> Result<String> {
        self.run(command, COMMAND_LIMIT)
    }

    fn serve_one_test(&mut self) -> Result<()> {
        self.shell("iperf3 -s -1 -D && sleep 1").map(drop)
    }
}

/// A network namespace together with the iperf3 server that may run in it.
pub(crate) struct NamespaceHost<'a> {
    namespace: &'a Namespace,
    dir: &'a Path,
    server: Option<Process>,
}

impl<'a> NamespaceHost<'a> {
    pub(crate) fn new(namespace: &'a Namespace, dir: &'a Path) -> Self {
        Self { namespace, dir, server: None }
    }
}

impl Host for NamespaceHost<'_> {
    fn shell(&mut self, command: &str) -> Result<String> {
        self.namespace.run(&["sh", "-c", command], COMMAND_LIMIT)
    }

    fn serve_one_test(&mut self) -> Result<()> {
        let name = format!("iperf3-{}", self.namespace.name());
        let args = ["-s", "-1", "--forceflush"].map(String::from);
        let mut server = Process::start_as(&name, self.dir, &self.namespace.wrap(), "iperf3", &args)?;
        server.expect("iperf3 server", 0, COMMAND_LIMIT, |log| log.contains("listening"))?;
        self.server = Some(server);
        Ok(())
    }
}

/// Pings `address` with `bytes` of payload: the first may be lost to address resolution, most of the others may not.
///
/// # Errors
/// When less than four of five come back.
pub(crate) fn ping(from: &mut dyn Host, address: &str, bytes: u32) -> Result<()> {
    // The first one resolves the address, and a guest that has just booted may be slow at it.
    from.shell(&format!("for i in 1 2 3 4 5; do busybox ping -c 1 -W 2 {address} && break; done"))?;
    let text = from.shell(&format!("busybox ping -c 5 -i 0.2 -W 5 -s {bytes} {address}"))?;
    let received = number_before(&text, " packets received");
    ensure!(received.is_some_and(|count| count >= 4), "ping with {bytes} bytes:\n{text}");
    Ok(())
}

/// Sends one TCP stream for three seconds and returns what arrived, in Mbit/s.
///
/// # Errors
/// When nothing arrived.
pub(crate) fn tcp(from: &mut dyn Host, to: &mut dyn Host, address: &str) -> Result<f64> {
    to.serve_one_test()?;
    let report = iperf(from, &format!("iperf3 -c {address} -t {SECONDS} -J"))?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
    ensure!(rate > 0.0, "no TCP payload arrived:\n{report}");
    Ok(rate / 1e6)
}

/// Sends UDP at 2 Mbit/s for three seconds and returns the loss in percent.
///
/// # Errors
/// When more than a tenth is lost: at this rate only a switch that drops could be the reason.
pub(crate) fn udp(from: &mut dyn Host, to: &mut dyn Host, address: &str) -> Result<f64> {
    to.serve_one_test()?;
    let report = iperf(from, &format!("iperf3 -c {address} -u -b 2M -l 1400 -t {SECONDS} -J"))?;
    let sum = &report["end"]["sum"];
    let (packets, loss) =
        (sum["packets"].as_u64().unwrap_or(0), sum["lost_percent"].as_f64().unwrap_or(100.0));
    ensure!(packets > 0 && loss <= 10.0, "UDP: {packets} datagrams, {loss} % lost:\n{sum}");
    Ok(loss)
}

fn iperf(from: &mut dyn Host, command: &str) -> Result<Value> {
    let text = from.shell(command)?;
    let json = text.find('{').map_or("", |at| &text[at..]);
    serde_json::from_str(json).with_context(|| format!("`{command}` printed:\n{text}"))
}

fn number_before(text: &str, label: &str) -> Option<u32> {
    text.split_once(label)?.0.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted() {
        let text = "5 packets transmitted, 4 packets received, 20% packet loss";
        assert_eq!(number_before(text, " packets received"), Some(4));
        assert_eq!(number_before("ping: bad address", " packets received"), None);
    }
}
