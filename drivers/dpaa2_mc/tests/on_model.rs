//! Objects of the software model: it keeps the rules of the firmware and notes who breaks them.

use std::time::Duration;

use dpaa2_defs::mc::common::IsEnabled;
use dpaa2_defs::mc::dpni::{self, ConfirmationMode, ErrorAction, Offload, QueueType};
use dpaa2_defs::mc::header::Status;
use dpaa2_defs::mc::object::ObjectType;
use dpaa2_mc::{
    BufferLayout, Container, Dpbp, Dpcon, Dpio, Dpni, Enabled, Failure, PoolBinding, QueueId, QueueTarget,
    SetupError, Taildrop,
};
use dpaa2_model::{Description, Fault, Model, ModelBus, SharedModel};
use fslmc_bus::{Bus, PortalError};

const BOARD: &str = r#"
    soc = "lx2160a"
    [[container]]
    id = 2
    dpio = 2
    dpbp = 2
    dpcon = 1
    [[container.dpni]]
    id = 1
    mac = "02:00:00:00:00:01"
    rx_tcs = 2
    [[dpmac]]
    id = 3
    [[connection]]
    a = "dpni.1"
    b = "dpmac.3"
"#;

/// The model answers at once, or never.
const TIMEOUT: Duration = Duration::from_millis(2);

fn board() -> SharedModel {
    Model::new(&Description::from_toml(BOARD).expect("right")).expect("possible").share()
}

fn open(model: &SharedModel) -> Result<Container<ModelBus>, SetupError> {
    let bus = ModelBus::open(model.clone(), 2).expect("there is such a container");
    Container::open_with_timeout(bus, TIMEOUT)
}

type Taken<T> = (<ModelBus as Bus>::Device, T);

/// Everything a port takes, in the order in which it takes it.
struct Port {
    interface: Taken<Dpni<Enabled>>,
    _pool: Taken<Dpbp<Enabled>>,
    _portal: Taken<Dpio<Enabled>>,
    _channel: Taken<Dpcon<Enabled>>,
}

fn bring_up(container: &Container<ModelBus>) -> Result<Port, SetupError> {
    // By name: a list that a fault has cut short shall not decide what is tried.
    let first = |object_type: ObjectType| object_type.with_id(1);
    let (device, portal) = container.take(first(ObjectType::DPIO), Dpio::open)?;
    let portal = (device, portal.reset()?.enable()?);
    let dpio_id = portal.1.object().id;
    portal.1.set_stashing_destination(0)?;

    let (device, channel) = container.take(first(ObjectType::DPCON), Dpcon::open)?;
    let channel = (device, channel.reset()?.enable()?);
    channel.1.set_notification(dpio_id, 0, 0xc0ffee)?;

    let (device, pool) = container.take(first(ObjectType::DPBP), Dpbp::open)?;
    let pool = (device, pool.reset()?.enable()?);

    let (device, interface) = container.take(first(ObjectType::DPNI), Dpni::open)?;
    let mut interface = interface.reset()?;
    let attributes = interface.attributes()?;
    for queue_type in [QueueType::TX, QueueType::TX_CONFIRM] {
        let layout = BufferLayout { frame_status: Some(true), ..Default::default() };
        interface.set_buffer_layout(queue_type, &layout)?;
    }
    let layout = BufferLayout {
        timestamp: Some(true),
        parser_result: Some(true),
        frame_status: Some(true),
        private_data_size: Some(0),
        data_alignment: Some(64),
        head_room: Some(128),
        tail_room: None,
    };
    interface.set_buffer_layout(QueueType::RX, &layout)?;
    let dpbp_id = pool.1.object().id;
    interface.set_pools(&[PoolBinding { dpbp_id, buffer_size: 2048, tc_mask: 0, backup: false }])?;
    interface.set_max_frame_length(1518)?;
    interface.set_unicast_promiscuous(true)?;
    interface.set_multicast_promiscuous(true)?;
    for offload in [Offload::RX_L3_CHECKSUM, Offload::TX_L4_CHECKSUM, Offload::FLC_HASH] {
        interface.set_offload(offload, true)?;
    }
    interface.set_errors_behavior(0x35, ErrorAction::CONTINUE, true)?;
    for index in 0..attributes.queues {
        let queue = QueueId::rx(0, index);
        let target = if index == 0 {
            QueueTarget::Dpcon { id: channel.1.object().id, priority: 1 }
        } else {
            QueueTarget::Parked
        };
        interface.set_queue(queue, target, u64::from(index), dpni::stash::data(1))?;
        interface.set_taildrop(queue, Taildrop::Bytes { threshold: 65536, overhead: 128 })?;
    }
    interface.set_tx_confirmation(0, ConfirmationMode::DISABLED)?;
    interface.arm_events(dpni::event::LINK_CHANGED)?;
    Ok(Port { interface: (device, interface.enable()?), _pool: pool, _portal: portal, _channel: channel })
}

#[test]
fn a_port_is_brought_up_and_taken_down() {
    let model = board();
    let container = open(&model).expect("it opens");
    assert_eq!(container.portal().to_string(), "dpmcp.1");
    let port = bring_up(&container).expect("it comes up");
    let (_device, interface) = port.interface;

    assert!(interface.is_enabled().expect("answers"));
    assert!(interface.link_state().expect("answers").is_up());
    assert_eq!(interface.primary_mac().expect("answers"), [2, 0, 0, 0, 0, 1]);
    assert_eq!(interface.max_frame_length().expect("answers"), 1518);
    assert!(interface.is_unicast_promiscuous().expect("answers"));
    let queue = interface.queue(QueueId::rx(0, 3)).expect("answers");
    assert_eq!(queue.user_context.get(), 3);
    let channel = interface.queue(QueueId::rx(0, 0)).expect("answers");
    assert_eq!(channel.flags & dpni::queue_flag::DESTINATION_MASK, dpni::Destination::DPCON.0);
    assert_eq!(interface.counters().expect("answers").ingress_frames, 0);

    let interface = interface.disable().expect("it stops");
    assert!(!interface.is_enabled().expect("answers"));
    interface.reset().expect("it resets").close().expect("it closes");
    let audit = dpaa2_model::lock(&model).audit();
    assert!(audit.violations.is_empty(), "{:?}", audit.violations);
}

