//! The bytes of every command, request and response: each documented byte holds its own offset plus 1, everything else
//! is 0. Offsets and widths are those of the tables of MC API 10.40 (include/dplib/fsl_*_cmd.h), not of the structs under
//! test. What is captured from another driver is in `mc_captured.rs`.

use std::fmt::Debug;

use dpaa2_defs::mc::header::{Command, Frame, Status};
use dpaa2_defs::mc::{common, dpbp, dpci, dpcon, dpio, dpmac, dpmcp, dpmng, dpni, dprc, dpseci};

/// What there is after the header, without the zeros at its end.
fn parameters(frame: &Frame) -> String {
    let used = frame.parameters.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let words = frame.parameters[..used].chunks(8);
    let words = words.map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    words.collect::<Vec<_>>().join(" ")
}

/// Asserts the bytes of a request, both ways.
fn request<C: Command + PartialEq + Debug>(id: u16, version: u8, command: C, bytes: &str) {
    let frame = Frame::request(9, &command);
    assert_eq!((frame.header.id().id, frame.header.id().version), (id, version), "{}", C::NAME);
    assert!(C::NEWEST_VERSION >= version, "{}", C::NAME);
    assert_eq!(parameters(&frame), bytes, "request of {}", C::NAME);
    assert_eq!(frame.read::<C>(), command, "request of {}", C::NAME);
}

/// Asserts the bytes of a response, both ways.
fn response<C: Command<Response: PartialEq> + Default>(response: C::Response, bytes: &str) {
    let frame = Frame::request(9, &C::default()).response(Status::OK, &response);
    assert_eq!(parameters(&frame), bytes, "response to {}", C::NAME);
    assert_eq!(frame.read::<C::Response>(), response, "response to {}", C::NAME);
}

#[test]
fn commands_of_several_object_types_have_the_documented_bytes() {
    use common::*;
    request(0x002, 1, Enable {}, "");
    request(0x003, 1, Disable {}, "");
    request(0x005, 1, Reset {}, "");
    request(0x006, 1, IsEnabled {}, "");
    response::<IsEnabled>(Enabled { enabled: 0x01 }, "01");
    request(0x012, 1, SetIrqEnable { enable: 0x01, index: 0x05, ..Default::default() }, "0100000005");
    request(0x013, 1, GetIrqEnable { index: 0x05, ..Default::default() }, "0000000005");
    response::<GetIrqEnable>(Enabled { enabled: 0x01 }, "01");
    request(0x014, 1, SetIrqMask { mask: 0x04030201.into(), index: 0x05 }, "0102030405");
    request(0x015, 1, GetIrqMask { index: 0x05, ..Default::default() }, "0000000005");
    response::<GetIrqMask>(IrqEvents { events: 0x04030201.into() }, "01020304");
    request(0x016, 1, GetIrqStatus { events: 0x04030201.into(), index: 0x05 }, "0102030405");
    response::<GetIrqStatus>(IrqEvents { events: 0x04030201.into() }, "01020304");
    request(0x017, 1, ClearIrqStatus { events: 0x04030201.into(), index: 0x05 }, "0102030405");
    request(0x800, 1, Close {}, "");
}

#[test]
fn commands_of_dpmng_have_the_documented_bytes() {
    use dpmng::*;
    request(0x831, 1, GetVersion {}, "");
    response::<GetVersion>(
        Version { revision: 0x04030201.into(), major: 0x08070605.into(), minor: 0x0c0b0a09.into() },
        "0102030405060708 090a0b0c",
    );
    request(0x832, 1, GetSocVersion {}, "");
    response::<GetSocVersion>(
        SocVersion { svr: 0x04030201.into(), pvr: 0x08070605.into() },
        "0102030405060708",
    );
}

