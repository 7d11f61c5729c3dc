//! A configuration as a value: printed, read again, compared.

use proptest::prelude::*;
use switch_config::*;

const BASE: &str = r#"
[workers]
cores = [0, 1]
[[bridge]]
name = "br0"
[[port]]
name = "a"
bridge = "br0"
driver = "vhost-user"
socket = "/tmp/a.sock"
[[port]]
name = "b"
bridge = "br0"
driver = "null"
[[flow]]
bridge = "br0"
flow = "in_port=a,actions=output:b"
"#;

const EVERYTHING: &str = r#"
[workers]
cores = [1, 0]
idle = "poll"
[memory]
huge_pages = "require"
[control]
socket = "/tmp/c.sock"
mode = "0660"
prometheus = "0.0.0.0:9090"
prometheus_public = true
[[bridge]]
name = "br0"
mac_limit = 77
[[port]]
name = "v"
bridge = "br0"
driver = "vhost-user"
socket = "/tmp/with \"quotes\" and ü.sock"
mode = "server"
permissions = "0666"
mac = "02:00:00:00:00:07"
features_off = ["packed", "host_tso4"]
queues = 4
workers = [1, 0]
number = 9
vlan_mode = "native-tagged"
tag = 3
trunks = [4, "10-12"]
up = false
[[port]]
name = "t"
bridge = "br0"
driver = "tap"
netns = "blue"
mtu = 9000
tag = 0
[[port]]
name = "c"
bridge = "br0"
driver = "pcap"
read = "/tmp/in.pcap"
rate = 1000
repeat = "forever"
write = "/tmp/out.pcapng"
[[port]]
name = "l"
bridge = "br0"
driver = "loop"
trunks = [0]
[[flow]]
bridge = "br0"
flow = 'priority=7,in_port="v",actions=output:t'
[[guest]]
name = "h"
role = "host"
socket = "/tmp/h.sock"
mode = "server"
address = "fd00::1/64"
gateway = "fd00::f"
ping = "fd00::2"
ping_interval_ms = 7
stream_to = "fd00::3"
packed = true
ring_size = 512
[[guest]]
name = "g"
role = "generate"
port = "v"
rate = "max"
size = 1000
flows = 7
window = 64
to = "02:00:00:00:00:09"
ip_dst = "10.0.0.9"
"#;

