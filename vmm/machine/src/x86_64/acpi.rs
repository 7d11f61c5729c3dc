//! ACPI tables of a machine with the reduced hardware model (ACPI 6.5, section 4.1).

use acpi_tables::aml::{
    self, AddressSpace, AddressSpaceCacheable, Device, EISAName, Interrupt, Method, Name, OpRegion, Package,
    Path, ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as GasSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use super::layout;
use crate::virtio::{self, SLOT_BYTES, Slot};

const OEM: [u8; 6] = *b"RINGWY";
const TABLE: [u8; 8] = *b"RINGWYVM";
const REVISION: u32 = 1;

/// The tables as they stand in memory from [`layout::ACPI`] on, the root pointer first.
pub(crate) fn tables(cpus: u32, virtio_slots: usize) -> Vec<u8> {
    let mut image = vec![0; Rsdp::len().next_multiple_of(16)];
    let mut put = |table: &dyn Aml| -> u64 {
        let at = image.len().next_multiple_of(16);
        image.resize(at, 0);
        image.extend(bytes(table));
        layout::ACPI + at as u64
    };
    let dsdt = put(&Bytes(dsdt(virtio_slots)));
    let fadt = put(&fadt(dsdt));
    let madt = put(&madt(cpus));
    let mcfg = put(&mcfg());
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    [fadt, madt, mcfg].into_iter().for_each(|table| xsdt.add_entry(table));
    let xsdt = put(&xsdt);
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    image[..rsdp.len()].copy_from_slice(&rsdp);
    image
}

struct Bytes(Vec<u8>);

impl Aml for Bytes {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

fn port(address: u16) -> GAS {
    GAS::new(GasSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address.into())
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd);
    // No VGA, no keyboard controller, no CMOS clock (section 5.2.9.3): bits 2 and 5.
    fadt.iapc_boot_arch = (1 << 2 | 1 << 5).into();
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"RINGWAY\0").into();
    fadt.finalize()
}

fn madt(cpus: u32) -> impl Aml {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(layout::LOCAL_APIC));
    for cpu in 0..cpus as u8 {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

fn mcfg() -> impl Aml {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(layout::ECAM, 0, 0, 0);
    mcfg
}

/// A virtio device that is on no bus. The name is the one Linux knows (`drivers/virtio/virtio_mmio.c`).
fn virtio_device(number: u8, slot: Slot) -> Vec<u8> {
    bytes(&Device::new(
        format!("_SB_.VR{number:02}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &number),
            &Name::new("_CCA".into(), &aml::ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &aml::Memory32Fixed::new(true, slot.address as u32, SLOT_BYTES as u32),
                    &Interrupt::new(true, true, false, false, slot.line),
                ]),
            ),
        ],
    ))
}

