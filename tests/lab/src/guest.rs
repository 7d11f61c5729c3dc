//! A Linux guest under QEMU without hardware virtualisation, driven at its serial console.
//!
//! Facts that shaped this (QEMU 7.2): under TCG, MSI-X on a vhost-user device crashes it, so `vectors=0`; the boot ROM is in another package and not needed, so `romfile=`; guest memory must be
//! a shared memfd; a guest on the same cores as a polling switch is slow, so limits are generous and counts small.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::monitor::Monitor;
use crate::{GuestImage, Process, wait_until};

const BOOT_LIMIT: Duration = Duration::from_secs(180);
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);
const QUIT_LIMIT: Duration = Duration::from_secs(20);

/// How a guest is started. It has one network device, `eth0`, on a vhost-user socket.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// Name of its log.
    pub name: String,
    /// Socket it uses.
    pub socket: PathBuf,
    /// Listens on the socket (for a switch in client mode) instead of connecting.
    pub server: bool,
    /// Last byte of its Ethernet address `52:54:00:00:00:XX`.
    pub station: u8,
    /// Queue pairs.
    pub queues: u16,
    /// Packed rings.
    pub packed: bool,
    /// Properties of virtio-net-pci beside those, such as `host_mtu=9000`.
    pub properties: Vec<String>,
    /// More of QEMU's arguments: other devices, say.
    pub arguments: Vec<String>,
    /// Virtual cores.
    pub cores: u16,
    /// Does not boot: waits for another guest to [migrate](Guest::migrate) to it.
    pub incoming: bool,
}

impl GuestOptions {
    /// A guest with one core and one pair of split rings that connects to `socket`, again and again.
    pub fn new(name: &str, station: u8, socket: &Path) -> Self {
        Self {
            name: name.to_owned(),
            socket: socket.to_path_buf(),
            server: false,
            station,
            queues: 1,
            packed: false,
            properties: vec!["mrg_rxbuf=on".into()],
            arguments: Vec::new(),
            cores: 1,
            incoming: false,
        }
    }

    fn command_line(&self, dir: &Path, image: &GuestImage) -> Vec<String> {
        let mut device =
            format!("virtio-net-pci,netdev=n0,mac=52:54:00:00:00:{:02x},vectors=0,romfile=", self.station);
        if self.queues > 1 {
            device.push_str(",mq=on");
        }
        if self.packed {
            device.push_str(",packed=on");
        }
        for property in &self.properties {
            device.push(',');
            device.push_str(property);
        }
        let listen = if self.server { ",server=on,wait=off" } else { ",reconnect=1" };
        let pairs: [(&str, String); 15] = [
            ("-machine", "q35".into()),
            ("-accel", "tcg,thread=multi".into()),
            ("-cpu", "max".into()),
            ("-smp", self.cores.to_string()),
            ("-m", "256M".into()),
            ("-object", "memory-backend-memfd,id=mem,size=256M,share=on".into()),
            ("-numa", "node,memdev=mem".into()),
            ("-chardev", format!("socket,id=c0,path={}{listen}", self.socket.display())),
            ("-netdev", format!("vhost-user,id=n0,chardev=c0,queues={}", self.queues)),
            ("-device", device),
            ("-kernel", image.kernel.display().to_string()),
            ("-initrd", image.initrd.display().to_string()),
            (
                "-append",
                "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check net.ifnames=0 rdinit=/init"
                    .into(),
            ),
            ("-serial", "stdio".into()),
            ("-qmp", format!("unix:{},server=on,wait=off", monitor_socket(dir, &self.name).display())),
        ];
        let incoming = self.incoming.then(|| {
            ["-incoming".to_owned(), format!("unix:{}", migration_socket(dir, &self.name).display())]
        });
        let flags = ["-nodefaults", "-no-user-config", "-display", "none"].map(String::from);
        flags
            .into_iter()
            .chain(pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]))
            .chain(self.arguments.iter().cloned())
            .chain(incoming.into_iter().flatten())
            .collect()
    }
}

fn monitor_socket(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.qmp"))
}

fn migration_socket(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.migration"))
}

/// How a live migration went, by QEMU's own account.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// From its beginning to its end.
    pub total: Duration,
    /// In which the guest ran nowhere.
    pub downtime: Duration,
    /// Bytes of memory sent.
    pub bytes: u64,
    /// Passes over the memory.
    pub passes: u64,
}

/// What a command in a guest printed, and its exit status.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit status.
    pub status: i32,
    /// Standard output and standard error.
    pub text: String,
}

/// A running guest.
pub struct Guest {
    process: Process,
    name: String,
    dir: PathBuf,
}

