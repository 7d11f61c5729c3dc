//! Compiles the guest: an image of its own, for the machine that this crate is compiled for, with nothing but
//! rustc and the linker that are there anyway.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let image = PathBuf::from(variable("OUT_DIR")).join("micro_guest.image");
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
    if arch == "aarch64" {
        // Arm's kernels are laid out in the file as they lie in memory; on x86-64 they are ELF files.
        let elf = fs::read(&image).expect("the linker has written it");
        fs::write(&image, flattened(&elf)).expect("the folder can be written to");
    }
    println!("cargo::rustc-env=MICRO_GUEST_IMAGE={}", image.display());
}

/// What a 64-bit little-endian ELF file puts into memory, from its first byte there on (System V ABI, "Program Header").
fn flattened(elf: &[u8]) -> Vec<u8> {
    const LOAD: u64 = 1;
    let number = |at: usize, bytes: usize| {
        elf[at..at + bytes].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    };
    let (table, entry, count) = (number(32, 8) as usize, number(54, 2) as usize, number(56, 2) as usize);
    let headers = (0..count).map(|index| table + index * entry).filter(|&at| number(at, 4) == LOAD);
    let parts: Vec<_> = headers
        .map(|at| (number(at + 16, 8), &elf[number(at + 8, 8) as usize..][..number(at + 32, 8) as usize]))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    let start = parts.iter().map(|&(address, _)| address).min().expect("the guest has code");
    let mut image = Vec::new();
    for (address, bytes) in parts {
        let at = (address - start) as usize;
        image.resize(image.len().max(at + bytes.len()), 0);
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image
}