#[test]
fn every_queue_has_a_number_of_its_own() {
    let model = board();
    let container = open(&model).expect("it opens");
    let (_device, interface) = container.take(ObjectType::DPNI.with_id(1), Dpni::open).expect("it opens");
    let attributes = interface.attributes().expect("answers");
    let rx = (0..attributes.rx_tcs).flat_map(|tc| (0..attributes.queues).map(move |i| QueueId::rx(tc, i)));
    let queues: Vec<_> = rx.chain((0..attributes.tx_tcs).map(QueueId::tx)).collect();
    let mut fqids: Vec<u32> =
        queues.iter().map(|queue| interface.queue(*queue).expect("answers").fqid.get()).collect();
    fqids.sort_unstable();
    fqids.dedup();
    assert_eq!(fqids.len(), queues.len());
    assert_ne!(fqids[0], 0);
}

#[test]
fn a_link_that_changes_interrupts_and_says_so_once() {
    let model = board();
    let container = open(&model).expect("it opens");
    let port = bring_up(&container).expect("it comes up");
    let (device, interface) = port.interface;
    let interrupt = fslmc_bus::Interrupt::arm(device, 0).expect("armed");
    assert!(!interrupt.take());

    assert!(dpaa2_model::lock(&model).set_link(3, false));
    assert!(interrupt.take(), "the eventfd is written");
    assert_eq!(
        interface.take_events().expect("answers") & dpni::event::LINK_CHANGED,
        dpni::event::LINK_CHANGED
    );
    assert!(!interface.link_state().expect("answers").is_up());
    assert_eq!(interface.take_events().expect("answers"), 0);
    assert!(!interrupt.take());
}

#[test]
fn an_object_of_another_container_cannot_be_opened() {
    let model = board();
    let container = open(&model).expect("it opens");
    let mac = container.take(ObjectType::DPMAC.with_id(3), dpaa2_mc::Dpmac::open);
    assert!(matches!(mac, Err(SetupError::Bus(fslmc_bus::BusError::NoObject { .. }))));
    let missing = Dpni::open(container.mc(), 9).expect_err("no such interface");
    assert_eq!(missing.object.map(|object| object.to_string()).as_deref(), Some("dpni.9"));
    assert!(missing.status().is_some());
}

#[test]
fn a_token_that_the_mc_has_forgotten_is_an_error_with_a_reason() {
    let model = board();
    let container = open(&model).expect("it opens");
    let interface = Dpni::open(container.mc(), 1).expect("opens");
    // As if somebody else had closed it.
    interface.handle().execute(&dpaa2_defs::mc::common::Close {}).expect("closes");
    let error = interface.handle().execute(&IsEnabled {}).expect_err("it isn't open");
    assert_eq!(error.status(), Some(Status::AUTHENTICATION), "{error}");
}

#[test]
fn a_container_without_dpmcp_is_reached_through_its_own_portal() {
    let description =
        Description::from_toml(&BOARD.replace("dpio = 2", "dpio = 2\ndpmcp = 0")).expect("right");
    let model = Model::new(&description).expect("possible").share();
    let container = open(&model).expect("it opens");
    assert_eq!(container.portal().to_string(), "dprc.2");
    assert_eq!(container.mc().container_id().expect("answers"), 2);
    bring_up(&container).expect("it comes up");
}

/// How many commands a fault-free bring-up takes.
fn commands_of_bring_up() -> u64 {
    let model = board();
    let container = open(&model).expect("it opens");
    let port = bring_up(&container).expect("it comes up");
    let count = dpaa2_model::lock(&model).counters().commands;
    drop(port);
    count
}

#[test]
fn whichever_command_fails_the_failure_is_told_and_nothing_is_left_open() {
    let count = commands_of_bring_up();
    assert!(count > 50, "{count} commands");
    for nth in 1..=count {
        let model = board();
        let status = Status::NO_RESOURCE.0;
        dpaa2_model::lock(&model).inject(Fault::CommandError { nth, status });
        match open(&model).and_then(|container| bring_up(&container).map(drop)) {
            // The list of objects ended early, as if one had vanished.
            Ok(_) => (),
            Err(SetupError::Mc(error)) => assert_eq!(error.status(), Some(Status::NO_RESOURCE), "{error}"),
            Err(error) => panic!("command {nth}: {error}"),
        }
        assert_eq!(dpaa2_model::lock(&model).audit().open_tokens, 0, "after command {nth} failed");
        let container = open(&model).expect("it opens");
        bring_up(&container).unwrap_or_else(|error| panic!("after command {nth} failed: {error}"));
    }
}

#[test]
fn whichever_command_is_never_answered_the_wait_ends() {
    let count = commands_of_bring_up();
    for nth in 1..=count {
        let model = board();
        dpaa2_model::lock(&model).inject(Fault::CommandTimeout { nth });
        let outcome = open(&model).and_then(|container| bring_up(&container).map(drop));
        let Err(SetupError::Mc(error)) = outcome else { panic!("command {nth} wasn't needed") };
        assert!(matches!(error.failure, Failure::Portal(PortalError::Timeout(TIMEOUT))), "{error}");
    }
}
