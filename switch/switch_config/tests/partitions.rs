//! Tables that divide a port's queues: what is read, printed, and told apart.

use switch_config::{Config, Context, PartitionPlace, diff, parse, print, print_with_partition};

const PORTS: &str = r#"
[[bridge]]
name = "br0"
[[port]]
name = "wan"
bridge = "br0"
driver = "tap"
[[port]]
name = "vm0"
bridge = "br0"
driver = "vhost-user"
socket = "/tmp/vm0.sock"
"#;

fn config(partitions: &str) -> Config {
    parse(&format!("{PORTS}{partitions}"), &Context::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn partition(name: &str, keys: &str) -> String {
    format!("[[partition]]\nname = \"{name}\"\nport = \"wan\"\n{keys}\n")
}

fn three() -> String {
    partition("a", "matches = \"ip,nw_dst=10.0.0.1\"\nqueues = \"1-2\"\nowner = \"port:vm0\"")
        + &partition("b", "matches = [\"ip,nw_dst=10.0.0.2\", \"arp\"]\nqueues = 3\nowner = \"bridge\"")
        + &partition("rest", "matches = \"any\"\nqueues = 0\nowner = \"bridge\"")
}

#[test]
fn what_is_printed_reads_the_same() {
    let config = config(&three());
    let again = parse(&print(&config), &Context::default()).unwrap();
    assert_eq!(again, config);
    let names: Vec<_> = config.partitions.iter().map(|partition| partition.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "rest"]);
    assert_eq!(config.partitions[1].parsed_matches().len(), 2);
    assert_eq!(config.divided_by_owner(&config.ports[1].name), Some(&config.ports[0].name));
}

#[test]
fn differences_are_told_by_name_and_key() {
    let old = config(&three());
    let change = |text: &str| diff(&old, &config(text)).to_string();
    assert_eq!(change(&three()), "");
    assert_eq!(change(&three().replace("10.0.0.1", "10.0.0.9")), "~ partition a: matches\n");
    let without = three().replace(
        &partition("b", "matches = [\"ip,nw_dst=10.0.0.2\", \"arp\"]\nqueues = 3\nowner = \"bridge\""),
        "",
    );
    assert_eq!(change(&without), "- partition b\n");
    let owner = three().replace("port:vm0", "bridge");
    assert_eq!(change(&owner), "~ partition a: owner\n");
}

#[test]
fn a_partition_is_added_in_its_place_or_replaced() {
    let old = config(&three());
    let keys = "name = \"c\"\nport = \"wan\"\nmatches = \"udp\"\nqueues = 4\nowner = \"bridge\"";
    let names = |keys: &str, place| {
        let text = print_with_partition(&old, keys, place)?;
        let new = parse(&text, &Context::default()).unwrap_or_else(|errors| panic!("{errors}"));
        Some(new.partitions.iter().map(|p| p.name.as_str().to_owned()).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(names(keys, PartitionPlace::BeforeDefault).unwrap(), "a b c rest");
    assert_eq!(names(keys, PartitionPlace::Before("a")).unwrap(), "c a b rest");
    assert_eq!(names(keys, PartitionPlace::Before("x")), None);
    assert_eq!(names(keys, PartitionPlace::Same), None);
    let changed = "name = \"a\"\nport = \"wan\"\nmatches = \"udp\"\nqueues = \"1-2\"\nowner = \"bridge\"";
    assert_eq!(names(changed, PartitionPlace::Same).unwrap(), "a b rest");
}

#[test]
fn a_machines_device_makes_the_port_that_owns_its_partition() {
    let vm = "[[vm]]\nname = \"m\"\nkernel = \"builtin:sink\"\nnet = [{ partition = \"a\" }]\n";
    let config = config(&(three().replace("port:vm0", "vm:m") + vm));
    let owner = config.partitions[0].owner_port.as_ref().unwrap();
    assert_eq!((owner.as_str(), config.vms[0].net[0].port.as_str()), ("a", "a"));
    assert!(config.port(owner).is_some());
}

#[test]
fn numbers_that_would_fit_are_said() {
    let error = |text: &str| parse(&format!("{PORTS}{text}"), &Context::default()).unwrap_err().to_string();
    let overlap = error(&three().replace("queues = 3", "queues = 2"));
    assert!(overlap.contains("queues 2 overlap those of partition[0].queues (1-2)"), "{overlap}");
    let gap = error(&three().replace("queues = 3", "queues = 5"));
    assert!(gap.contains("queues 3-4 belong to no partition"), "{gap}");
    let shadowed = error(&three().replace("nw_dst=10.0.0.2", "nw_dst=10.0.0.1,nw_proto=6"));
    assert!(shadowed.contains("no frame comes this far: partition[0].matches takes them all"), "{shadowed}");
}
