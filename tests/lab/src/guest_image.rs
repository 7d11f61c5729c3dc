//! Kernel and initial RAM disk for test guests: Debian's kernel, busybox, and a few programs, put together here.

use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{packages, process::run_to_end, target_dir};

/// Package that depends on the current kernel's package.
const KERNEL: &str = "linux-image-amd64";
/// What the guests load; dependencies are added.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_net",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "crc32c_generic",
    "ext4",
    "button",
    "evdev",
    "kvm_amd",
    "9p",
    "9pnet_virtio",
    "tun",
];
/// Programs taken from this machine, with their shared libraries.
const PROGRAMS: &[&str] = &["/usr/bin/iperf3", "/usr/sbin/ethtool"];
const INIT: &str = include_str!("guest_init.sh");
const LIMIT: Duration = Duration::from_secs(60);

/// Kernel and RAM disk, kept in the target directory between runs.
#[derive(Clone, Debug)]
pub struct GuestImage {
    /// The kernel.
    pub kernel: PathBuf,
    /// The RAM disk.
    pub initrd: PathBuf,
}

impl GuestImage {
    /// The directory everything lies in.
    ///
    /// # Errors
    /// Never for an image that was built here.
    pub fn dir(&self) -> Result<PathBuf> {
        Ok(self.initrd.parent().context("an initrd lies in a directory")?.to_path_buf())
    }

    /// The kernel as the ELF file that its own start unpacks; made on first use.
    ///
    /// # Errors
    /// When the kernel is not packed by `xz`, as Debian's are.
    pub fn unpacked_kernel(&self) -> Result<PathBuf> {
        let path = self.dir()?.join("vmlinux");
        if path.exists() {
            return Ok(path);
        }
        let image = std::fs::read(&self.kernel)?;
        let word = |at: usize| -> Result<usize> {
            let bytes = image.get(at..at + 4).context("a kernel has a header")?;
            Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
        };
        // Linux, Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length. The last four bytes
        // are the length unpacked.
        let start = (usize::from(image[0x1f1]) + 1) * 512 + word(0x248)?;
        let packed = image.get(start..start + word(0x24c)? - 4).context("a payload inside the kernel")?;
        let (from, partial) = (self.dir()?.join("vmlinux.xz"), self.dir()?.join("vmlinux.partial"));
        std::fs::write(&from, packed)?;
        let status = Command::new("sh")
            .args(["-c", "xz --decompress --stdout \"$0\" > \"$1\""])
            .args([&from, &partial])
            .status()?;
        std::fs::remove_file(&from)?;
        if !status.success() {
            bail!("unpacking the kernel: xz ended with {status}");
        }
        std::fs::rename(&partial, &path)?;
        Ok(path)
    }

    /// Builds the image, or takes the one a former run built from the same parts.
    ///
    /// # Errors
    /// When the kernel cannot be downloaded or a program is not installed.
    pub fn ensure() -> Result<Self> {
        let dir = target_dir().join("guest-image");
        std::fs::create_dir_all(&dir)?;
        let unpacked = unpack_kernel(&dir, KERNEL)?;
        let image = Self { kernel: find_kernel(&unpacked)?, initrd: dir.join("initrd.cpio") };
        // The recipe beside the result tells whether the result is of this recipe.
        let recipe = format!("{}\n{PROGRAMS:?}\n{MODULES:?}\n{INIT}", image.kernel.display());
        let recipe_file = dir.join("recipe");
        if !image.initrd.exists() || std::fs::read_to_string(&recipe_file).unwrap_or_default() != recipe {
            build_initrd(&dir, &unpacked, &image)?;
            std::fs::write(&recipe_file, recipe)?;
        }
        Ok(image)
    }
}

/// Downloads the kernel's package that `meta` depends on, and unpacks it below `dir`. Returns where.
pub(crate) fn unpack_kernel(dir: &Path, meta: &str) -> Result<PathBuf> {
    let unpacked = dir.join("kernel");
    if unpacked.exists() {
        return Ok(unpacked);
    }
    let package = kernel_package(meta).or_else(|_| {
        // Without package lists apt-cache knows nothing; `download` fetches them.
        packages::download(meta, dir)?;
        kernel_package(meta)
    })?;
    unpack(dir, &package, &unpacked)?;
    Ok(unpacked)
}

/// Downloads a package and unpacks it to `to`, unless that is there.
pub(crate) fn unpack(dir: &Path, package: &str, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    packages::download(package, dir)?;
    let name = package.split(':').next().unwrap_or(package);
    let archive = files_of(dir)?
        .into_iter()
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{name}_"))))
        .context("apt-get download left no file")?;
    // Unpack beside, then rename: an interrupted run must not leave half of it.
    let partial = to.with_extension("partial");
    let _ = std::fs::remove_dir_all(&partial);
    run_to_end("dpkg-deb", &["-x", &archive.to_string_lossy(), &partial.to_string_lossy()], LIMIT)?;
    std::fs::rename(&partial, to)?;
    std::fs::remove_file(&archive)?;
    Ok(())
}