/// The devices that can't be found otherwise: PCI's root, the serial port, the power button and its events, virtio
/// devices that aren't on PCI.
fn dsdt(virtio_slots: usize) -> Vec<u8> {
    let window_end = (layout::PCI_WINDOW + layout::PCI_WINDOW_BYTES - 1) as u32;
    let root = bytes(&Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &aml::ZERO),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_CCA".into(), &aml::ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0u16, 0),
                    &aml::IO::new(layout::PCI_ADDRESS_PORT, layout::PCI_ADDRESS_PORT, 1, 8),
                    &AddressSpace::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        layout::PCI_WINDOW as u32,
                        window_end,
                        None,
                    ),
                ]),
            ),
        ],
    ));
    // Says that the configuration space is not for anything else; Linux doesn't use it otherwise.
    let reserved = bytes(&Device::new(
        "_SB_.MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&aml::Memory32Fixed::new(
                    true,
                    layout::ECAM as u32,
                    layout::ECAM_BYTES as u32,
                )]),
            ),
        ],
    ));
    let serial = bytes(&Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Interrupt::new(true, true, false, false, layout::SERIAL_LINE),
                    &aml::IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 0, 8),
                ]),
            ),
        ],
    ));
    let button = bytes(&Device::new(
        "_SB_.PWRB".into(),
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C")), &Name::new("_UID".into(), &aml::ZERO)],
    ));
    // The generic event device (section 5.6.9): reads what happened, and tells whom it concerns.
    let event_port = layout::EVENT_PORT;
    let events = bytes(&Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Interrupt::new(true, true, false, false, layout::EVENT_LINE)]),
            ),
            &OpRegion::new("EVTR".into(), aml::OpRegionSpace::SystemIO, &event_port, &1u8),
            &aml::Field::new(
                "EVTR".into(),
                aml::FieldAccessType::Byte,
                aml::FieldLockRule::NoLock,
                aml::FieldUpdateRule::WriteAsZeroes,
                vec![aml::FieldEntry::Named(*b"EVTS", 8)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    &aml::Store::new(&aml::Local(0), &Path::new("EVTS")),
                    &aml::And::new(&aml::Local(1), &aml::Local(0), &layout::EVENT_POWER),
                    &aml::If::new(
                        &aml::Equal::new(&aml::Local(1), &layout::EVENT_POWER),
                        vec![&aml::Notify::new(&Path::new("\\_SB_.PWRB"), &0x80u8)],
                    ),
                ],
            ),
        ],
    ));
    let off = bytes(&Name::new("_S5_".into(), &Package::new(vec![&5u8])));
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, REVISION);
    for part in [root, reserved, serial, button, events, off] {
        dsdt.append_slice(&part);
    }
    for (number, slot) in (0..).zip(virtio::slots().take(virtio_slots)) {
        dsdt.append_slice(&virtio_device(number, slot));
    }
    dsdt.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::SLOTS_MAX;

    /// Signature and length of the table at a guest address; its checksum must be right.
    fn table_at(image: &[u8], address: u64) -> (&[u8], &[u8]) {
        let at = (address - layout::ACPI) as usize;
        let len = u32::from_le_bytes(image[at + 4..at + 8].try_into().unwrap()) as usize;
        let table = &image[at..at + len];
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        (&table[..4], table)
    }

    #[test]
    fn every_table_is_reached_from_the_root_and_sums_up_to_zero() {
        let image = tables(3, SLOTS_MAX);
        assert_eq!(&image[..8], b"RSD PTR ");
        assert!(image.len() as u64 <= layout::ACPI_END - layout::ACPI);
        let address = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let (signature, xsdt) = table_at(&image, address(&image[24..32]));
        assert_eq!(signature, b"XSDT");
        let signatures: Vec<_> =
            xsdt[36..].chunks(8).map(|entry| table_at(&image, address(entry)).0).collect();
        assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG"]);
        let fadt = table_at(&image, address(&xsdt[36..44])).1;
        assert_eq!(table_at(&image, address(&fadt[140..148])).0, b"DSDT");
    }

    #[test]
    fn each_virtio_slot_is_a_device_with_its_registers_and_its_line() {
        let count =
            |dsdt: &[u8], bytes: &[u8]| dsdt.windows(bytes.len()).filter(|window| *window == bytes).count();
        assert_eq!(count(&dsdt(0), b"LNRO0005"), 0);
        let dsdt = dsdt(SLOTS_MAX);
        assert_eq!(count(&dsdt, b"LNRO0005"), 18);
        for (slot, number) in virtio::slots().zip(0..) {
            assert_eq!(count(&dsdt, format!("VR{number:02}").as_bytes()), 1);
            // 32-bit fixed memory, writable (ACPI 6.5, section 6.4.3.4); an interrupt: consumer, edge, active high,
            // exclusive (6.4.3.6).
            let mut resources = vec![0x86, 9, 0, 1];
            resources.extend((slot.address as u32).to_le_bytes());
            resources.extend([0, 0x10, 0, 0]);
            resources.extend([0x89, 6, 0, 0b0011, 1]);
            resources.extend(slot.line.to_le_bytes());
            assert_eq!(count(&dsdt, &resources), 1, "{slot:x?}");
        }
    }

    #[test]
    fn each_processor_has_a_local_apic() {
        let image = bytes(&madt(5));
        // Type 0, length 8 (section 5.2.12.2).
        assert_eq!(image[44..].chunks(8).take_while(|entry| entry[..2] == [0, 8]).count(), 5);
    }
}
