//! The device tree (Devicetree Specification 0.4; bindings in Linux, `Documentation/devicetree/bindings`).

use vm_fdt::{Error, FdtWriter};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::layout;
use crate::virtio::{self, SLOT_BYTES, Slot};

/// Names by which nodes point to each other.
mod handle {
    pub const GIC: u32 = 1;
    pub const ITS: u32 = 2;
    pub const CLOCK: u32 = 3;
    pub const PINS: u32 = 4;
}

/// Interrupt specifiers (`interrupt-controller/arm,gic-v3.yaml`): kind, number, trigger.
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// Private interrupts of the timers: secure, non-secure, virtual, hypervisor's (`timer/arm,arch_timer.yaml`).
const TIMERS: [u32; 4] = [13, 14, 11, 10];
/// `gpio-keys`: the key that powers off (`input-event-codes.h`, KEY_POWER).
const KEY_POWER: u32 = 116;
/// PCI addresses (`pci/pci.txt` and IEEE 1275's PCI binding): 32-bit memory.
const PCI_MEMORY_32: u32 = 0x0200_0000;

/// What of the tree is not the same for every machine.
pub(crate) struct Tree<'a> {
    pub memory: &'a GuestMemoryMmap,
    pub cpus: u32,
    pub command_line: &'a str,
    /// First address and length of the initial file system.
    pub initrd: Option<(u64, u64)>,
    /// Numbers for the kernel's random number generator to begin with.
    pub seed: [u8; 64],
    /// Virtio devices that aren't on the PCI bus.
    pub virtio_slots: usize,
}

impl Tree<'_> {
    /// The tree as it stands in memory.
    pub fn flattened(&self) -> Result<Vec<u8>, Error> {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        fdt.property_string("compatible", "linux,dummy-virt")?;
        fdt.property_string("model", "ringway")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_u32("interrupt-parent", handle::GIC)?;
        fdt.property_null("dma-coherent")?;
        self.chosen(&mut fdt)?;
        self.memory(&mut fdt)?;
        self.cpus(&mut fdt)?;
        self.interrupt_controller(&mut fdt)?;
        timer(&mut fdt)?;
        serial(&mut fdt)?;
        power_button(&mut fdt)?;
        pci(&mut fdt)?;
        virtio::slots().take(self.virtio_slots).try_for_each(|slot| virtio_device(&mut fdt, slot))?;
        fdt.end_node(root)?;
        fdt.finish()
    }

    fn chosen(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node("chosen")?;
        fdt.property_string("bootargs", self.command_line)?;
        fdt.property_string("stdout-path", &format!("/serial@{:x}", layout::SERIAL))?;
        fdt.property("rng-seed", &self.seed)?;
        if let Some((start, bytes)) = self.initrd {
            fdt.property_u64("linux,initrd-start", start)?;
            fdt.property_u64("linux,initrd-end", start + bytes)?;
        }
        fdt.end_node(node)
    }

    fn memory(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        for region in self.memory.iter() {
            let start = region.start_addr().0;
            let node = fdt.begin_node(&format!("memory@{start:x}"))?;
            fdt.property_string("device_type", "memory")?;
            fdt.property_array_u64("reg", &[start, region.len()])?;
            fdt.end_node(node)?;
        }
        Ok(())
    }

    fn cpus(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let cpus = fdt.begin_node("cpus")?;
        fdt.property_u32("#address-cells", 1)?;
        fdt.property_u32("#size-cells", 0)?;
        for index in 0..self.cpus {
            let affinity = affinity(index);
            let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
            fdt.property_string("device_type", "cpu")?;
            fdt.property_string("compatible", "arm,armv8")?;
            fdt.property_string("enable-method", "psci")?;
            fdt.property_u32("reg", affinity)?;
            fdt.end_node(node)?;
        }
        fdt.end_node(cpus)?;
        let node = fdt.begin_node("psci")?;
        fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
        fdt.property_string("method", "hvc")?;
        fdt.end_node(node)
    }

    fn interrupt_controller(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let gic = &layout::GIC;
        let node = fdt.begin_node(&format!("interrupt-controller@{:x}", gic.distributor))?;
        fdt.property_string("compatible", "arm,gic-v3")?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_u32("#interrupt-cells", 3)?;
        let redistributors = 0x2_0000 * u64::from(self.cpus);
        fdt.property_array_u64("reg", &[gic.distributor, 0x1_0000, gic.redistributors, redistributors])?;
        fdt.property_phandle(handle::GIC)?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_null("ranges")?;
        let its = fdt.begin_node(&format!("msi-controller@{:x}", gic.translation))?;
        fdt.property_string("compatible", "arm,gic-v3-its")?;
        fdt.property_null("msi-controller")?;
        fdt.property_u32("#msi-cells", 1)?;
        fdt.property_array_u64("reg", &[gic.translation, 0x2_0000])?;
        fdt.property_phandle(handle::ITS)?;
        fdt.end_node(its)?;
        fdt.end_node(node)
    }
}