fn read(text: &str) -> Config {
    parse(text, &Context::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn what_is_printed_reads_the_same() {
    for text in ["", BASE, EVERYTHING] {
        let config = read(text);
        let printed = print(&config);
        let again = parse(&printed, &Context::default()).unwrap_or_else(|e| panic!("{printed}\n{e}"));
        assert_eq!(again, config, "{printed}");
    }
}

#[test]
fn a_ports_keys_make_the_port() {
    let config = read(EVERYTHING);
    let text =
        format!("[workers]\ncores=[0,1]\n[[bridge]]\nname='br0'\n[[port]]\n{}", print_port(&config.ports[0]));
    assert_eq!(read(&text).ports[0], config.ports[0]);
}

fn changes(new: &str) -> Vec<String> {
    let old = read(BASE);
    let new = parse(new, &Context::default().after(&old)).unwrap_or_else(|errors| panic!("{errors}"));
    diff(&old, &new).to_string().lines().map(str::to_owned).collect()
}

#[test]
fn the_same_file_differs_in_nothing() {
    assert_eq!(changes(BASE), [""; 0]);
    assert_eq!(changes(&format!("# a comment\n{BASE}")), [""; 0]);
}

#[test]
fn ports_come_and_go_and_the_others_keep_their_numbers() {
    let (before, rest) = BASE.split_once("[[port]]\nname = \"a\"").unwrap();
    let new =
        format!("{before}[[port]]\nname = 'z'\nbridge = 'br0'\ndriver = 'tap'\n[[port]]\nname = \"a\"{rest}");
    assert_eq!(changes(&new), ["+ port z on br0 (tap)"]);
    let without_b = BASE.replace("name = \"b\"", "name = \"c\"").replace("output:b", "output:c");
    assert_eq!(
        changes(&without_b),
        [
            "- flow on br0: in_port=a,actions=output:b",
            "- port b",
            "+ port c on br0 (null)",
            "+ flow on br0: in_port=a,actions=output:c",
        ]
    );
}

#[test]
fn what_can_change_in_place_does_and_the_rest_replaces_the_port() {
    let socket = "socket = \"/tmp/a.sock\"\n";
    let with = |keys: &str| changes(&BASE.replace(socket, &format!("{socket}{keys}\n")));
    assert_eq!(with("tag = 5\nmtu = 9000\nworkers = [1]"), ["~ port a: vlan, mtu, workers"]);
    assert_eq!(with("up = false"), ["~ port a: up"]);
    assert_eq!(with("queues = 2\nmtu = 9000"), ["~ port a (its peer is disconnected): queues"]);
    assert_eq!(with("features_off = ['packed']"), ["~ port a (its peer is disconnected): features_off"]);
    assert_eq!(
        changes(&BASE.replace("driver = \"null\"", "driver = \"loop\"")),
        ["~ port b (its peer is disconnected): driver"]
    );
}

#[test]
fn flows_are_compared_as_a_set_that_counts() {
    let flow = "\n[[flow]]\nbridge = 'br0'\nflow = 'in_port=b,actions=drop'\n";
    assert_eq!(changes(&format!("{BASE}{flow}")), ["+ flow on br0: in_port=b,actions=drop"]);
    assert_eq!(changes(&format!("{BASE}{flow}{flow}")).len(), 2);
}

#[test]
fn bridges_go_after_their_ports_have_moved() {
    let moved = BASE.replace("\"br0\"", "\"br1\"");
    assert_eq!(
        changes(&moved),
        [
            "- flow on br0: in_port=a,actions=output:b",
            "+ bridge br1",
            "~ port a: bridge",
            "~ port b: bridge",
            "- bridge br0",
            "+ flow on br1: in_port=a,actions=output:b",
        ]
    );
    assert_eq!(changes(&BASE.replace("name = \"br0\"", "name = \"br0\"\nmac_limit = 9")).len(), 1);
}

#[test]
fn what_is_set_up_at_the_start_is_refused_with_the_reason() {
    let old = read(BASE);
    let new = read(&BASE.replace("cores = [0, 1]", "cores = [0]\nidle = 'poll'"));
    let refused: Vec<_> = diff(&old, &new).refused.iter().map(|fixed| fixed.key).collect();
    assert_eq!(refused, ["workers.cores", "workers.idle"]);
    let text = diff(&old, &new).to_string();
    assert!(text.starts_with("! workers.cores can't change while the switch runs: "), "{text}");
}

#[test]
fn guests_that_change_leave_and_come_again() {
    let old = read(EVERYTHING);
    let new = read(&EVERYTHING.replace("size = 1000", "size = 999"));
    assert_eq!(diff(&old, &new).to_string(), "- guest g\n+ guest g (generate)\n");
}

#[test]
fn the_schema_has_every_key_with_its_default_and_meaning() {
    let schema = schema();
    let port = &schema["properties"]["port"]["items"];
    assert_eq!(port["required"], serde_json::json!(["name", "bridge", "driver"]));
    assert_eq!(port["properties"]["mtu"]["default"], 1500);
    assert_eq!(port["properties"]["mtu"]["maximum"], 9000);
    assert_eq!(port["additionalProperties"], false);
    let workers = &schema["properties"]["workers"]["properties"];
    assert_eq!(workers["cores"]["default"], serde_json::json!([0]));
    assert_eq!(workers["idle"]["oneOf"][0]["const"], "sleep");

    fn described(schema: &serde_json::Value, path: &str) {
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            assert!(value["description"].as_str().is_some_and(|text| text.len() > 5), "{path}.{key}");
            described(value, &format!("{path}.{key}"));
            described(&value["items"], &format!("{path}.{key}"));
        }
    }
    described(&schema, "");
}

proptest! {
    #[test]
    fn any_bytes_are_a_configuration_or_errors_with_lines(data: Vec<u8>) {
        fuzz_config(&data);
    }

    /// Files with a piece cut out, doubled or replaced.
    #[test]
    fn damaged_files_are_a_configuration_or_errors_with_lines(
        at in 0..EVERYTHING.len(), len in 0usize..40, with in "[\\[\\]\"'=\n a-z0-9.,{}#-]{0,8}"
    ) {
        let mut bytes = EVERYTHING.as_bytes().to_vec();
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, with.bytes());
        fuzz_config(&bytes);
    }
}