impl Guest {
    /// Starts a guest and does not wait for it: two guests boot at the same time. Call [`Guest::wait_ready`] next.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn launch(dir: &Path, image: &GuestImage, options: &GuestOptions) -> Result<Self> {
        Self::launch_as(&options.name, dir, "qemu-system-x86_64", &options.command_line(dir, image))
    }

    /// As [`Guest::launch`], by any command whose standard input and output are the console of a guest that takes
    /// commands as ours do: it says `@@ ready`, and `@@ STATUS` after each.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn launch_as(name: &str, dir: &Path, program: &str, arguments: &[String]) -> Result<Self> {
        let process = Process::start(name, dir, program, arguments)?;
        Ok(Self { process, name: name.to_owned(), dir: dir.to_path_buf() })
    }

    /// Waits until the guest takes commands.
    ///
    /// # Errors
    /// When it does not boot in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_ready_from(0)
    }

    fn wait_ready_from(&mut self, from: usize) -> Result<()> {
        let what = format!("boot of {}", self.name);
        self.process.expect(&what, from, BOOT_LIMIT, |log| log.contains("@@ ready"))?;
        Ok(())
    }

    /// Runs a shell command in the guest and returns what it printed and its exit status.
    ///
    /// # Errors
    /// When it does not come to an end within `limit`, or the guest is gone.
    pub fn try_run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        let from = self.process.log().len();
        self.process.say(command)?;
        let what = format!("`{command}` in {}", self.name);
        let text = self.process.expect(&what, from, limit, |log| split_status(log).is_some())?;
        let (text, status) = split_status(&text).expect("just found");
        Ok(Output { status, text: text.to_owned() })
    }

    /// As [`Guest::try_run`], where an exit status other than 0 is an error.
    ///
    /// # Errors
    /// As said.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<String> {
        let output = self.try_run(command, limit)?;
        if output.status != 0 {
            bail!("`{command}` in {} ended with {}:\n{}", self.name, output.status, output.text);
        }
        Ok(output.text)
    }

    /// Reboots the guest (QEMU goes on) and waits until it takes commands again.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn reboot(&mut self) -> Result<()> {
        let from = self.process.log().len();
        self.process.say("reboot -f")?;
        self.wait_ready_from(from)
    }

    /// Powers the guest off and waits for QEMU's end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn power_off(mut self) -> Result<()> {
        self.process.say("poweroff -f")?;
        self.process.wait(QUIT_LIMIT)?;
        Ok(())
    }

    /// Migrates the guest to `to`, which was launched as [incoming](GuestOptions::incoming), at `bandwidth` bytes a
    /// second at most, while it runs on. `meanwhile` is called when that has begun. Afterwards the guest is at `to`'s
    /// console, in the middle of whatever it did, and this QEMU stands still.
    ///
    /// # Errors
    /// When QEMU refuses or gives up, when it takes longer than a minute, or those of `meanwhile`.
    pub fn migrate(
        &mut self,
        to: &Self,
        bandwidth: u64,
        meanwhile: impl FnOnce() -> Result<()>,
    ) -> Result<Migration> {
        let mut monitor = Monitor::connect(&monitor_socket(&self.dir, &self.name))?;
        monitor.execute("migrate-set-parameters", json!({ "max-bandwidth": bandwidth }))?;
        let uri = format!("unix:{}", migration_socket(&to.dir, &to.name).display());
        monitor.execute("migrate", json!({ "uri": uri }))?;
        meanwhile()?;
        let mut last = Value::Null;
        let done = wait_until("a migration", MIGRATION_LIMIT, || {
            last = monitor.execute("query-migrate", json!({}))?;
            match last["status"].as_str() {
                Some("completed") => Ok(Some(())),
                Some("failed" | "cancelled") => bail!("the migration failed"),
                _ => Ok(None),
            }
        });
        done.with_context(|| format!("migration: {last}\n{}", self.process.tail()))?;
        let number = |value: &Value| value.as_u64().with_context(|| format!("not as expected: {last}"));
        Ok(Migration {
            total: Duration::from_millis(number(&last["total-time"])?),
            downtime: Duration::from_millis(number(&last["downtime"])?),
            bytes: number(&last["ram"]["transferred"])?,
            passes: number(&last["ram"]["dirty-sync-count"])?,
        })
    }

    /// The process, for its log and id.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A line for a shell that waits until `condition`, a command, succeeds, about as long as `limit`, and fails if it does not.
///
/// One line instead of a question a round: each takes its time at a console.
#[must_use]
pub fn until(condition: &str, limit: Duration) -> String {
    let rounds = limit.as_millis() / 200;
    format!("n=0; until {condition} || [ $n = {rounds} ]; do sleep 0.2; n=$((n+1)); done; {condition}")
}

/// Splits what a command printed from the `@@ STATUS` line behind it.
fn split_status(text: &str) -> Option<(&str, i32)> {
    let at = text.rfind("@@ ")?;
    let (number, _) = text[at + 3..].split_once('\n')?;
    Some((&text[..at], number.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_what_follows_the_mark() {
        assert_eq!(split_status("one\r\ntwo\r\n@@ 0\r\n"), Some(("one\r\ntwo\r\n", 0)));
        assert_eq!(split_status("@@ 127\r\n"), Some(("", 127)));
        assert_eq!(split_status("still running\r\n@@ 1"), None, "the line is not complete");
    }

    #[test]
    fn rings_and_queues_are_asked_for_as_told() {
        let image = GuestImage { kernel: "/k".into(), initrd: "/i".into() };
        let options = GuestOptions { queues: 2, packed: true, ..GuestOptions::new("a", 7, Path::new("/s")) };
        let line = options.command_line(Path::new("/d"), &image).join(" ");
        assert!(
            line.contains("mac=52:54:00:00:00:07,vectors=0,romfile=,mq=on,packed=on,mrg_rxbuf=on"),
            "{line}"
        );
        assert!(line.contains("socket,id=c0,path=/s,reconnect=1 ") && line.contains("queues=2"), "{line}");
    }
}
