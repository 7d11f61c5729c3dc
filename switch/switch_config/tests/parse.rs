//! What files say, and what is said about files that are wrong.

use std::time::Duration;

use switch_config::*;

/// A machine with processors 0 to 3.
fn machine() -> Context {
    Context { cpus: Some(CpuSet::first(4)), ..Context::default() }
}

fn good(text: &str) -> Config {
    parse(text, &machine()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The errors as `line path: what`.
fn bad(text: &str) -> Vec<String> {
    let errors = parse(text, &machine()).expect_err("a file with errors");
    errors.all().iter().map(|e| format!("{} {}: {}", e.line, e.path, e.what)).collect()
}

const TWO_PORTS: &str = r#"
[workers]
cores = [0]                    # one poll loop per listed core

[control]
socket = "/tmp/ringway.sock"

[[bridge]]
name = "br0"

[[port]]
name = "vm0"
bridge = "br0"
driver = "vhost-user"
socket = "/tmp/vm0.sock"
mode = "server"                # or "client"

[[port]]
name = "vm1"
bridge = "br0"
driver = "vhost-user"
socket = "/tmp/vm1.sock"
mode = "server"

[[flow]]
bridge = "br0"
flow = "in_port=vm0,actions=output:vm1"
"#;

#[test]
fn two_vhost_user_ports_and_a_flow() {
    let config = good(TWO_PORTS);
    assert_eq!(config.workers.cores, [CpuId::new(0).unwrap()]);
    assert_eq!(config.control.socket.as_path().to_str(), Some("/tmp/ringway.sock"));
    assert_eq!(config.control.mode, FileMode::OWNER_ONLY);
    let [vm0, vm1] = &config.ports[..] else { panic!("two ports") };
    assert_eq!((vm0.name.as_str(), vm0.number.get()), ("vm0", 1));
    assert_eq!((vm1.name.as_str(), vm1.number.get()), ("vm1", 2));
    let Driver::VhostUser(vhost) = &vm1.driver else { panic!("a vhost-user port") };
    assert_eq!(vhost.socket.as_path().to_str(), Some("/tmp/vm1.sock"));
    assert_eq!(vhost.mode, SocketMode::Server);
    assert_eq!(config.flows[0].text, "in_port=vm0,actions=output:vm1");
}

#[test]
fn an_empty_file_has_every_default() {
    let config = good("");
    assert_eq!(config.workers.cores, [CpuId::new(0).unwrap()]);
    assert_eq!(config.workers.idle, Idle::Sleep { after: Duration::from_micros(50) });
    assert_eq!(config.memory.huge_pages, HugePages::Auto);
    assert_eq!(config.control.prometheus, None);
    assert!(config.bridges.is_empty() && config.ports.is_empty() && config.guests.is_empty());
}

#[test]
fn every_error_is_reported_with_line_and_path() {
    let errors = bad(r#"
[workers]
cores = [0, 0, 9, "x"]
ilde = "poll"

[control]
mode = "0999"
prometheus = "0.0.0.0:9090"

[[bridge]]
name = "br0"
mac_ageing_s = 5

[[port]]
name = "normal"
bridge = "br1"
driver = "tapp"

[[port]]
name = "vm0"
bridge = "br1"
driver = "vhost-user"
tag = 4095
mtu = 10000
device = "tap0"
"#);
    let expected = [
        "3 workers.cores[1]: `0` is taken by workers.cores[0] in line 3",
        "3 workers.cores[2]: this machine has no processor 9",
        "3 workers.cores[3]: this is a string",
        "4 workers.ilde: unknown key `ilde`; did you mean `idle`?",
        "7 control.mode: `0999` is no file mode",
        "8 control.prometheus: other machines reach 0.0.0.0:9090",
        "12 bridge[0].mac_ageing_s: 5 is no time in seconds",
        "15 port[0].name: `normal` has a meaning of its own in flow strings",
        "16 port[0].bridge: unknown bridge `br1`; did you mean `br0`?",
        "17 port[0].driver: unknown value `tapp`; did you mean `tap`?",
        "19 port[1]: driver = \"vhost-user\" needs the key `socket`",
        "21 port[1].bridge: unknown bridge `br1`; did you mean `br0`?",
        "23 port[1].tag: 4095 is no VLAN identifier",
        "24 port[1].mtu: 10000 is no MTU",
        "25 port[1].device: `device` has no meaning with driver = \"vhost-user\"",
    ];
    assert_eq!(errors, expected);
}

#[test]
fn syntax_errors_do_not_hide_the_others() {
    let errors =
        bad("[workers\ncores = [77]\n[[bridge]]\nname = \"br0\nmac_limit = 0\n[memory]\nhuge_pages = 'on'\n");
    let expected = [
        "1 : unclosed table, expected `]`",
        "4 : invalid basic string, expected `\"`",
        "7 memory.huge_pages: unknown value `on`",
    ];
    assert_eq!(errors, expected);
}

#[test]
fn columns_count_characters() {
    let errors =
        parse("[[bridge]]\nname = \"äöü\"\n[control]\nmode = 'ü' # x\nsocket = 1", &machine()).unwrap_err();
    let places: Vec<_> = errors.all().iter().map(|e| (e.line, e.column)).collect();
    assert_eq!(places, [(2, 8), (4, 8), (5, 10)]);
}

#[test]
fn names_and_sockets_are_unique() {
    let errors = bad(r#"
[control]
socket = "/tmp/a.sock"
[[bridge]]
name = "br0"
[[bridge]]
name = "br0"
[[port]]
name = "p"
number = 7
bridge = "br0"
driver = "vhost-user"
socket = "/tmp/a.sock"
[[port]]
name = "p"
number = 7
bridge = "br0"
driver = "null"
"#);
    let expected = [
        "7 bridge[1].name: `br0` is taken by bridge[0].name in line 5",
        "13 port[0].socket: `/tmp/a.sock` is taken by control.socket in line 3",
        "15 port[1].name: `p` is taken by port[0].name in line 9",
        "16 port[1].number: `7` is taken by port[0].number in line 10",
    ];
    assert_eq!(errors, expected);
}

fn port(keys: &str) -> String {
    format!("[[bridge]]\nname='br0'\n[[port]]\nname='p'\nbridge='br0'\n{keys}")
}

#[test]
fn vlan_modes_follow_from_the_keys() {
    let vlan = |keys: &str| good(&port(&format!("driver='null'\n{keys}"))).ports.remove(0).vlan;
    let id = |n| VlanId::new(n).unwrap();
    let set = |ids: &[u16]| VlanSet::Some(ids.iter().map(|&n| id(n)).collect());
    assert_eq!(vlan(""), VlanMode::Trunk { trunks: VlanSet::All });
    assert_eq!(vlan("tag = 5"), VlanMode::Access { tag: id(5) });
    assert_eq!(vlan("trunks = [0, '10-12', 7]"), VlanMode::Trunk { trunks: set(&[0, 7, 10, 11, 12]) });
    assert_eq!(
        vlan("vlan_mode = 'native-untagged'\ntag = 5\ntrunks = [6]"),
        VlanMode::NativeUntagged { tag: id(5), trunks: set(&[6]) }
    );
}

#[test]
fn contradictory_vlan_keys_are_errors() {
    let errors = |keys: &str| bad(&port(&format!("driver='null'\n{keys}")));
    assert_eq!(errors("vlan_mode = 'access'"), ["7 port[0].vlan_mode: vlan_mode = \"access\" needs a `tag`"]);
    assert_eq!(
        errors("vlan_mode='trunk'\ntag=1"),
        ["8 port[0].tag: `tag` has no meaning with vlan_mode = \"trunk\""]
    );
    assert_eq!(
        errors("tag=1\ntrunks=[2]"),
        ["8 port[0].trunks: `trunks` has no meaning with vlan_mode = \"access\""]
    );
    assert_eq!(errors("trunks=['5-4']"), ["7 port[0].trunks[0]: `5-4` is no range of VLANs"]);
    assert_eq!(errors("trunks=[]"), ["7 port[0].trunks: no VLAN is listed"]);
}

#[test]
fn tap_ports_are_named_after_the_port() {
    let config = good(&port("driver='tap'\nnetns='blue'\npersistent=true"));
    let Driver::Tap(tap) = &config.ports[0].driver else { panic!("a tap port") };
    assert_eq!(
        (tap.device.as_str(), tap.netns.as_ref().unwrap().as_str(), tap.persistent),
        ("p", "blue", true)
    );
    let long = "[[bridge]]\nname='b'\n[[port]]\nname='a_long_name_of_20_ch'\nbridge='b'\ndriver='tap'\n";
    assert_eq!(bad(long), ["4 port[0].name: `a_long_name_of_20_ch` is too long for a network interface"]);
}

#[test]
fn pcap_ports_replay_write_or_both() {
    let config =
        good(&port("driver='pcap'\nread='/in.pcap'\nrate=5000\nrepeat='forever'\nwrite='/out.pcapng'"));
    let Driver::Pcap(pcap) = &config.ports[0].driver else { panic!("a pcap port") };
    let replay = pcap.replay.as_ref().unwrap();
    assert_eq!((replay.pace, replay.loops), (Pace::Pps(5000.try_into().unwrap()), Loops::Forever));
    assert_eq!(pcap.write.as_deref().unwrap().to_str(), Some("/out.pcapng"));

    assert_eq!(bad(&port("driver='pcap'")), ["3 port[0]: driver = \"pcap\" needs a capture file"]);
    assert_eq!(
        bad(&port("driver='pcap'\nread='/x'\nwrite='/x'\nrate='fast'\nrepeat=0")),
        [
            "8 port[0].write: this is the file that is replayed",
            "9 port[0].rate: unknown word `fast`",
            "10 port[0].repeat: this is no positive number"
        ]
    );
}

/// A DPAA2 port with these keys; its first one is on line 9.
fn dpaa2(keys: &str) -> String {
    format!(
        r#"fslmc = {{ bus = "vfio", container = "dprc.2" }}
bridge = [{{ name = "br0" }}]
[[port]]
name = "wire1"
bridge = "br0"
driver = "dpaa2"
dpni = "dpni.1"
pool = "dpbp.1"
{keys}"#
    )
}

#[test]
fn dpaa2_ports_receive_everything_unless_they_are_told_what() {
    let of = |keys: &str| match good(&dpaa2(keys)).ports.remove(0).driver {
        Driver::Dpaa2(dpaa2) => dpaa2,
        _ => panic!("a DPAA2 port"),
    };
    let plain = of("");
    assert!(plain.promiscuous && plain.all_multicast && plain.checksums && plain.macs.is_empty());
    assert_eq!((plain.vlan_filter, plain.rx_queue_bytes, plain.tx_mbps), (None, 1 << 20, None));
    let words: Vec<_> = plain.hash.iter().map(|field| field.word()).collect();
    assert_eq!(words, ["ip-src", "ip-dst", "ip-proto", "l4-src", "l4-dst"]);
    let told = of(r#"
        promiscuous = false
        all_multicast = false
        macs = ["02:00:00:00:00:05", "01:00:5e:00:00:05"]
        vlan_filter = [5, "7-9"]
        hash = ["vlan", "eth-src"]
        rx_queue_kib = 64
        tx_mbps = 1000
    "#);
    assert!(!told.promiscuous && !told.all_multicast && told.macs.len() == 2 && told.macs[1].is_group());
    let vlans: Vec<_> = told.vlan_filter.iter().flatten().map(|vlan| vlan.get()).collect();
    assert_eq!((vlans, told.rx_queue_bytes, told.tx_mbps), (vec![5, 7, 8, 9], 65_536, Some(1000)));
    assert_eq!(told.hash, [HashField::EthSrc, HashField::Vlan]);
}

#[test]
fn filters_of_hardware_that_make_no_sense_are_errors() {
    let unicast = "02:00:00:00:00:05";
    for (keys, said) in [
        (
            format!("macs = [\"{unicast}\"]"),
            "9 port[0].macs[0]: 02:00:00:00:00:05 is received without being listed",
        ),
        (
            format!("promiscuous = false\nmacs = [\"{unicast}\", \"{unicast}\"]"),
            "10 port[0].macs[1]: 02:00:00:00:00:05 is listed twice",
        ),
        (
            "macs = [\"00:00:00:00:00:00\"]".into(),
            "9 port[0].macs[0]: `00:00:00:00:00:00` is no Ethernet address",
        ),
        ("vlan_filter = [\"1-17\"]".into(), "9 port[0].vlan_filter: 17 VLANs in a filter of hardware"),
        ("vlan_filter = [0]".into(), "9 port[0].vlan_filter: untagged frames pass anyway"),
        ("hash = []".into(), "9 port[0].hash: a hash of nothing"),
        ("hash = [\"vlan\", \"vlan\"]".into(), "9 port[0].hash: a field is listed twice"),
        ("rx_queue_kib = 15".into(), "9 port[0].rx_queue_kib: "),
    ] {
        let errors = bad(&dpaa2(&keys));
        assert!(errors.len() == 1 && errors[0].starts_with(said), "{errors:?}");
    }
    let elsewhere = bad(&port("driver = \"null\"\npromiscuous = false"));
    assert!(elsewhere[0].contains("`promiscuous` has no meaning with driver = \"null\""), "{elsewhere:?}");
}

#[test]
fn a_dpaa2_port_that_is_printed_is_read_as_the_same() {
    let config =
        good(&dpaa2("promiscuous = false\nmacs = [\"02:00:00:00:00:05\"]\nvlan_filter = [3]\ntx_mbps = 10"));
    let again = good(&print(&config));
    assert_eq!(again, config);
}

#[test]
fn queues_are_placed_on_listed_cores_only() {
    let on = |workers: &str| {
        format!("[workers]\ncores=[0,1]\n{}queues=2\nworkers={workers}", port("driver='null'\n"))
    };
    let config = good(&on("[1, 0]"));
    assert_eq!(
        config.ports[0].placement,
        Placement::Cores(vec![CpuId::new(1).unwrap(), CpuId::new(0).unwrap()])
    );
    assert_eq!(bad(&on("[2]")), ["10 port[0].workers[0]: core 2 has no worker"]);
    assert_eq!(bad(&on("[]")), ["10 port[0].workers: no core is listed"]);
    assert_eq!(
        bad(&on("[0, 1, 0]")),
        [
            "10 port[0].workers: 3 cores for 2 queue pairs",
            "10 port[0].workers[2]: `0` is taken by port[0].workers[0] in line 10"
        ]
    );
}

#[test]
fn relative_paths_start_at_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("switch.toml");
    std::fs::write(&path, port("driver='vhost-user'\nsocket='vm.sock'")).unwrap();
    let config = load(&path, &machine()).unwrap();
    let Driver::VhostUser(vhost) = &config.ports[0].driver else { panic!("a vhost-user port") };
    assert_eq!(vhost.socket.as_path(), folder.path().join("vm.sock"));
}

#[test]
fn a_path_too_long_for_a_socket_is_an_error() {
    let long = format!("driver='vhost-user'\nsocket='/{}'", "x".repeat(107));
    assert_eq!(bad(&port(&long)), ["7 port[0].socket: a socket can't have this path (108 bytes)"]);
}

#[test]
fn ports_keep_their_numbers_when_others_come_before_them() {
    let old = good("[[bridge]]\nname='b'\n[[port]]\nname='a'\nbridge='b'\ndriver='null'\n");
    let text = "[[bridge]]\nname='b'\n[[port]]\nname='z'\nbridge='b'\ndriver='null'\n\
                [[port]]\nname='a'\nbridge='b'\ndriver='null'\n";
    let numbers = |context: &Context| -> Vec<u16> {
        parse(text, context).unwrap().ports.iter().map(|p| p.number.get()).collect()
    };
    assert_eq!(numbers(&machine()), [1, 2]);
    assert_eq!(numbers(&machine().after(&old)), [2, 1]);
}

#[test]
fn guests_attach_to_ports_from_the_other_side() {
    let config = good(&port(
        "driver='vhost-user'\nsocket='/tmp/p'\n\
         [[guest]]\nname='g'\nport='p'\nrole='host'\naddress='10.0.0.1/24'\nping='10.0.0.2'\n\
         [[guest]]\nname='h'\nsocket='/tmp/q'\nmode='server'\nrole='generate'\nrate='max'\nsize=1514\n",
    ));
    let [g, h] = &config.guests[..] else { panic!("two guests") };
    assert_eq!((g.socket.as_path().to_str().unwrap(), g.mode), ("/tmp/p", SocketMode::Client));
    let Role::Host(host) = g.role else { panic!("a host") };
    assert_eq!(host.ping, Some(("10.0.0.2".parse().unwrap(), Duration::from_millis(100))));
    assert_eq!(h.mode, SocketMode::Server);
    assert_ne!(g.mac, h.mac);
}

#[test]
fn guests_that_make_no_sense_are_errors() {
    let guest = |keys: &str| bad(&port(&format!("driver='null'\n[[guest]]\nname='g'\n{keys}")));
    assert_eq!(guest("role='sink'"), ["7 guest[0]: the guest is attached to nothing"]);
    assert_eq!(guest("role='sink'\nport='q'"), ["10 guest[0].port: unknown port `q`; did you mean `p`?"]);
    assert_eq!(guest("role='sink'\nport='p'"), ["10 guest[0].port: port `p` has driver = \"null\""]);
    assert_eq!(guest("role='host'\nsocket='/s'"), ["7 guest[0]: role = \"host\" needs the key `address`"]);
    assert_eq!(
        guest("role='host'\nsocket='/s'\naddress='10.0.0.1/24'\nping='::1'"),
        ["12 guest[0].ping: `::1` can't be reached from `10.0.0.1/24`"]
    );
    assert_eq!(
        guest("role='generate'\nsocket='/s'\nsize=2000"),
        ["11 guest[0].size: a frame of 2000 bytes doesn't fit the guest's MTU"]
    );
}

#[test]
fn flow_strings_are_checked_with_the_files_port_names() {
    let flow = |flow: &str| format!("{}[[flow]]\nbridge='br0'\nflow='{flow}'\n", port("driver='null'\n"));
    good(&flow("in_port=p,ip,nw_dst=10.0.0.0/8,actions=output:1"));
    let unknown = &bad(&flow("in_port=q,actions=drop"))[0];
    assert!(unknown.starts_with("9 flow[0].flow: `q`"), "{unknown}");
    assert!(bad(&flow("ip,actions"))[0].starts_with("9 flow[0].flow: "));
}

#[test]
fn a_port_with_an_error_does_not_make_flows_wrong() {
    let text = "[[bridge]]\nname='br0'\n[[port]]\nname='p'\nbridge='br0'\ndriver='null'\nmtu=1\n\
                [[flow]]\nbridge='br0'\nflow='in_port=p,actions=drop'\n";
    assert_eq!(bad(text), ["7 port[0].mtu: 1 is no MTU"]);
}

/// A bridge and a machine with these network devices.
fn with_net(net: &str) -> String {
    format!("[[bridge]]\nname = \"br0\"\n[[vm]]\nname = \"a\"\nkernel = \"builtin:sink\"\nnet = [{net}]\n")
}

#[test]
fn the_back_end_says_whether_a_machine_has_a_port_or_a_tap_device() {
    let config =
        good(&with_net("{ port = \"p0\", queues = 2 }, { port = \"t0\", backend = \"tap-iothread\" }"));
    let [port] = &config.ports[..] else { panic!("{:?}", config.ports) };
    assert_eq!((port.name.as_str(), port.queues.get()), ("p0", 2));
    let [by_switch, by_tap] = &config.vms[0].net[..] else { panic!("two devices") };
    assert_eq!((by_switch.queues, by_tap.queues), (2, 1));
    assert!(by_switch.backend.is_switch());
    assert_eq!((by_tap.port.as_str(), &by_tap.backend), ("t0", &vmm_config::NetBackend::TapIothread));
    assert_ne!(by_switch.mac, by_tap.mac);
    // What is printed says the same.
    assert_eq!(good(&print(&config)).vms, config.vms);
}

#[test]
fn what_a_tap_device_can_not_have_is_an_error() {
    let errors = bad(&(with_net(
        "{ port = \"a-name-too-long-for-the-kernel\", backend = \"tap-inline\" }, \
                                 { port = \"t0\", backend = \"vhost-net\", queues = 2 }, \
                                 { port = \"t1\", backend = \"tap-inline\", bridge = \"br0\" }, \
                                 { port = \"taken\", backend = \"tap-inline\" }",
    ) + "[[port]]\nname = \"taken\"\nbridge = \"br0\"\ndriver = \"tap\"\ndevice = \"x\"\n"));
    let expected = [
        "6 vm[0].net[0].port: `a-name-too-long-for-the-kernel` can't be the name of a TAP device",
        "6 vm[0].net[1].queues: several queue pairs need the switch",
        "6 vm[0].net[2].bridge: a TAP device belongs to no bridge of the switch",
        "6 vm[0].net[3].port: port `taken` is one of the switch, not a TAP device of the machine's own",
    ];
    assert_eq!(errors, expected);
}

#[test]
fn a_machine_is_on_the_pci_bus_unless_it_says_otherwise_and_the_built_in_guest_always() {
    use vmm_config::Transport;
    let text = with_net("{ port = \"p0\" }");
    assert_eq!(good(&text).vms[0].transport, Transport::Pci);
    let elsewhere = text.clone() + "transport = \"mmio\"\n";
    let errors = bad(&elsewhere);
    assert_eq!(errors, ["7 vm[0].transport: the built-in guest drives virtio devices on PCI only"]);
    let config = good(&elsewhere.replace("builtin:sink", "vmlinux"));
    assert_eq!(config.vms[0].transport, Transport::Mmio);
    assert_eq!(good(&print(&config)).vms, config.vms);
}

#[test]
fn a_machine_uses_no_more_queue_pairs_than_its_port_has() {
    let port =
        "[[port]]\nname = \"p\"\nbridge = \"br0\"\ndriver = \"vhost-user\"\nsocket = \"/t/p\"\nqueues = 4\n";
    let config = good(&(with_net("{ port = \"p\" }") + port));
    assert_eq!(config.vms[0].net[0].queues, 4, "those of the port");
    let errors = bad(&(with_net("{ port = \"p\", queues = 5 }") + port));
    assert_eq!(errors, ["6 vm[0].net[0].queues: port `p` has 4 queue pairs"]);
}
