//! Compiles the guest: an image of its own, for the machine that this crate is compiled for, with nothing but
//! rustc and the linker that are there anyway.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let image = PathBuf::from(variable("OUT_DIR")).join("micro_guest.elf");
    let guest = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("guest");
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    let script = guest.join(format!("{arch}.ld"));
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args([
        "--edition=2024",
        "--crate-type=bin",
        "--crate-name=micro_guest",
        "--target",
        &variable("TARGET"),
    ]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    rustc
        .args(["-Copt-level=3", "-Cpanic=abort", "-Crelocation-model=static", "-Ccode-model=small"])
        .args(["-Clto=fat", "-Cstrip=symbols", "-Cforce-unwind-tables=no", "-Cdefault-linker-libraries=no"])
        .arg("-Clink-args=-nostartfiles -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,norelro -Wl,--gc-sections")
        .arg(format!("-Clink-arg=-Wl,-T,{}", script.display()))
        .arg("-o")
        .arg(&image)
        .arg(guest.join("main.rs"));
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-changed=../../drivers/virtio_defs/src");
    let status = rustc.status().expect("rustc can be run");
    assert!(status.success(), "the guest can't be compiled: {rustc:?}");
    println!("cargo::rustc-env=MICRO_GUEST_IMAGE={}", image.display());
}
