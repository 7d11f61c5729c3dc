//! A 64-bit Arm machine with virtualisation (EL2), emulated, with Debian's kernel: what has hardware of its own at home.
//!
//! Facts that shaped this (QEMU 7.2, kernel 6.1): `cortex-a72` is the core of the boards that Ringway is for, and is
//! emulated several times faster than `max` with its pointer authentication; nested virtualisation works with any number
//! of cores.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::STORAGE_DAEMON;
use crate::guest_image::{find_kernel, install_modules, pack, unpack, unpack_kernel};
use crate::{Guest, packages, run_to_end, shared_libraries, target_dir};

const INIT: &str = include_str!("arm_init.sh");
/// Package that depends on the current kernel's package.
const KERNEL: &str = "linux-image-arm64:arm64";
const BUSYBOX: &str = "busybox-static:arm64";
/// What the machine itself loads, and what guests in it load.
const HOST_MODULES: &[&str] = &["tun"];
const GUEST_MODULES: &[&str] =
    &["virtio_pci", "virtio_mmio", "virtio_net", "virtio_blk", "gpio_keys", "evdev"];
/// Where Debian's cross compiler keeps the shared libraries of its programs.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu/lib";
const LIBRARY_NAMES: &[&str] = &["ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1"];
/// Package of [`STORAGE_DAEMON`].
const STORAGE_DAEMON_PACKAGE: &str = "qemu-system-common:arm64";
const MEMORY: &str = "1536M";
const QUERY_LIMIT: Duration = Duration::from_secs(10);

/// Where the kernel for guests is in the machine.
const GUEST_KERNEL: &str = "boot/Image";
/// Where their RAM disk is.
const GUEST_INITRD: &str = "boot/initrd";

/// Files put into the machine: from where, and to which absolute path.
pub type ArmFiles = Vec<(PathBuf, PathBuf)>;

/// The machine's image.
#[derive(Clone, Debug)]
pub struct ArmHost {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl ArmHost {
    /// Builds the machine with these files in it. Guests find a kernel at `/boot/Image` and a RAM disk at
    /// `/boot/initrd`, which take commands as the machine does.
    ///
    /// # Errors
    /// When a package cannot be downloaded or a file not be read.
    pub fn build(files: &ArmFiles) -> Result<Self> {
        let dir = target_dir().join("arm-host");
        fs::create_dir_all(&dir)?;
        packages::ensure_architecture("arm64")?;
        let unpacked = unpack_kernel(&dir, KERNEL)?;
        let busybox = dir.join("busybox");
        unpack(&dir, BUSYBOX, &busybox)?;
        let busybox = busybox.join("bin/busybox");
        let kernel = find_kernel(&unpacked)?;
        let guest = dir.join("guest");
        base(&guest, &busybox)?;
        modules(&guest, &unpacked, &kernel, GUEST_MODULES)?;
        let guest_initrd = dir.join("guest.cpio");
        pack(&guest, INIT, &guest_initrd)?;

        let host = dir.join("host");
        base(&host, &busybox)?;
        modules(&host, &unpacked, &kernel, HOST_MODULES)?;
        for name in LIBRARY_NAMES {
            put(&host, &Path::new(LIBRARIES).join(name), &Path::new("/lib").join(name))?;
        }
        put(&host, &kernel, &Path::new("/").join(GUEST_KERNEL))?;
        put(&host, &guest_initrd, &Path::new("/").join(GUEST_INITRD))?;
        install_storage_daemon(&host, &dir)?;
        for (from, to) in files {
            put(&host, from, to)?;
        }
        let initrd = dir.join("host.cpio");
        pack(&host, INIT, &initrd)?;
        fs::remove_dir_all(&host)?;
        Ok(Self { kernel, initrd })
    }

    /// Starts the machine. It ends when it is dropped.
    ///
    /// # Errors
    /// When it does not boot.
    pub fn boot(&self, dir: &Path) -> Result<Guest> {
        let pairs = [
            ("-machine", "virt,virtualization=on,gic-version=3"),
            ("-cpu", "cortex-a72"),
            ("-accel", "tcg,thread=multi"),
            ("-smp", "2"),
            ("-m", MEMORY),
            ("-display", "none"),
            ("-serial", "stdio"),
            ("-kernel", &self.kernel.to_string_lossy()),
            ("-initrd", &self.initrd.to_string_lossy()),
            ("-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init"),
        ]
        .map(|(option, value)| [option.to_owned(), value.to_owned()]);
        let flags = ["-nodefaults", "-no-user-config", "-no-reboot"].map(String::from);
        let arguments: Vec<_> = flags.into_iter().chain(pairs.into_iter().flatten()).collect();
        let mut machine = Guest::launch_as("arm-host", dir, "qemu-system-aarch64", &arguments)?;
        machine.wait_ready()?;
        Ok(machine)
    }
}

/// Puts QEMU's storage daemon into the machine, with the libraries that the daemon of this machine is linked with.
fn install_storage_daemon(root: &Path, dir: &Path) -> Result<()> {
    let unpacked = dir.join("daemon");
    unpack(dir, STORAGE_DAEMON_PACKAGE, &unpacked)?;
    let daemon = Path::new(STORAGE_DAEMON);
    put(
        root,
        &unpacked.join(daemon.strip_prefix("/")?),
        &Path::new("/bin").join(daemon.file_name().context("a name")?),
    )?;
    for library in shared_libraries(daemon)? {
        let name = library.file_name().context("a library has a name")?.to_string_lossy();
        if name.starts_with("ld-linux") || LIBRARY_NAMES.contains(&&*name) {
            continue;
        }
        let owner = run_to_end("dpkg-query", &["--search", &format!("*/{name}")], QUERY_LIMIT)?;
        let package = owner.split(':').next().context("a library is of a package")?;
        let unpacked = dir.join(package);
        unpack(dir, &format!("{package}:arm64"), &unpacked)?;
        let folders =
            ["usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu"].map(|folder| unpacked.join(folder));
        let found = folders.iter().map(|folder| folder.join(&*name)).find(|path| path.exists());
        let found = found.with_context(|| format!("{package}:arm64 has no {name}"))?;
        put(root, &found, &Path::new("/lib").join(&*name))?;
    }
    Ok(())
}

/// A root with busybox and nothing else.
fn base(root: &Path, busybox: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(root);
    for path in ["bin", "dev", "proc", "sys", "tmp", "etc", "lib"] {
        fs::create_dir_all(root.join(path))?;
    }
    put(root, busybox, Path::new("/bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", root.join("bin/sh"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    Ok(())
}

fn modules(root: &Path, unpacked: &Path, kernel: &Path, names: &[&str]) -> Result<()> {
    install_modules(root, unpacked, kernel, names)?;
    fs::write(root.join("etc/modules"), names.join(" "))?;
    Ok(())
}

/// Copies a file, or a folder with all that is in it, to an absolute path below `root`.
fn put(root: &Path, from: &Path, to: &Path) -> Result<()> {
    let target = root.join(to.strip_prefix("/").unwrap_or(to));
    fs::create_dir_all(target.parent().context("a file lies in a folder")?)?;
    let what = || format!("copying {} to {}", from.display(), target.display());
    if from.is_dir() {
        fs::create_dir_all(&target)?;
        for entry in fs::read_dir(from).with_context(what)? {
            let entry = entry?;
            put(root, &entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::copy(from, &target).with_context(what)?;
    Ok(())
}
