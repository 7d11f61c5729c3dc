//! A Linux host with KVM, emulated by QEMU: Ringway runs in it, with Linux guests of its own.
//!
//! The KVM of a machine without hardware virtualisation can't start a Linux kernel. QEMU's emulated processor has AMD's
//! SVM, and Debian's kernel boots on it in seconds, and its guests in some more.
//!
//! A fact that shaped this (QEMU 7.2, kernel 6.1): the emulated processor now and then goes on in the guest with registers
//! of the host, or the other way round (`-d int` shows page faults at the instruction behind `vmrun`, translated by the
//! guest's tables), which ends one of them. With nested paging that takes less than a minute or two, with shadow paging it
//! is rare.

use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::time::Duration;

use crate::{Guest, GuestImage, Output, target_dir, until, wait_until};

/// Where the host finds the directory it was booted with.
pub const HOST_DIR: &str = "/host";
/// Where it finds the programs built for speed, `ringway` among them, and the guest image.
const PROGRAM_DIR: &str = "/program";
const IMAGE_DIR: &str = "/image";

/// The switch's control socket, which its configuration must name.
const SOCKET: &str = "/tmp/ctl.sock";

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const START_LIMIT: Duration = Duration::from_secs(60);
/// For what takes an instant or two.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
const BOOT_LIMIT: Duration = Duration::from_secs(150);
const IN_MACHINE: &str = include_str!("in_machine.sh");
/// What the host loads: KVM, the way to the directories, TAP.
const MODULES: &str = "kvm_amd 9pnet_virtio 9p tun";

/// An emulated host.
pub struct EmulatedHost {
    shell: Guest,
}

impl EmulatedHost {
    /// Boots a host with three processors that sees `dir` as [`HOST_DIR`].
    ///
    /// # Errors
    /// When it does not boot.
    pub fn boot(dir: &Path, image: &GuestImage) -> Result<Self> {
        std::fs::write(dir.join("in_machine"), IN_MACHINE)?;
        let arguments = command_line(dir, image)?;
        let mut host = Self { shell: Guest::launch_as("host", dir, "qemu-system-x86_64", &arguments)? };
        host.shell.wait_ready()?;
        host.run(&format!("modprobe -a {MODULES}"))?;
        for (tag, at, more) in [
            ("host", HOST_DIR, ""),
            ("program", PROGRAM_DIR, ",cache=loose"),
            ("image", IMAGE_DIR, ",cache=loose"),
        ] {
            let options = format!("trans=virtio,version=9p2000.L,msize=262144{more}");
            host.run(&format!("mkdir -p {at} && mount -t 9p -o {options} {tag} {at}"))?;
        }
        Ok(host)
    }