#[test]
fn commands_of_dprc_have_the_documented_bytes() {
    use common::ApiVersion;
    use dpaa2_defs::mc::object::{ObjectType, Text16};
    use dprc::*;
    request(0x004, 1, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes {
            id: 0x04030201.into(),
            icid: 0x08070605.into(),
            options: 0x0c0b0a09.into(),
            portal_id: 0x100f0e0d.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10",
    );
    request(
        0x005,
        2,
        ResetContainer { child_id: 0x04030201.into(), options: 0x08070605.into() },
        "0102030405060708",
    );
    request(
        0x010,
        1,
        SetIrq {
            msi_data: 0x04030201.into(),
            index: 0x05,
            msi_address: 0x100f0e0d0c0b0a09.into(),
            irq_number: 0x14131211.into(),
            ..Default::default()
        },
        "0102030405000000 090a0b0c0d0e0f10 11121314",
    );
    request(0x011, 1, GetIrq { index: 0x05, ..Default::default() }, "0000000005");
    response::<GetIrq>(
        Irq {
            msi_data: 0x04030201.into(),
            msi_address: 0x100f0e0d0c0b0a09.into(),
            irq_number: 0x14131211.into(),
            irq_type: 0x18171615.into(),
            ..Default::default()
        },
        "0102030400000000 090a0b0c0d0e0f10 1112131415161718",
    );
    request(
        0x151,
        2,
        CreateContainer {
            options: 0x04030201.into(),
            icid: 0x08070605.into(),
            portal_id: 0x100f0e0d.into(),
            label: Text16::new("label"),
            ..Default::default()
        },
        "0102030405060708 000000000d0e0f10 6c6162656c",
    );
    response::<CreateContainer>(
        CreatedContainer {
            child_id: 0x0c0b0a09.into(),
            portal_address: 0x1817161514131211.into(),
            ..Default::default()
        },
        "0000000000000000 090a0b0c00000000 1112131415161718",
    );
    request(0x152, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(
        0x155,
        1,
        SetResourceQuota {
            child_id: 0x04030201.into(),
            quota: 0x0605.into(),
            resource_type: Text16::new("label"),
            ..Default::default()
        },
        "0102030405060000 6c6162656c",
    );
    request(
        0x156,
        1,
        GetResourceQuota {
            child_id: 0x04030201.into(),
            resource_type: Text16::new("label"),
            ..Default::default()
        },
        "0102030400000000 6c6162656c",
    );
    response::<GetResourceQuota>(
        ResourceQuota { quota: 0x0605.into(), ..Default::default() },
        "000000000506",
    );
    request(
        0x157,
        1,
        Assign {
            container_id: 0x04030201.into(),
            options: 0x08070605.into(),
            count: 0x0c0b0a09.into(),
            base: 0x100f0e0d.into(),
            object_type: ObjectType::DPNI,
        },
        "0102030405060708 090a0b0c0d0e0f10 64706e69",
    );
    request(
        0x158,
        1,
        Unassign {
            child_id: 0x04030201.into(),
            options: 0x08070605.into(),
            count: 0x0c0b0a09.into(),
            base: 0x100f0e0d.into(),
            object_type: ObjectType::DPNI,
        },
        "0102030405060708 090a0b0c0d0e0f10 64706e69",
    );
    request(0x159, 1, GetObjectCount {}, "");
    response::<GetObjectCount>(
        ObjectCount { count: 0x08070605.into(), ..Default::default() },
        "0000000005060708",
    );
    request(0x15a, 1, GetObject { index: 0x04030201.into() }, "01020304");
    response::<GetObject>(
        ObjectDescriptor {
            id: 0x08070605.into(),
            vendor: 0x0a09.into(),
            irqs: 0x0b,
            regions: 0x0c,
            state: 0x100f0e0d.into(),
            version_major: 0x1211.into(),
            version_minor: 0x1413.into(),
            flags: 0x1615.into(),
            object_type: ObjectType::DPNI,
            label: Text16::new("label"),
            ..Default::default()
        },
        "0000000005060708 090a0b0c0d0e0f10 1112131415160000 64706e6900000000 0000000000000000 6c6162656c",
    );
    request(
        0x15b,
        1,
        GetResourceCount { resource_type: Text16::new("label"), ..Default::default() },
        "0000000000000000 6c6162656c",
    );
    response::<GetResourceCount>(ResourceCount { count: 0x04030201.into() }, "01020304");
    request(
        0x15c,
        1,
        GetResourceIds {
            iteration_low: 0x06,
            iteration_high: 0x07,
            base: 0x0c0b0a09.into(),
            last: 0x100f0e0d.into(),
            resource_type: Text16::new("label"),
            ..Default::default()
        },
        "0000000000060700 090a0b0c0d0e0f10 6c6162656c",
    );
    response::<GetResourceIds>(
        GetResourceIds {
            iteration_low: 0x06,
            iteration_high: 0x07,
            base: 0x0c0b0a09.into(),
            last: 0x100f0e0d.into(),
            ..Default::default()
        },
        "0000000000060700 090a0b0c0d0e0f10",
    );
    request(
        0x15e,
        3,
        GetObjectRegion {
            object_id: 0x04030201.into(),
            index: 0x07,
            object_type: ObjectType::DPNI,
            ..Default::default()
        },
        "0102030400000700 0000000000000000 0000000000000000 64706e69",
    );
    response::<GetObjectRegion>(
        ObjectRegion {
            offset: 0x100f0e0d0c0b0a09.into(),
            size: 0x14131211.into(),
            region_type: RegionType(0x15),
            flags: 0x1c1b1a19.into(),
            base_address: 0x2827262524232221.into(),
            ..Default::default()
        },
        "0000000000000000 090a0b0c0d0e0f10 1112131415000000 191a1b1c00000000 2122232425262728",
    );
    request(
        0x15f,
        1,
        SetObjectIrq {
            msi_data: 0x04030201.into(),
            index: 0x05,
            msi_address: 0x100f0e0d0c0b0a09.into(),
            irq_number: 0x14131211.into(),
            object_id: 0x18171615.into(),
            object_type: ObjectType::DPNI,
            ..Default::default()
        },
        "0102030405000000 090a0b0c0d0e0f10 1112131415161718 64706e69",
    );
    request(
        0x160,
        1,
        GetObjectIrq {
            object_id: 0x04030201.into(),
            index: 0x05,
            object_type: ObjectType::DPNI,
            ..Default::default()
        },
        "0102030405000000 64706e69",
    );
    response::<GetObjectIrq>(
        Irq {
            msi_data: 0x04030201.into(),
            msi_address: 0x100f0e0d0c0b0a09.into(),
            irq_number: 0x14131211.into(),
            irq_type: 0x18171615.into(),
            ..Default::default()
        },
        "0102030400000000 090a0b0c0d0e0f10 1112131415161718",
    );
    request(
        0x161,
        1,
        SetObjectLabel {
            object_id: 0x04030201.into(),
            label: Text16::new("label"),
            object_type: ObjectType::DPNI,
            ..Default::default()
        },
        "0102030400000000 6c6162656c000000 0000000000000000 64706e69",
    );
    request(
        0x162,
        1,
        GetObjectDescriptor {
            object_id: 0x04030201.into(),
            object_type: ObjectType::DPNI,
            ..Default::default()
        },
        "0102030400000000 64706e69",
    );
    response::<GetObjectDescriptor>(
        ObjectDescriptor {
            id: 0x08070605.into(),
            vendor: 0x0a09.into(),
            irqs: 0x0b,
            regions: 0x0c,
            state: 0x100f0e0d.into(),
            version_major: 0x1211.into(),
            version_minor: 0x1413.into(),
            flags: 0x1615.into(),
            object_type: ObjectType::DPNI,
            label: Text16::new("label"),
            ..Default::default()
        },
        "0000000005060708 090a0b0c0d0e0f10 1112131415160000 64706e6900000000 0000000000000000 6c6162656c",
    );
    request(
        0x167,
        1,
        Connect {
            endpoint1_id: 0x04030201.into(),
            endpoint1_interface: 0x0605.into(),
            endpoint2_id: 0x0c0b0a09.into(),
            endpoint2_interface: 0x0e0d.into(),
            endpoint1_type: ObjectType::DPNI,
            max_rate: 0x24232221.into(),
            committed_rate: 0x28272625.into(),
            endpoint2_type: ObjectType::DPNI,
            ..Default::default()
        },
        "0102030405060000 090a0b0c0d0e0000 64706e6900000000 0000000000000000 2122232425262728 64706e69",
    );
    request(
        0x168,
        1,
        Disconnect { id: 0x04030201.into(), interface: 0x08070605.into(), object_type: ObjectType::DPNI },
        "0102030405060708 64706e69",
    );
    request(0x169, 1, GetPool { index: 0x04030201.into() }, "01020304");
    response::<GetPool>(
        Pool { resource_type: Text16::new("label"), ..Default::default() },
        "0000000000000000 6c6162656c",
    );
    request(0x16a, 1, GetPoolCount {}, "");
    response::<GetPoolCount>(PoolCount { count: 0x04030201.into() }, "01020304");
    request(
        0x16b,
        1,
        SetLocked { locked: 0x01, child_id: 0x08070605.into(), ..Default::default() },
        "0100000005060708",
    );
    request(
        0x16c,
        1,
        GetConnection {
            id: 0x04030201.into(),
            interface: 0x0605.into(),
            object_type: ObjectType::DPNI,
            ..Default::default()
        },
        "0102030405060000 64706e69",
    );
    response::<GetConnection>(
        Connection {
            peer_id: 0x1c1b1a19.into(),
            peer_interface: 0x1e1d.into(),
            peer_type: ObjectType::DPNI,
            state: 0x34333231.into(),
            ..Default::default()
        },
        "0000000000000000 0000000000000000 0000000000000000 191a1b1c1d1e0000 64706e6900000000 0000000000000000 31323334",
    );
    request(0x16d, 1, GetMemoryMap { partition: 0x01, flags: 0x02, page: 0x0403.into() }, "01020304");
    response::<GetMemoryMap>(
        MemoryMap {
            entries: 0x01,
            pages: 0x0403.into(),
            ranges: [
                MemoryRange { offset: 0x0c0b0a09.into(), size: 0x100f0e0d.into() },
                MemoryRange { offset: 0x14131211.into(), size: 0x18171615.into() },
                MemoryRange { offset: 0x1c1b1a19.into(), size: 0x201f1e1d.into() },
                MemoryRange { offset: 0x24232221.into(), size: 0x28272625.into() },
                MemoryRange { offset: 0x2c2b2a29.into(), size: 0x302f2e2d.into() },
            ],
            ..Default::default()
        },
        "0100030400000000 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20 2122232425262728 292a2b2c2d2e2f30",
    );
    request(0x805, 1, Open { id: 0x04030201.into() }, "01020304");
    request(0x830, 1, GetContainerId {}, "");
    response::<GetContainerId>(ContainerId { id: 0x04030201.into() }, "01020304");
    request(0xa05, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}

#[test]
fn commands_of_dpmcp_have_the_documented_bytes() {
    use common::{ApiVersion, Created};
    use dpmcp::*;
    request(0x004, 2, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes { options: 0x04030201.into(), id: 0x08070605.into() },
        "0102030405060708",
    );
    request(0x80b, 1, Open { id: 0x04030201.into() }, "01020304");
    request(
        0x90b,
        2,
        Create { portal_id: 0x04030201.into(), options: 0x08070605.into() },
        "0102030405060708",
    );
    response::<Create>(Created { id: 0x04030201.into() }, "01020304");
    request(0x98b, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(0xa0b, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}

#[test]
fn commands_of_dpio_have_the_documented_bytes() {
    use common::{ApiVersion, Created};
    use dpio::*;
    request(0x004, 1, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes {
            id: 0x04030201.into(),
            portal_id: 0x0605.into(),
            priorities: 0x07,
            channel_mode: 0x08,
            cena_offset: 0x100f0e0d0c0b0a09.into(),
            cinh_offset: 0x1817161514131211.into(),
            qbman_version: 0x1c1b1a19.into(),
            qbman_clock: 0x24232221.into(),
            ..Default::default()
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131415161718 191a1b1c00000000 21222324",
    );
    request(0x120, 1, SetStashingDestination { destination: 0x01 }, "01");
    request(0x121, 1, GetStashingDestination {}, "");
    response::<GetStashingDestination>(StashingDestination { destination: 0x01 }, "01");
    request(0x122, 1, AddStaticDequeueChannel { dpcon_id: 0x04030201.into() }, "01020304");
    response::<AddStaticDequeueChannel>(StaticDequeueChannel { channel_index: 0x01 }, "01");
    request(0x123, 1, RemoveStaticDequeueChannel { dpcon_id: 0x04030201.into() }, "01020304");
    request(0x124, 1, SetStashingSource { source: 0x01 }, "01");
    request(0x125, 1, GetStashingSource {}, "");
    response::<GetStashingSource>(StashingSource { source: 0x01 }, "01");
    request(0x126, 1, SetStashingDestinationByCore { core_id: 0x01 }, "01");
    request(0x803, 1, Open { id: 0x04030201.into() }, "01020304");
    request(0x903, 1, Create { channel_mode: 0x03, priorities: 0x05, ..Default::default() }, "0000030005");
    response::<Create>(Created { id: 0x04030201.into() }, "01020304");
    request(0x983, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(0xa03, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}

#[test]
fn commands_of_dpbp_have_the_documented_bytes() {
    use common::{ApiVersion, Created};
    use dpbp::*;
    request(0x004, 1, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes { bpid: 0x0403.into(), id: 0x08070605.into(), ..Default::default() },
        "0000030405060708",
    );
    request(
        0x1b0,
        2,
        SetNotifications {
            depletion_entry: 0x04030201.into(),
            depletion_exit: 0x08070605.into(),
            surplus_entry: 0x0c0b0a09.into(),
            surplus_exit: 0x100f0e0d.into(),
            options: 0x14131211.into(),
            context: 0x201f1e1d1c1b1a19.into(),
            message_iova: 0x2827262524232221.into(),
            ..Default::default()
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131400000000 191a1b1c1d1e1f20 2122232425262728",
    );
    request(0x1b1, 2, GetNotifications {}, "");
    response::<GetNotifications>(
        SetNotifications {
            depletion_entry: 0x04030201.into(),
            depletion_exit: 0x08070605.into(),
            surplus_entry: 0x0c0b0a09.into(),
            surplus_exit: 0x100f0e0d.into(),
            options: 0x14131211.into(),
            context: 0x201f1e1d1c1b1a19.into(),
            message_iova: 0x2827262524232221.into(),
            ..Default::default()
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131400000000 191a1b1c1d1e1f20 2122232425262728",
    );
    request(0x1b2, 1, GetFreeBuffers {}, "");
    response::<GetFreeBuffers>(FreeBuffers { count: 0x04030201.into() }, "01020304");
    request(0x804, 1, Open { id: 0x04030201.into() }, "01020304");
    request(0x904, 1, Create {}, "");
    response::<Create>(Created { id: 0x04030201.into() }, "01020304");
    request(0x984, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(0xa04, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}

#[test]
fn commands_of_dpcon_have_the_documented_bytes() {
    use common::{ApiVersion, Created};
    use dpcon::*;
    request(0x004, 1, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes {
            id: 0x04030201.into(),
            channel_id: 0x0605.into(),
            priorities: 0x07,
            ..Default::default()
        },
        "01020304050607",
    );
    request(
        0x100,
        1,
        SetNotification {
            dpio_id: 0x04030201.into(),
            priority: 0x05,
            context: 0x100f0e0d0c0b0a09.into(),
            ..Default::default()
        },
        "0102030405000000 090a0b0c0d0e0f10",
    );
    request(0x808, 1, Open { id: 0x04030201.into() }, "01020304");
    request(0x908, 1, Create { priorities: 0x01 }, "01");
    response::<Create>(Created { id: 0x04030201.into() }, "01020304");
    request(0x988, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(0xa08, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}

#[test]
fn commands_of_dpni_have_the_documented_bytes() {
    use common::{ApiVersion, Created, Enabled};
    use dpni::*;
    request(0x004, 6, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes {
            options: 0x04030201.into(),
            queues: 0x05,
            rx_tcs: 0x06,
            mac_filter_entries: 0x07,
            tx_tcs: 0x08,
            vlan_filter_entries: 0x09,
            channels: 0x0a,
            qos_entries: 0x0b,
            fs_entries: 0x0e0d.into(),
            order_records: 0x100f.into(),
            qos_key_size: 0x11,
            fs_key_size: 0x12,
            wriop_version: 0x1413.into(),
            congestion_groups: 0x15,
            ..Default::default()
        },
        "0102030405060708 090a0b000d0e0f10 1112131415",
    );
    request(
        0x200,
        3,
        SetPools {
            count: 0x01,
            backup_mask: 0x02,
            options: 0x04,
            pools: [
                Pool { dpbp_id: 0x0605.into(), priority_mask: 0x07, ..Default::default() },
                Pool { dpbp_id: 0x0a09.into(), priority_mask: 0x0b, ..Default::default() },
                Pool { dpbp_id: 0x0e0d.into(), priority_mask: 0x0f, ..Default::default() },
                Pool { dpbp_id: 0x1211.into(), priority_mask: 0x13, ..Default::default() },
                Pool { dpbp_id: 0x1615.into(), priority_mask: 0x17, ..Default::default() },
                Pool { dpbp_id: 0x1a19.into(), priority_mask: 0x1b, ..Default::default() },
                Pool { dpbp_id: 0x1e1d.into(), priority_mask: 0x1f, ..Default::default() },
                Pool { dpbp_id: 0x2221.into(), priority_mask: 0x23, ..Default::default() },
            ],
            buffer_sizes: [
                0x2625.into(),
                0x2827.into(),
                0x2a29.into(),
                0x2c2b.into(),
                0x2e2d.into(),
                0x302f.into(),
                0x3231.into(),
                0x3433.into(),
            ],
            ..Default::default()
        },
        "0102000405060700 090a0b000d0e0f00 1112130015161700 191a1b001d1e1f00 2122230025262728 292a2b2c2d2e2f30 31323334",
    );
    request(0x20b, 1, SetErrorsBehavior { errors: 0x04030201.into(), flags: 0x05 }, "0102030405");
    request(0x210, 1, GetQdid { queue_type: QueueType(0x01) }, "01");
    response::<GetQdid>(Qdid { qdid: 0x0201.into() }, "0102");
    request(0x211, 1, GetStorageProfiles {}, "");
    response::<GetStorageProfiles>(StorageProfiles { spids: [0x0201.into(), 0x0403.into()] }, "01020304");
    request(0x212, 1, GetTxDataOffset {}, "");
    response::<GetTxDataOffset>(TxDataOffset { offset: 0x0201.into() }, "0102");
    request(0x215, 2, GetLinkState {}, "");
    response::<GetLinkState>(
        LinkState {
            flags: 0x05,
            rate: 0x0c0b0a09.into(),
            options: 0x1817161514131211.into(),
            supported: 0x201f1e1d1c1b1a19.into(),
            advertising: 0x2827262524232221.into(),
            ..Default::default()
        },
        "0000000005000000 090a0b0c00000000 1112131415161718 191a1b1c1d1e1f20 2122232425262728",
    );
    request(0x216, 1, SetMaxFrameLength { length: 0x0201.into() }, "0102");
    request(0x217, 1, GetMaxFrameLength {}, "");
    response::<GetMaxFrameLength>(MaxFrameLength { length: 0x0201.into() }, "0102");
    request(
        0x21a,
        2,
        SetLinkConfiguration {
            rate: 0x0c0b0a09.into(),
            options: 0x1817161514131211.into(),
            advertising: 0x201f1e1d1c1b1a19.into(),
            ..Default::default()
        },
        "0000000000000000 090a0b0c00000000 1112131415161718 191a1b1c1d1e1f20",
    );
    request(
        0x21b,
        3,
        SetTxShaping {
            committed_burst: 0x0201.into(),
            excess_burst: 0x0403.into(),
            committed_rate: 0x0c0b0a09.into(),
            excess_rate: 0x100f0e0d.into(),
            options: 0x11,
            channel: 0x12,
            overhead: 0x1413.into(),
            ..Default::default()
        },
        "0102030400000000 090a0b0c0d0e0f10 11121314",
    );
    request(0x220, 1, SetMulticastPromiscuous { enable: 0x01 }, "01");
    request(0x221, 1, GetMulticastPromiscuous {}, "");
    response::<GetMulticastPromiscuous>(Enabled { enabled: 0x01 }, "01");
    request(0x222, 1, SetUnicastPromiscuous { enable: 0x01 }, "01");
    request(0x223, 1, GetUnicastPromiscuous {}, "");
    response::<GetUnicastPromiscuous>(Enabled { enabled: 0x01 }, "01");
    request(
        0x224,
        1,
        SetPrimaryMac {
            address: MacAddress::new([0x08, 0x07, 0x06, 0x05, 0x04, 0x03]),
            ..Default::default()
        },
        "0000030405060708",
    );
    request(0x225, 1, GetPrimaryMac {}, "");
    response::<GetPrimaryMac>(
        MacAddressField {
            address: MacAddress::new([0x08, 0x07, 0x06, 0x05, 0x04, 0x03]),
            ..Default::default()
        },
        "0000030405060708",
    );
    request(
        0x226,
        2,
        AddMacFilter {
            flags: 0x01,
            address: MacAddress::new([0x08, 0x07, 0x06, 0x05, 0x04, 0x03]),
            tc: 0x09,
            queue: 0x0a,
            ..Default::default()
        },
        "0100030405060708 090a",
    );
    request(
        0x227,
        1,
        RemoveMacFilter {
            address: MacAddress::new([0x08, 0x07, 0x06, 0x05, 0x04, 0x03]),
            ..Default::default()
        },
        "0000030405060708",
    );
    request(0x228, 1, ClearMacFilters { flags: 0x01 }, "01");
    request(0x230, 1, EnableVlanFilter { enable: 0x01 }, "01");
    request(
        0x231,
        2,
        AddVlanId { flags: 0x01, tc: 0x02, queue: 0x03, vlan_id: 0x0605.into(), ..Default::default() },
        "010203000506",
    );
    request(0x232, 1, RemoveVlanId { vlan_id: 0x0605.into(), ..Default::default() }, "000000000506");
    request(0x233, 1, ClearVlanFilters {}, "");
    request(
        0x235,
        4,
        SetRxTcDistribution {
            size: 0x0201.into(),
            tc: 0x03,
            modes: 0x04,
            keep: 0x06,
            default_queue: 0x0807.into(),
            key_config_iova: 0x3837363534333231.into(),
            ..Default::default()
        },
        "0102030400060708 0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 3132333435363738",
    );
    request(
        0x23e,
        1,
        SetRxTcPolicing {
            mode_and_colour: 0x01,
            units: 0x02,
            tc: 0x03,
            options: 0x08070605.into(),
            cir: 0x0c0b0a09.into(),
            cbs: 0x100f0e0d.into(),
            eir: 0x14131211.into(),
            ebs: 0x18171615.into(),
            ..Default::default()
        },
        "0102030005060708 090a0b0c0d0e0f10 1112131415161718",
    );
    request(
        0x240,
        2,
        SetQosTable {
            default_queue: 0x0403.into(),
            default_tc: 0x05,
            flags: 0x06,
            key_config_iova: 0x3837363534333231.into(),
            ..Default::default()
        },
        "0000030405060000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 3132333435363738",
    );
    request(
        0x241,
        2,
        AddQosEntry {
            flags: 0x01,
            queue: 0x02,
            tc: 0x03,
            key_size: 0x04,
            index: 0x0605.into(),
            key_iova: 0x100f0e0d0c0b0a09.into(),
            mask_iova: 0x1817161514131211.into(),
            ..Default::default()
        },
        "0102030405060000 090a0b0c0d0e0f10 1112131415161718",
    );
    request(
        0x242,
        1,
        RemoveQosEntry {
            key_size: 0x04,
            key_iova: 0x100f0e0d0c0b0a09.into(),
            mask_iova: 0x1817161514131211.into(),
            ..Default::default()
        },
        "0000000400000000 090a0b0c0d0e0f10 1112131415161718",
    );
    request(0x243, 1, ClearQosTable {}, "");
    request(
        0x244,
        2,
        AddFsEntry {
            options: 0x0201.into(),
            tc: 0x03,
            key_size: 0x04,
            index: 0x0605.into(),
            queue: 0x0807.into(),
            key_iova: 0x100f0e0d0c0b0a09.into(),
            mask_iova: 0x1817161514131211.into(),
            flc: 0x201f1e1d1c1b1a19.into(),
            redirect_tokens: [
                0x2221.into(),
                0x2423.into(),
                0x2625.into(),
                0x2827.into(),
                0x2a29.into(),
                0x2c2b.into(),
                0x2e2d.into(),
                0x302f.into(),
            ],
            token_count: 0x31,
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20 2122232425262728 292a2b2c2d2e2f30 31",
    );
    request(
        0x245,
        1,
        RemoveFsEntry {
            tc: 0x03,
            key_size: 0x04,
            key_iova: 0x100f0e0d0c0b0a09.into(),
            mask_iova: 0x1817161514131211.into(),
            ..Default::default()
        },
        "0000030400000000 090a0b0c0d0e0f10 1112131415161718",
    );
    request(0x246, 1, ClearFsEntries { tc: 0x03, ..Default::default() }, "000003");
    request(
        0x250,
        3,
        SetTxPriorities {
            flags: 0x0201.into(),
            group_a_priority: 0x03,
            group_b_priority: 0x04,
            channel: 0x05,
            modes: [0x09, 0x0a, 0x0b, 0x0c],
            weights: [
                0x1a19.into(),
                0x1c1b.into(),
                0x1e1d.into(),
                0x201f.into(),
                0x2221.into(),
                0x2423.into(),
                0x2625.into(),
                0x2827.into(),
            ],
            ..Default::default()
        },
        "0102030405000000 090a0b0c00000000 0000000000000000 191a1b1c1d1e1f20 2122232425262728",
    );
    request(0x251, 1, GetRxTcPolicing { tc: 0x03, ..Default::default() }, "000003");
    response::<GetRxTcPolicing>(
        SetRxTcPolicing {
            mode_and_colour: 0x01,
            units: 0x02,
            options: 0x08070605.into(),
            cir: 0x0c0b0a09.into(),
            cbs: 0x100f0e0d.into(),
            eir: 0x14131211.into(),
            ebs: 0x18171615.into(),
            ..Default::default()
        },
        "0102000005060708 090a0b0c0d0e0f10 1112131415161718",
    );
    request(0x25d, 4, GetStatistics { page: 0x01, parameter: 0x0302.into() }, "010203");
    response::<GetStatistics>(
        Statistics {
            counters: [
                0x0807060504030201.into(),
                0x100f0e0d0c0b0a09.into(),
                0x1817161514131211.into(),
                0x201f1e1d1c1b1a19.into(),
                0x2827262524232221.into(),
                0x302f2e2d2c2b2a29.into(),
                0x3837363534333231.into(),
            ],
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20 2122232425262728 292a2b2c2d2e2f30 3132333435363738",
    );
    request(0x25e, 1, ResetStatistics {}, "");
    request(
        0x25f,
        3,
        GetQueue { queue_type: QueueType(0x01), tc: 0x02, index: 0x03, channel: 0x04 },
        "01020304",
    );
    response::<GetQueue>(
        Queue {
            destination_id: 0x0c0b0a09.into(),
            destination_priority: 0x0f,
            flags: 0x10,
            flc: 0x1817161514131211.into(),
            user_context: 0x201f1e1d1c1b1a19.into(),
            fqid: 0x24232221.into(),
            qdbin: 0x2625.into(),
            congestion_group: 0x29,
            ..Default::default()
        },
        "0000000000000000 090a0b0c00000f10 1112131415161718 191a1b1c1d1e1f20 2122232425260000 29",
    );
    request(
        0x260,
        3,
        SetQueue {
            queue_type: QueueType(0x01),
            tc: 0x02,
            index: 0x03,
            options: 0x04,
            destination_id: 0x0c0b0a09.into(),
            destination_priority: 0x0f,
            flags: 0x10,
            flc: 0x1817161514131211.into(),
            user_context: 0x201f1e1d1c1b1a19.into(),
            congestion_group: 0x21,
            channel: 0x22,
            ..Default::default()
        },
        "0102030400000000 090a0b0c00000f10 1112131415161718 191a1b1c1d1e1f20 2122",
    );
    request(
        0x261,
        2,
        GetTaildrop { point: CongestionPoint(0x01), queue_type: QueueType(0x02), tc: 0x03, index: 0x04 },
        "01020304",
    );
    response::<GetTaildrop>(
        Taildrop {
            enable_and_overhead_low: 0x09,
            overhead_high: 0x0a,
            units: Units(0x0b),
            threshold: 0x100f0e0d.into(),
            ..Default::default()
        },
        "0000000000000000 090a0b000d0e0f10",
    );
    request(
        0x262,
        3,
        SetTaildrop {
            point: CongestionPoint(0x01),
            queue_type: QueueType(0x02),
            tc: 0x03,
            index: 0x04,
            channel: 0x05,
            enable_and_overhead_low: 0x09,
            overhead_high: 0x0a,
            units: Units(0x0b),
            threshold: 0x100f0e0d.into(),
            ..Default::default()
        },
        "0102030405000000 090a0b000d0e0f10",
    );
    request(0x263, 1, GetPortMac {}, "");
    response::<GetPortMac>(
        MacAddressField {
            address: MacAddress::new([0x08, 0x07, 0x06, 0x05, 0x04, 0x03]),
            ..Default::default()
        },
        "0000030405060708",
    );
    request(0x264, 2, GetBufferLayout { queue_type: QueueType(0x01) }, "01");
    response::<GetBufferLayout>(
        BufferLayout {
            flags: 0x07,
            private_data_size: 0x0a09.into(),
            data_alignment: 0x0c0b.into(),
            head_room: 0x0e0d.into(),
            tail_room: 0x100f.into(),
            ..Default::default()
        },
        "0000000000000700 090a0b0c0d0e0f10",
    );
    request(
        0x265,
        2,
        SetBufferLayout {
            queue_type: QueueType(0x01),
            options: 0x0605.into(),
            flags: 0x07,
            private_data_size: 0x0a09.into(),
            data_alignment: 0x0c0b.into(),
            head_room: 0x0e0d.into(),
            tail_room: 0x100f.into(),
            ..Default::default()
        },
        "0100000005060700 090a0b0c0d0e0f10",
    );
    request(
        0x266,
        2,
        SetTxConfirmationMode { channel: 0x01, mode: ConfirmationMode(0x05), ..Default::default() },
        "0100000005",
    );
    request(
        0x267,
        3,
        SetCongestionNotification {
            queue_type: QueueType(0x01),
            tc: 0x02,
            channel: 0x03,
            point: CongestionPoint(0x04),
            congestion_group: 0x05,
            destination_id: 0x0c0b0a09.into(),
            mode: 0x0e0d.into(),
            destination_priority: 0x0f,
            type_and_units: 0x10,
            message_iova: 0x1817161514131211.into(),
            context: 0x201f1e1d1c1b1a19.into(),
            entry: 0x24232221.into(),
            exit: 0x28272625.into(),
            ..Default::default()
        },
        "0102030405000000 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20 2122232425262728",
    );
    request(
        0x268,
        3,
        GetCongestionNotification {
            queue_type: QueueType(0x01),
            tc: 0x02,
            channel: 0x03,
            point: CongestionPoint(0x04),
            congestion_group: 0x05,
        },
        "0102030405",
    );
    response::<GetCongestionNotification>(
        SetCongestionNotification {
            destination_id: 0x0c0b0a09.into(),
            mode: 0x0e0d.into(),
            destination_priority: 0x0f,
            type_and_units: 0x10,
            message_iova: 0x1817161514131211.into(),
            context: 0x201f1e1d1c1b1a19.into(),
            entry: 0x24232221.into(),
            exit: 0x28272625.into(),
            ..Default::default()
        },
        "0000000000000000 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20 2122232425262728",
    );
    request(
        0x269,
        3,
        SetEarlyDrop {
            queue_type: QueueType(0x01),
            tc: 0x02,
            channel: 0x03,
            config_iova: 0x100f0e0d0c0b0a09.into(),
            ..Default::default()
        },
        "0102030000000000 090a0b0c0d0e0f10",
    );
    request(
        0x26a,
        3,
        GetEarlyDrop {
            queue_type: QueueType(0x01),
            tc: 0x02,
            channel: 0x03,
            config_iova: 0x100f0e0d0c0b0a09.into(),
            ..Default::default()
        },
        "0102030000000000 090a0b0c0d0e0f10",
    );
    request(0x26b, 2, GetOffload { offload: Offload(0x04), ..Default::default() }, "00000004");
    response::<GetOffload>(
        OffloadValue { value: 0x08070605.into(), ..Default::default() },
        "0000000005060708",
    );
    request(
        0x26c,
        2,
        SetOffload { offload: Offload(0x04), value: 0x08070605.into(), ..Default::default() },
        "0000000405060708",
    );
    request(0x26d, 2, GetTxConfirmationMode { channel: 0x01 }, "01");
    response::<GetTxConfirmationMode>(
        TxConfirmationMode { mode: ConfirmationMode(0x05), ..Default::default() },
        "0000000005",
    );
    request(
        0x26e,
        2,
        SetOrderRestoration {
            record_id: 0x01,
            tc: 0x02,
            index: 0x03,
            options: 0x04,
            record: OrderRestoration {
                loose: 0x0c,
                advance_on_exhaustion: 0x0d,
                late_window: 0x0e,
                auto_advance: 0x0f,
                window: 0x10,
            },
            ..Default::default()
        },
        "0102030400000000 0000000c0d0e0f10",
    );
    request(
        0x26f,
        2,
        GetOrderRestoration { flags: 0x01, tc: 0x02, index: 0x03, record_id: 0x04 },
        "01020304",
    );
    response::<GetOrderRestoration>(
        OrderRestorationRecord {
            flags: 0x09,
            record: OrderRestoration {
                loose: 0x0c,
                advance_on_exhaustion: 0x0d,
                late_window: 0x0e,
                auto_advance: 0x0f,
                window: 0x10,
            },
            next_expected: 0x1211.into(),
            next_dispensed: 0x1615.into(),
            tail_sequence: 0x1a19.into(),
            tail_not_last: 0x1b,
            head_sequence: 0x1e1d.into(),
            head_not_last: 0x1f,
            head_pointer: 0x2221.into(),
            tail_pointer: 0x2625.into(),
            virtual_id: 0x2a29.into(),
            hardware_id: 0x2e2d.into(),
            ..Default::default()
        },
        "0000000000000000 0900000c0d0e0f10 1112000015160000 191a1b001d1e1f00 2122000025260000 292a00002d2e",
    );
    request(
        0x270,
        1,
        LoadSoftSequence {
            destination: 0x01,
            offset: 0x0a09.into(),
            size: 0x0e0d.into(),
            iova: 0x1817161514131211.into(),
            ..Default::default()
        },
        "0100000000000000 090a00000d0e0000 1112131415161718",
    );
    request(
        0x271,
        1,
        EnableSoftSequence {
            destination: 0x01,
            offset: 0x0a09.into(),
            header_examination: 0x0c0b.into(),
            set_start: 0x0d,
            parameter_offset: 0x11,
            parameter_size: 0x15,
            parameter_iova: 0x201f1e1d1c1b1a19.into(),
            ..Default::default()
        },
        "0100000000000000 090a0b0c0d000000 1100000015000000 191a1b1c1d1e1f20",
    );
    request(
        0x272,
        1,
        GetSoftSequenceLayout { source: 0x01, iova: 0x100f0e0d0c0b0a09.into(), ..Default::default() },
        "0100000000000000 090a0b0c0d0e0f10",
    );
    request(
        0x273,
        2,
        SetRxFsDistribution {
            size: 0x0201.into(),
            enable: 0x03,
            tc: 0x04,
            miss_queue: 0x0605.into(),
            key_config_iova: 0x100f0e0d0c0b0a09.into(),
            ..Default::default()
        },
        "0102030405060000 090a0b0c0d0e0f10",
    );
    request(
        0x274,
        2,
        SetRxHashDistribution {
            size: 0x0201.into(),
            enable: 0x03,
            tc: 0x04,
            key_config_iova: 0x100f0e0d0c0b0a09.into(),
            ..Default::default()
        },
        "0102030400000000 090a0b0c0d0e0f10",
    );
    request(0x275, 1, AddCustomTpid { tpid: 0x0403.into(), ..Default::default() }, "00000304");
    request(0x276, 1, RemoveCustomTpid { tpid: 0x0403.into(), ..Default::default() }, "00000304");
    request(0x277, 1, GetCustomTpid {}, "");
    response::<GetCustomTpid>(CustomTpids { tpid1: 0x0201.into(), tpid2: 0x0403.into() }, "01020304");
    request(0x278, 1, GetLinkConfiguration {}, "");
    response::<GetLinkConfiguration>(
        SetLinkConfiguration {
            rate: 0x0c0b0a09.into(),
            options: 0x1817161514131211.into(),
            advertising: 0x201f1e1d1c1b1a19.into(),
            ..Default::default()
        },
        "0000000000000000 090a0b0c00000000 1112131415161718 191a1b1c1d1e1f20",
    );
    request(
        0x279,
        1,
        SetSingleStepPtp { flags: 0x0201.into(), offset: 0x0403.into(), peer_delay: 0x08070605.into() },
        "0102030405060708",
    );
    request(0x27a, 2, GetSingleStepPtp {}, "");
    response::<GetSingleStepPtp>(
        SingleStepPtp {
            flags: 0x0201.into(),
            offset: 0x0403.into(),
            peer_delay: 0x08070605.into(),
            register_base: 0x0c0b0a09.into(),
        },
        "0102030405060708 090a0b0c",
    );
    request(
        0x27b,
        1,
        SetPortConfiguration { flags: 0x04030201.into(), bits: 0x08070605.into() },
        "0102030405060708",
    );
    request(0x27c, 1, GetPortConfiguration {}, "");
    response::<GetPortConfiguration>(
        SetPortConfiguration { flags: 0x04030201.into(), bits: 0x08070605.into() },
        "0102030405060708",
    );
    request(
        0x27d,
        1,
        DumpTable {
            table_type: 0x0201.into(),
            index: 0x0403.into(),
            iova: 0x100f0e0d0c0b0a09.into(),
            size: 0x14131211.into(),
            ..Default::default()
        },
        "0102030400000000 090a0b0c0d0e0f10 11121314",
    );
    response::<DumpTable>(DumpedTable { entries: 0x0201.into() }, "0102");
    request(
        0x27e,
        1,
        SetSoftParserProfile { name: [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08], profile_type: 0x09 },
        "0102030405060708 09",
    );
    request(0x27f, 1, GetQdids { queue_type: QueueType(0x01) }, "01");
    response::<GetQdids>(
        Qdids {
            qdids: [
                0x0201.into(),
                0x0403.into(),
                0x0605.into(),
                0x0807.into(),
                0x0a09.into(),
                0x0c0b.into(),
                0x0e0d.into(),
                0x100f.into(),
                0x1211.into(),
                0x1413.into(),
                0x1615.into(),
                0x1817.into(),
                0x1a19.into(),
                0x1c1b.into(),
                0x1e1d.into(),
                0x201f.into(),
            ],
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20",
    );
    request(0x280, 1, EnableSoftParser { profile_type: 0x01, enable: 0x02 }, "0102");
    request(
        0x281,
        1,
        SetQueueTxConfirmationMode {
            channel: 0x01,
            index: 0x02,
            mode: ConfirmationMode(0x05),
            ..Default::default()
        },
        "0102000005",
    );
    request(0x282, 1, GetQueueTxConfirmationMode { channel: 0x01, index: 0x02 }, "0102");
    response::<GetQueueTxConfirmationMode>(
        TxConfirmationMode { mode: ConfirmationMode(0x05), ..Default::default() },
        "0000000005",
    );
    request(
        0x283,
        1,
        GetMacStatistics {
            ids_iova: 0x0807060504030201.into(),
            values_iova: 0x100f0e0d0c0b0a09.into(),
            count: 0x14131211.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10 11121314",
    );
    request(0x284, 1, GetMacSpeeds {}, "");
    response::<GetMacSpeeds>(MacSpeeds { speeds: 0x04030201.into() }, "01020304");
    request(0x801, 1, Open { id: 0x04030201.into() }, "01020304");
    request(
        0x901,
        7,
        Create {
            options: 0x04030201.into(),
            queues: 0x05,
            tcs: 0x06,
            mac_filter_entries: 0x07,
            channels: 0x08,
            vlan_filter_entries: 0x09,
            qos_entries: 0x0b,
            fs_entries: 0x0e0d.into(),
            rx_tcs: 0x0f,
            congestion_groups: 0x11,
            order_records: 0x1312.into(),
            distribution_key_size: 0x14,
            ..Default::default()
        },
        "0102030405060708 09000b000d0e0f00 11121314",
    );
    response::<Create>(Created { id: 0x04030201.into() }, "01020304");
    request(0x981, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(0xa01, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}

#[test]
fn commands_of_dpmac_have_the_documented_bytes() {
    use common::{ApiVersion, Created};
    use dpmac::*;
    use dpni::{MacAddress, MacAddressField};
    request(0x004, 3, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes {
            interface: EthernetInterface(0x01),
            link_type: LinkType(0x02),
            mac_id: 0x0403.into(),
            max_rate: 0x08070605.into(),
            fec_mode: 0x09,
            ipg_mode: 0x0a,
            ipg_length: 0x0b,
            serdes_sign: 0x11,
            eq_mode: 0x12,
            eq_amplitude: 0x13,
            eq_post1q: 0x14,
            eq_preq: 0x15,
            eq_type: 0x16,
            ..Default::default()
        },
        "0102030405060708 090a0b0000000000 111213141516",
    );
    request(0x0c0, 1, MdioRead { clause45: 0x01, phy: 0x02, register: 0x0403.into() }, "01020304");
    response::<MdioRead>(MdioValue { value: 0x0201.into() }, "0102");
    request(
        0x0c1,
        1,
        MdioWrite { clause45: 0x01, phy: 0x02, register: 0x0403.into(), value: 0x0605.into() },
        "010203040506",
    );
    request(0x0c2, 2, GetLinkConfiguration {}, "");
    response::<GetLinkConfiguration>(
        LinkConfiguration {
            options: 0x0807060504030201.into(),
            rate: 0x0c0b0a09.into(),
            advertising: 0x14131211100f0e0d.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10 11121314",
    );
    request(
        0x0c3,
        2,
        SetLinkState {
            options: 0x0807060504030201.into(),
            rate: 0x0c0b0a09.into(),
            state: 0x11,
            supported: 0x201f1e1d1c1b1a19.into(),
            advertising: 0x2827262524232221.into(),
            ..Default::default()
        },
        "0102030405060708 090a0b0c00000000 1100000000000000 191a1b1c1d1e1f20 2122232425262728",
    );
    request(0x0c4, 1, GetCounter { id: 0x01 }, "01");
    response::<GetCounter>(
        Counter { value: 0x100f0e0d0c0b0a09.into(), ..Default::default() },
        "0000000000000000 090a0b0c0d0e0f10",
    );
    request(0x0c5, 1, GetMacAddress {}, "");
    response::<GetMacAddress>(
        MacAddressField {
            address: MacAddress::new([0x08, 0x07, 0x06, 0x05, 0x04, 0x03]),
            ..Default::default()
        },
        "0000030405060708",
    );
    request(
        0x0c6,
        1,
        SetParameters { flags: 0x04030201.into(), ipg_mode: 0x05, ipg_length: 0x06 },
        "010203040506",
    );
    request(0x0c7, 1, SetProtocol { interface: EthernetInterface(0x01) }, "01");
    request(
        0x0c8,
        1,
        GetStatistics {
            ids_iova: 0x0807060504030201.into(),
            values_iova: 0x100f0e0d0c0b0a09.into(),
            count: 0x14131211.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10 11121314",
    );
    request(0x0c9, 1, GetEventRegister {}, "");
    response::<GetEventRegister>(EventRegister { address: 0x04030201.into() }, "01020304");
    request(0x0ca, 1, SetSupportedInterfaces { interfaces: 0x04030201.into() }, "01020304");
    request(0x80c, 1, Open { id: 0x04030201.into() }, "01020304");
    request(0x90c, 1, Create { mac_id: 0x04030201.into() }, "01020304");
    response::<Create>(Created { id: 0x04030201.into() }, "01020304");
    request(0x98c, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(0xa0c, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}

#[test]
fn commands_of_dpci_have_the_documented_bytes() {
    use common::{ApiVersion, Created, Enabled};
    use dpci::*;
    use dpni::{OrderRestoration, OrderRestorationRecord};
    request(0x004, 1, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes { id: 0x04030201.into(), priorities: 0x07, ..Default::default() },
        "01020304000007",
    );
    request(
        0x0e0,
        1,
        SetRxQueue {
            destination_id: 0x04030201.into(),
            destination_priority: 0x05,
            queue: 0x06,
            destination_type: 0x07,
            user_context: 0x100f0e0d0c0b0a09.into(),
            options: 0x14131211.into(),
            ..Default::default()
        },
        "0102030405060700 090a0b0c0d0e0f10 11121314",
    );
    request(0x0e1, 1, GetLinkState {}, "");
    response::<GetLinkState>(Enabled { enabled: 0x01 }, "01");
    request(0x0e2, 1, GetPeerAttributes {}, "");
    response::<GetPeerAttributes>(
        PeerAttributes { peer_id: 0x04030201.into(), priorities: 0x09, ..Default::default() },
        "0102030400000000 09",
    );
    request(0x0e3, 1, GetRxQueue { queue: 0x06, ..Default::default() }, "000000000006");
    response::<GetRxQueue>(
        RxQueue {
            destination_id: 0x04030201.into(),
            destination_priority: 0x05,
            destination_type: 0x07,
            user_context: 0x100f0e0d0c0b0a09.into(),
            fqid: 0x14131211.into(),
            ..Default::default()
        },
        "0102030405000700 090a0b0c0d0e0f10 11121314",
    );
    request(0x0e4, 1, GetTxQueue { queue: 0x06, ..Default::default() }, "000000000006");
    response::<GetTxQueue>(TxQueue { fqid: 0x08070605.into(), ..Default::default() }, "0000000005060708");
    request(
        0x0e5,
        1,
        SetOrderRestoration {
            index: 0x03,
            options: 0x04,
            record: OrderRestoration {
                loose: 0x0c,
                advance_on_exhaustion: 0x0d,
                late_window: 0x0e,
                auto_advance: 0x0f,
                window: 0x10,
            },
            ..Default::default()
        },
        "0000030400000000 0000000c0d0e0f10",
    );
    request(0x0e6, 1, GetOrderRestoration { index: 0x03, ..Default::default() }, "000003");
    response::<GetOrderRestoration>(
        OrderRestorationRecord {
            flags: 0x09,
            record: OrderRestoration {
                loose: 0x0c,
                advance_on_exhaustion: 0x0d,
                late_window: 0x0e,
                auto_advance: 0x0f,
                window: 0x10,
            },
            next_expected: 0x1211.into(),
            next_dispensed: 0x1615.into(),
            tail_sequence: 0x1a19.into(),
            tail_not_last: 0x1b,
            head_sequence: 0x1e1d.into(),
            head_not_last: 0x1f,
            head_pointer: 0x2221.into(),
            tail_pointer: 0x2625.into(),
            virtual_id: 0x2a29.into(),
            hardware_id: 0x2e2d.into(),
            ..Default::default()
        },
        "0000000000000000 0900000c0d0e0f10 1112000015160000 191a1b001d1e1f00 2122000025260000 292a00002d2e",
    );
    request(0x807, 1, Open { id: 0x04030201.into() }, "01020304");
    request(
        0x907,
        2,
        Create { priorities: 0x01, options: 0x14131211.into(), ..Default::default() },
        "0100000000000000 0000000000000000 11121314",
    );
    response::<Create>(Created { id: 0x04030201.into() }, "01020304");
    request(0x987, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(0xa07, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}

#[test]
fn commands_of_dpseci_have_the_documented_bytes() {
    use common::{ApiVersion, Created};
    use dpni::{OrderRestoration, OrderRestorationRecord};
    use dpseci::*;
    request(0x004, 1, GetAttributes {}, "");
    response::<GetAttributes>(
        Attributes {
            id: 0x04030201.into(),
            tx_queues: 0x09,
            rx_queues: 0x0a,
            options: 0x14131211.into(),
            ..Default::default()
        },
        "0102030400000000 090a000000000000 11121314",
    );
    request(
        0x170,
        1,
        SetCongestionNotification {
            destination_id: 0x04030201.into(),
            mode: 0x0605.into(),
            destination_priority: 0x07,
            type_and_units: 0x08,
            message_iova: 0x100f0e0d0c0b0a09.into(),
            context: 0x1817161514131211.into(),
            entry: 0x1c1b1a19.into(),
            exit: 0x201f1e1d.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20",
    );
    request(0x171, 1, GetCongestionNotification {}, "");
    response::<GetCongestionNotification>(
        SetCongestionNotification {
            destination_id: 0x04030201.into(),
            mode: 0x0605.into(),
            destination_priority: 0x07,
            type_and_units: 0x08,
            message_iova: 0x100f0e0d0c0b0a09.into(),
            context: 0x1817161514131211.into(),
            entry: 0x1c1b1a19.into(),
            exit: 0x201f1e1d.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20",
    );
    request(0x172, 1, GetRxQueueStatus { queue: 0x04030201.into() }, "01020304");
    response::<GetRxQueueStatus>(
        QueueStatus {
            fqid: 0x04030201.into(),
            schedule_state: 0x0605.into(),
            flags: 0x0807.into(),
            frames: 0x0c0b0a09.into(),
            bytes: 0x100f0e0d.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10",
    );
    request(0x173, 1, GetTxQueueStatus { queue: 0x04030201.into() }, "01020304");
    response::<GetTxQueueStatus>(
        QueueStatus {
            fqid: 0x04030201.into(),
            schedule_state: 0x0605.into(),
            flags: 0x0807.into(),
            frames: 0x0c0b0a09.into(),
            bytes: 0x100f0e0d.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10",
    );
    request(
        0x194,
        1,
        SetRxQueue {
            destination_id: 0x04030201.into(),
            destination_priority: 0x05,
            queue: 0x06,
            destination_type: 0x07,
            user_context: 0x100f0e0d0c0b0a09.into(),
            options: 0x14131211.into(),
            order_preservation: 0x15,
            ..Default::default()
        },
        "0102030405060700 090a0b0c0d0e0f10 1112131415",
    );
    request(0x196, 1, GetRxQueue { queue: 0x06, ..Default::default() }, "000000000006");
    response::<GetRxQueue>(
        RxQueue {
            destination_id: 0x04030201.into(),
            destination_priority: 0x05,
            destination_type: 0x07,
            user_context: 0x100f0e0d0c0b0a09.into(),
            fqid: 0x14131211.into(),
            order_preservation: 0x15,
            ..Default::default()
        },
        "0102030405000700 090a0b0c0d0e0f10 1112131415",
    );
    request(0x197, 1, GetTxQueue { queue: 0x06, ..Default::default() }, "000000000006");
    response::<GetTxQueue>(
        TxQueue { fqid: 0x08070605.into(), priority: 0x09, ..Default::default() },
        "0000000005060708 09",
    );
    request(0x198, 2, GetEngineAttributes {}, "");
    response::<GetEngineAttributes>(
        EngineAttributes {
            ip_id: 0x0201.into(),
            major: 0x03,
            minor: 0x04,
            era: 0x05,
            decos: 0x09,
            zuc_authentication: 0x0a,
            zuc_encryption: 0x0b,
            snow_f8: 0x0d,
            snow_f9: 0x0e,
            crc: 0x0f,
            public_key: 0x11,
            kasumi: 0x12,
            random: 0x13,
            digest: 0x15,
            arc4: 0x16,
            des: 0x17,
            aes: 0x18,
            chacha: 0x19,
            poly: 0x1a,
            ..Default::default()
        },
        "0102030405000000 090a0b000d0e0f00 1112130015161718 191a",
    );
    request(0x199, 1, GetEngineCounters {}, "");
    response::<GetEngineCounters>(
        EngineCounters {
            dequeued_requests: 0x0807060504030201.into(),
            encrypt_requests: 0x100f0e0d0c0b0a09.into(),
            decrypt_requests: 0x1817161514131211.into(),
            encrypted_bytes: 0x201f1e1d1c1b1a19.into(),
            protected_bytes: 0x2827262524232221.into(),
            decrypted_bytes: 0x302f2e2d2c2b2a29.into(),
            validated_bytes: 0x3837363534333231.into(),
        },
        "0102030405060708 090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20 2122232425262728 292a2b2c2d2e2f30 3132333435363738",
    );
    request(
        0x19a,
        1,
        SetOrderRestoration {
            index: 0x03,
            options: 0x04,
            record: OrderRestoration {
                loose: 0x0c,
                advance_on_exhaustion: 0x0d,
                late_window: 0x0e,
                auto_advance: 0x0f,
                window: 0x10,
            },
            ..Default::default()
        },
        "0000030400000000 0000000c0d0e0f10",
    );
    request(0x19b, 1, GetOrderRestoration { index: 0x03, ..Default::default() }, "000003");
    response::<GetOrderRestoration>(
        OrderRestorationRecord {
            flags: 0x09,
            record: OrderRestoration {
                loose: 0x0c,
                advance_on_exhaustion: 0x0d,
                late_window: 0x0e,
                auto_advance: 0x0f,
                window: 0x10,
            },
            next_expected: 0x1211.into(),
            next_dispensed: 0x1615.into(),
            tail_sequence: 0x1a19.into(),
            tail_not_last: 0x1b,
            head_sequence: 0x1e1d.into(),
            head_not_last: 0x1f,
            head_pointer: 0x2221.into(),
            tail_pointer: 0x2625.into(),
            virtual_id: 0x2a29.into(),
            hardware_id: 0x2e2d.into(),
            ..Default::default()
        },
        "0000000000000000 0900000c0d0e0f10 1112000015160000 191a1b001d1e1f00 2122000025260000 292a00002d2e",
    );
    request(0x809, 1, Open { id: 0x04030201.into() }, "01020304");
    request(
        0x909,
        3,
        Create {
            priorities: [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08],
            tx_queues: 0x09,
            rx_queues: 0x0a,
            options: 0x14131211.into(),
            priorities_high: [0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20],
            ..Default::default()
        },
        "0102030405060708 090a000000000000 1112131400000000 191a1b1c1d1e1f20",
    );
    response::<Create>(Created { id: 0x04030201.into() }, "01020304");
    request(0x989, 1, Destroy { id: 0x04030201.into() }, "01020304");
    request(0xa09, 1, GetApiVersion {}, "");
    response::<GetApiVersion>(ApiVersion { major: 0x0201.into(), minor: 0x0403.into() }, "01020304");
}