fn kernel_package(meta: &str) -> Result<String> {
    let depends = run_to_end("apt-cache", &["depends", meta], LIMIT)?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned);
    name.with_context(|| format!("{meta} depends on no kernel:\n{depends}"))
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

/// The kernel in an unpacked package.
pub(crate) fn find_kernel(unpacked: &Path) -> Result<PathBuf> {
    files_of(&unpacked.join("boot"))?
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .context("no vmlinuz in the kernel's package")
}

fn build_initrd(dir: &Path, unpacked: &Path, image: &GuestImage) -> Result<()> {
    let root = dir.join("root");
    let _ = std::fs::remove_dir_all(&root);
    for path in ["bin", "usr/bin", "dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(path))?;
    }
    install_busybox(&root)?;
    for program in PROGRAMS {
        install_program(&root, Path::new(program))?;
    }
    // What this program is linked with is what Ringway is linked with.
    install_libraries(&root, &std::env::current_exe()?)?;
    install_modules(&root, unpacked, &image.kernel, MODULES)?;
    pack(&root, INIT, &image.initrd)
}

/// Makes a RAM disk of what is below `root`, with `init` as its first process.
pub(crate) fn pack(root: &Path, init: &str, to: &Path) -> Result<()> {
    let file = root.join("init");
    std::fs::write(&file, init)?;
    run_to_end("chmod", &["+x", &file.to_string_lossy()], LIMIT)?;
    // Not compressed: the guest is emulated, and unpacking would cost it more than loading.
    let status = Command::new("sh")
        .args(["-c", "find . | cpio --create --format=newc --quiet > \"$0\""])
        .arg(to)
        .current_dir(root)
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("packing the RAM disk: cpio ended with {status}");
    }
    Ok(())
}

fn install_busybox(root: &Path) -> Result<()> {
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))
        .context("copying busybox (package busybox-static)")?;
    for applet in run_to_end("/bin/busybox", &["--list"], LIMIT)?.lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(())
}

/// Copies a program and the libraries `ldd` finds for it. Programs that busybox has too are found first in `/bin`
/// under the busybox name, so they keep a path of their own below `/usr/bin`.
fn install_program(root: &Path, program: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    std::fs::copy(program, root.join("usr/bin").join(name))
        .with_context(|| format!("copying {}", program.display()))?;
    install_libraries(root, program)
}

fn install_libraries(root: &Path, program: &Path) -> Result<()> {
    for path in shared_libraries(program)? {
        let to = root.join(path.strip_prefix("/")?);
        std::fs::create_dir_all(to.parent().context("a library lies in a directory")?)?;
        std::fs::copy(&path, &to).with_context(|| format!("copying {}", path.display()))?;
    }
    Ok(())
}

/// The shared libraries that a program of this machine is linked with, its loader among them.
///
/// # Errors
/// When `ldd` doesn't know the program.
pub fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = run_to_end("ldd", &[&program.to_string_lossy()], LIMIT)?;
    Ok(said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Copies `modules` and what they depend on.
pub(crate) fn install_modules(root: &Path, unpacked: &Path, kernel: &Path, modules: &[&str]) -> Result<()> {
    let version = kernel.file_name().context("kernel has a name")?.to_string_lossy().into_owned();
    let version = version.strip_prefix("vmlinuz-").context("kernel is named by its version")?;
    let base = unpacked.to_string_lossy().into_owned();
    run_to_end("depmod", &["-b", &base, version], LIMIT)?;
    let mut files = BTreeSet::new();
    for module in modules {
        let shown = run_to_end("modprobe", &["-d", &base, "-S", version, "--show-depends", module], LIMIT)?;
        files.extend(
            shown.lines().filter_map(|line| line.trim().strip_prefix("insmod ")).map(|f| f.trim().to_owned()),
        );
    }
    let folder = root.join("lib/modules").join(version);
    std::fs::create_dir_all(&folder)?;
    for file in files {
        let to = root.join(Path::new(&file).strip_prefix(unpacked)?);
        std::fs::create_dir_all(to.parent().context("a module lies in a directory")?)?;
        std::fs::copy(&file, &to)?;
    }
    for list in ["modules.builtin", "modules.order", "modules.builtin.modinfo"] {
        std::fs::copy(unpacked.join("lib/modules").join(version).join(list), folder.join(list))?;
    }
    run_to_end("depmod", &["-b", &root.to_string_lossy(), version], LIMIT)?;
    Ok(())
}