    /// Runs a shell command in the host and returns what it printed.
    ///
    /// # Errors
    /// When its exit status is not 0, or it does not end within a minute.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.shell.run(command, COMMAND_LIMIT)
    }

    /// As [`EmulatedHost::run`], where any exit status will do.
    ///
    /// # Errors
    /// When it does not end.
    pub fn try_run(&mut self, command: &str) -> Result<Output> {
        self.shell.try_run(command, COMMAND_LIMIT)
    }

    /// Path, in the host, of a file of the guest image.
    ///
    /// # Errors
    /// When the file is none of its.
    pub fn image_path(image: &GuestImage, file: &Path) -> Result<String> {
        let inside = file.strip_prefix(image.dir()?).context("a file of the guest image")?;
        Ok(format!("{IMAGE_DIR}/{}", inside.display()))
    }

    /// Starts `ringway run` with the configuration in `ringway.toml` of the shared directory, whose control
    /// socket is `/tmp/ctl.sock`; its log is `ringway.log` there.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_switch(&mut self) -> Result<()> {
        self.run(&format!("{PROGRAM_DIR}/ringway run {HOST_DIR}/ringway.toml --json > {HOST_DIR}/summary.json 2> {HOST_DIR}/ringway.log & echo $! > /tmp/ringway.pid"))?;
        wait_until("an answer of ringway", START_LIMIT, || Ok(self.ringway("show ports").ok())).map(drop)
    }

    /// Runs `ringway ARGUMENTS` for the switch that was started, and returns what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn ringway(&mut self, arguments: &str) -> Result<String> {
        self.run(&format!("{PROGRAM_DIR}/ringway {arguments} --socket {SOCKET}"))
    }

    /// Ties the console of machine `name` to what [`EmulatedHost::run_in`] uses, and waits until it takes commands.
    ///
    /// # Errors
    /// When the machine is not there, or does not boot in time; what it printed last is quoted.
    pub fn wait_ready_in(&mut self, name: &str) -> Result<()> {
        let (input, output) = (format!("/tmp/{name}.in"), format!("/tmp/{name}.out"));
        let console = format!("{PROGRAM_DIR}/ringway vm console {name} --socket {SOCKET}");
        self.run(&format!(
            "{}; rm -f {input}; mkfifo {input}; sleep 100000 > {input} & {console} < {input} > {output} 2>&1 &",
            until(&format!("[ -S /tmp/ctl-vm-{name}.sock ]"), WAIT_LIMIT)
        ))?;
        self.wait_said_in(name, 1)
    }

    /// Waits until machine `name` has said `times` times that it takes commands.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn wait_said_in(&mut self, name: &str, times: usize) -> Result<()> {
        let count = format!("grep -c '@@ ready' /tmp/{name}.out");
        let ready = wait_until(&format!("boot of {name}"), BOOT_LIMIT, || {
            let said: usize = self.try_run(&count)?.text.trim().parse().unwrap_or(0);
            Ok((said >= times).then_some(()))
        });
        if let Err(error) = ready {
            bail!("{error}; {}", self.last_words_of(name)?);
        }
        Ok(())
    }

    /// What machine `name` said last, and what its process did.
    fn last_words_of(&mut self, name: &str) -> Result<String> {
        let said = format!("tail -n 30 /tmp/{name}.out; echo its log:; tail -n 60 /tmp/ctl-vm-{name}.log");
        // Their own marks would end this command.
        Ok(format!("it said last:\n{}", self.try_run(&format!("({said}) | sed 's/^@@/##/'"))?.text))
    }

    /// Runs a shell command in machine `name` and returns what it printed.
    ///
    /// # Errors
    /// When its exit status is not 0, or it does not end within `limit`.
    pub fn run_in(&mut self, name: &str, command: &str, limit: Duration) -> Result<String> {
        let quoted = command.replace('\'', r"'\''");
        let said = format!("sh {HOST_DIR}/in_machine {name} {} '{quoted}'", limit.as_secs());
        let answer = self.shell.run(&said, limit + COMMAND_LIMIT);
        if answer.is_err()
            && let Ok(words) = self.last_words_of(name)
        {
            return answer.context(words);
        }
        answer
    }

    /// Kills the switch with SIGKILL; its machines go on.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill_switch(&mut self) -> Result<()> {
        self.run("kill -9 $(cat /tmp/ringway.pid)").map(drop)
    }

    /// Ends the switch and its machines, and returns the summary it printed.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_switch(&mut self) -> Result<String> {
        let gone = until("[ ! -d /proc/$(cat /tmp/ringway.pid) ]", WAIT_LIMIT);
        self.run(&format!("kill -INT $(cat /tmp/ringway.pid); {gone}"))?;
        self.run(&format!("cat {HOST_DIR}/summary.json"))
    }
}

fn command_line(dir: &Path, image: &GuestImage) -> Result<Vec<String>> {
    let share = |path: &Path, tag: &str, more: &str| {
        format!("local,path={},mount_tag={tag},security_model=none{more}", path.display())
    };
    let pairs = [
        ("-machine", "q35".to_owned()),
        ("-accel", "tcg,thread=multi,tb-size=512".into()),
        ("-cpu", "EPYC,+svm,+npt".into()),
        ("-smp", "3".into()),
        ("-m", "1536M".into()),
        ("-virtfs", share(dir, "host", "")),
        ("-virtfs", share(&target_dir().join("release"), "program", ",readonly=on")),
        ("-virtfs", share(&image.dir()?, "image", ",readonly=on")),
        ("-kernel", image.kernel.display().to_string()),
        ("-initrd", image.initrd.display().to_string()),
        (
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr audit=0 tsc=reliable no_timer_check \
             rcupdate.rcu_expedited=1 kvm_amd.npt=0 rdinit=/init"
                .into(),
        ),
        ("-serial", "stdio".into()),
    ];
    let flags = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"].map(String::from);
    Ok(flags
        .into_iter()
        .chain(pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]))
        .collect())
}