/// How KVM numbers processor `index`: 16 to a cluster (Linux, `arch/arm64/kvm/sys_regs.c`, `reset_mpidr`).
fn affinity(index: u32) -> u32 {
    index & 0xf | index >> 4 << 8
}

fn timer(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    let interrupts: Vec<u32> = TIMERS.into_iter().flat_map(|number| [PRIVATE, number, LEVEL_HIGH]).collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.end_node(node)
}

fn serial(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("serial@{:x}", layout::SERIAL))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[layout::SERIAL, 0x1000])?;
    fdt.property_u32("clock-frequency", 1_843_200)?;
    fdt.property_array_u32("interrupts", &[SHARED, layout::SERIAL_LINE, EDGE_RISING])?;
    fdt.end_node(node)
}

fn power_button(fdt: &mut FdtWriter) -> Result<(), Error> {
    let clock = fdt.begin_node("clock")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_phandle(handle::CLOCK)?;
    fdt.end_node(clock)?;
    let pins = fdt.begin_node(&format!("gpio@{:x}", layout::PINS))?;
    fdt.property_string_list("compatible", vec!["arm,pl061".into(), "arm,primecell".into()])?;
    fdt.property_array_u64("reg", &[layout::PINS, 0x1000])?;
    fdt.property_array_u32("interrupts", &[SHARED, layout::EVENT_LINE, EDGE_RISING])?;
    fdt.property_null("gpio-controller")?;
    fdt.property_u32("#gpio-cells", 2)?;
    fdt.property_u32("clocks", handle::CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.property_phandle(handle::PINS)?;
    fdt.end_node(pins)?;
    let keys = fdt.begin_node("keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let button = fdt.begin_node("power")?;
    fdt.property_string("label", "power")?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    fdt.property_array_u32("gpios", &[handle::PINS, layout::POWER_PIN.into(), 0])?;
    fdt.end_node(button)?;
    fdt.end_node(keys)
}

fn pci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pcie@{:x}", layout::ECAM))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_array_u64("reg", &[layout::ECAM, layout::ECAM_BYTES])?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_array_u32("bus-range", &[0, 0])?;
    // Devices see the window at the addresses at which the processors see it.
    let (window, bytes) = (layout::PCI_WINDOW as u32, layout::PCI_WINDOW_BYTES as u32);
    fdt.property_array_u32("ranges", &[PCI_MEMORY_32, 0, window, 0, window, 0, bytes])?;
    // Whatever a device's number on the bus is, that is its number to the translation service.
    fdt.property_array_u32("msi-map", &[0, handle::ITS, 0, 0x1_0000])?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}

/// A virtio device that is on no bus (`virtio/mmio.yaml`).
fn virtio_device(fdt: &mut FdtWriter, slot: Slot) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("virtio@{:x}", slot.address))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    fdt.property_array_u64("reg", &[slot.address, SLOT_BYTES])?;
    fdt.property_array_u32("interrupts", &[SHARED, slot.line, EDGE_RISING])?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Pages, create};
    use crate::virtio::SLOTS_MAX;

    fn tree(cpus: u32, virtio_slots: usize) -> Vec<u8> {
        let memory = create(4 << 20, Pages::Small).unwrap();
        let command_line = "x".repeat(layout::COMMAND_LINE_MAX - 1);
        let (initrd, seed) = (Some((1, 2)), [7; 64]);
        let command_line = &command_line;
        Tree { memory: &memory, cpus, command_line, initrd, seed, virtio_slots }.flattened().unwrap()
    }

    fn has(tree: &[u8], bytes: &[u8]) -> bool {
        tree.windows(bytes.len()).any(|window| window == bytes)
    }

    #[test]
    fn the_longest_tree_fits() {
        assert!(tree(32, SLOTS_MAX).len() <= layout::DEVICE_TREE_BYTES);
    }

    #[test]
    fn every_processor_is_in_it_under_its_number() {
        let tree = tree(18, 0);
        let has = |name: &[u8]| has(&tree, name);
        for name in [&b"cpu@0\0"[..], b"cpu@f\0", b"cpu@100\0", b"cpu@101\0"] {
            assert!(has(name), "{name:?}");
        }
        assert!(!has(b"cpu@102\0") && !has(b"cpu@10\0"));
    }

    #[test]
    fn each_virtio_slot_is_in_it_with_its_registers_and_its_line() {
        let tree = tree(1, 2);
        for name in [&b"virtio@a000000\0"[..], b"virtio@a010000\0"] {
            assert!(has(&tree, name), "{name:?}");
        }
        assert!(!has(&tree, b"virtio@a020000\0"), "no more than there are");
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        assert!(has(&tree, &words(&[0, 0x0a01_0000, 0, 0x1000])));
        assert!(has(&tree, &words(&[SHARED, 3, EDGE_RISING])));
    }
}
