//! The command as it is called: what it prints where, and its exit codes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const GOOD: &str = "[[bridge]]\nname = 'br0'\n\n[[port]]\nname = 'n0'\nbridge = 'br0'\ndriver = 'null'\n";
const BAD: &str = "[[bridge]]\nname = 'br0'\n\n[[port]]\nname = 'n0'\nbridge = 'br1'\ndriver = 'nul'\n";

fn ringway(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway")).args(args).output().expect("the command can be started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).expect("a file");
        self.path(name).display().to_string()
    }
}

/// A switch that answers one request with what it is told, and returns the request.
fn switch_that_answers(socket: &Path, answer: Value) -> std::thread::JoinHandle<Value> {
    let listener = UnixListener::bind(socket).expect("a socket");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a request");
        let request: Value = serde_json::from_str(&line).expect("JSON");
        let mut response = json!({"version": 1, "id": request["id"]});
        response.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        writeln!(&stream, "{response}").expect("an answer");
        request["request"].clone()
    })
}

#[test]
fn a_good_file_is_ok() {
    let files = Files::new();
    let good = files.with("good.toml", GOOD);
    let output = ringway(&["check", &good]);
    assert_eq!((code(&output), stdout(&output)), (Some(0), format!("{good}: ok\n")));
}

#[test]
fn mistakes_are_printed_with_file_line_and_column() {
    let files = Files::new();
    let bad = files.with("bad.toml", BAD);
    let output = ringway(&["check", &bad]);
    assert_eq!(code(&output), Some(1));
    let text = stdout(&output);
    let line = |number: u32| {
        let start = format!("{bad}:{number}:");
        text.lines()
            .find(|line| line.starts_with(&start))
            .unwrap_or_else(|| panic!("no line {number}: {text}"))
    };
    assert!(line(6).contains("port[0].bridge: "), "{text}");
    assert!(line(7).contains("(allowed: "), "{text}");
}

#[test]
fn check_as_json_has_an_object_for_each_file() {
    let files = Files::new();
    let (good, bad) = (files.with("good.toml", GOOD), files.with("bad.toml", BAD));
    let missing = files.path("missing.toml").display().to_string();
    let output = ringway(&["check", "--json", &good, &bad, &missing]);
    assert_eq!(code(&output), Some(1), "one wrong file is enough");
    let report: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(report[0], json!({"file": good, "ok": true, "errors": []}));
    assert_eq!((&report[1]["file"], &report[1]["ok"]), (&json!(bad), &json!(false)));
    let error = &report[1]["errors"][0];
    assert_eq!((&error["path"], &error["line"]), (&json!("port[0].bridge"), &json!(6)));
    assert!(error["column"].is_u64() && error["what"].is_string() && error["allowed"].is_string(), "{error}");
    assert_eq!(report[2]["ok"], false);
    assert!(report[2]["errors"][0]["what"].as_str().is_some_and(|what| what.contains("can't be read")));
}

#[test]
fn the_difference_between_two_files_is_printed() {
    let files = Files::new();
    let old = files.with("old.toml", GOOD);
    let new = files.with("new.toml", &GOOD.replace("'n0'", "'n1'"));
    let output = ringway(&["check", "--diff", "--against", &old, &new]);
    assert_eq!((code(&output), stdout(&output).as_str()), (Some(0), "- port n0\n+ port n1 on br0 (null)\n"));

    let output = ringway(&["check", "--diff", "--against", &old, &old]);
    assert_eq!((code(&output), stdout(&output)), (Some(0), format!("{old}: nothing would change\n")));
}

#[test]
fn a_difference_that_can_not_be_applied_is_a_bad_verdict() {
    let files = Files::new();
    let old = files.with("old.toml", GOOD);
    let new = files.with("new.toml", &format!("[control]\nsocket = '/tmp/other.sock'\n{GOOD}"));
    let output = ringway(&["check", "--json", "--diff", "--against", &old, &new]);
    assert_eq!(code(&output), Some(1));
    let report: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(report[0]["ok"], false);
    assert!(report[0]["diff"]["refused"][0].as_str().is_some_and(|line| line.starts_with("control.socket")));
}

#[test]
fn the_difference_to_the_running_switch_is_asked_of_it() {
    let files = Files::new();
    let socket = files.path("ctl.sock");
    let control = format!("[control]\nsocket = '{}'\n", socket.display());
    let new = files.with("new.toml", &format!("{control}{GOOD}"));
    let running = format!("{control}[[bridge]]\nname = 'br0'\n");
    let switch = switch_that_answers(&socket, json!({"ok": {"config": {"path": null, "text": running}}}));
    let output = ringway(&["check", "--diff", &new]);
    assert_eq!((code(&output), stdout(&output).as_str()), (Some(0), "+ port n0 on br0 (null)\n"));
    assert_eq!(switch.join().unwrap(), json!("show-config"));
}

#[test]
fn a_wrong_file_does_not_run() {
    let files = Files::new();
    let bad = files.with("bad.toml", BAD);
    let output = ringway(&["run", &bad, "--json"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (Some(1), ""), "results only on standard output");
    assert!(stderr(&output).contains(&format!("{bad}:6:")), "{}", stderr(&output));
}

#[test]
fn a_run_ends_with_one_object_and_removes_its_socket() {
    let files = Files::new();
    let socket = files.path("ctl.sock");
    let file = files.with("a.toml", &format!("[control]\nsocket = '{}'\n{GOOD}", socket.display()));
    let output = ringway(&["run", &file, "--for", "0.3", "--json"]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let summary: Value = serde_json::from_str(&stdout(&output)).expect("one JSON object and nothing else");
    let port = &summary["ports"][0];
    assert_eq!((&port["name"], &port["driver"], &port["drops"]), (&json!("n0"), &json!("null"), &json!({})));
    assert!(summary["workers"][0]["idle_cycles"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["guests"], json!([]));
    assert!(!socket.exists());

    let output = ringway(&["run", &file, "--for", "0.1", "-qqq"]);
    assert!(stdout(&output).contains("\nPORT"), "{}", stdout(&output));
    assert_eq!(stderr(&output), "", "no log lines, and nothing drawn without a terminal");
}

#[test]
fn shown_rows_are_an_array() {
    let files = Files::new();
    let socket = files.path("ctl.sock");
    let row = json!({"bridge": "br0", "vlan": 5, "mac": "02:00:00:00:00:01", "port": "vm0", "age_s": 3});
    let switch = switch_that_answers(&socket, json!({"ok": {"fdb": [row]}}));
    let output = ringway(&["show", "fdb", "--json", "--bridge", "br0", "--socket", socket.to_str().unwrap()]);
    assert_eq!(code(&output), Some(0));
    assert_eq!(serde_json::from_str::<Value>(&stdout(&output)).expect("JSON"), json!([row]));
    assert_eq!(switch.join().unwrap(), json!({"show-fdb": {"bridge": "br0"}}));
}

#[test]
fn the_socket_can_be_taken_from_a_file() {
    let files = Files::new();
    let socket = files.path("ctl.sock");
    let file = files.with("a.toml", &format!("[control]\nsocket = '{}'\n{GOOD}", socket.display()));
    let switch = switch_that_answers(&socket, json!({"ok": {"fdb": []}}));
    let output = ringway(&["show", "fdb", "--file", &file]);
    assert_eq!((code(&output), stdout(&output).lines().count()), (Some(0), 1), "only the heading");
    switch.join().unwrap();
}

#[test]
fn a_refusal_is_printed_and_exits_with_1() {
    let files = Files::new();
    let socket = files.path("ctl.sock");
    let refusal = json!({"error": {"kind": "invalid", "message": "there is no port `vm9`"}});
    let switch = switch_that_answers(&socket, refusal);
    let output = ringway(&["flow", "add", "in_port=vm9,actions=drop", "--socket", socket.to_str().unwrap()]);
    assert_eq!((code(&output), stdout(&output).as_str()), (Some(1), ""));
    assert_eq!(stderr(&output), "ringway: there is no port `vm9`\n");
    assert_eq!(switch.join().unwrap(), json!({"flow-add": {"flow": "in_port=vm9,actions=drop"}}));
}

#[test]
fn a_port_is_added_with_the_keys_of_a_file() {
    let files = Files::new();
    let socket = files.path("ctl.sock");
    let switch = switch_that_answers(&socket, json!({"ok": {"changed": ["+ port t0 on br0 (tap)"]}}));
    let socket = socket.to_str().unwrap();
    let output = ringway(&["port", "--socket", socket, "add", "t0", "bridge=br0", "driver=tap", "mtu=9000"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (Some(0), "+ port t0 on br0 (tap)\n"));
    let keys = "name = \"t0\"\nbridge = \"br0\"\ndriver = \"tap\"\nmtu = 9000\n";
    assert_eq!(switch.join().unwrap(), json!({"port-add": {"port": keys}}));
}

#[test]
fn a_partition_is_changed_with_the_keys_of_a_file() {
    let files = Files::new();
    let socket = files.path("ctl.sock");
    let line = "~ partition p: matches";
    let switch = switch_that_answers(&socket, json!({"ok": {"changed": [line]}}));
    let socket = socket.to_str().unwrap();
    let matches = "matches=[\"ip,nw_dst=10.0.0.1\", \"arp,arp_tpa=10.0.0.1\"]";
    let output = ringway(&["partition", "--socket", socket, "mod", "p", "port=wan", matches, "queues=4-7"]);
    assert_eq!((code(&output), stdout(&output)), (Some(0), format!("{line}\n")));
    let keys = "name = \"p\"\nport = \"wan\"\nmatches = [\"ip,nw_dst=10.0.0.1\", \"arp,arp_tpa=10.0.0.1\"]\nqueues = \"4-7\"\n";
    assert_eq!(switch.join().unwrap(), json!({"partition-mod": {"partition": keys}}));
}

#[test]
fn no_switch_is_said_so() {
    let files = Files::new();
    let socket = files.path("nobody.sock").display().to_string();
    let output = ringway(&["show", "ports", "--socket", &socket]);
    assert_eq!(code(&output), Some(1));
    assert!(stderr(&output).contains("no switch answers"), "{}", stderr(&output));
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for line in [
        "",
        "dance",
        "run",
        "check",
        "run a.toml --for 0",
        "show ports --table 3",
        "show flows --stages",
        "flow del",
        "guest --socket /s --mode sink --rate 5",
        "port add t0 bridge",
    ] {
        let output = ringway(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((code(&output), stdout(&output).as_str()), (Some(2), ""), "`ringway {line}`");
        assert!(!output.stderr.is_empty(), "`ringway {line}`");
    }
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let output = ringway(&["--help"]);
    assert_eq!(code(&output), Some(0));
    for part in ["Examples:", "Exit codes:", "ringway run configs/demo.toml --for 10"] {
        assert!(stdout(&output).contains(part), "{part}");
    }
    for command in ["run", "check", "show", "flow", "port", "guest"] {
        assert!(stdout(&ringway(&[command, "--help"])).contains("Examples:"), "{command}");
    }
}

#[test]
fn the_schema_is_json_and_completions_are_for_a_shell() {
    let schema: Value = serde_json::from_str(&stdout(&ringway(&["schema"]))).expect("JSON");
    assert!(schema["properties"]["port"].is_object(), "{schema}");
    assert!(stdout(&ringway(&["completions", "bash"])).contains("_ringway"));
}

#[test]
fn a_guest_ends_by_itself_and_reports() {
    let files = Files::new();
    let socket = files.path("vm0.sock").display().to_string();
    let output = ringway(&["guest", "--socket", &socket, "--mode", "sink", "--for", "0.2", "--json"]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((&report["role"], &report["connections"]), (&json!("sink"), &json!(0)));
}

#[test]
fn a_guest_ends_when_it_is_interrupted() {
    let files = Files::new();
    let socket = files.path("vm0.sock");
    let guest = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(["guest", "--server", "--mode", "reflect", "--socket"])
        .arg(&socket)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the command can be started");
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let kill = Command::new("kill").args(["-INT", &guest.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    let output = guest.wait_with_output().expect("it ends");
    assert_eq!(code(&output), Some(0));
    assert!(stdout(&output).starts_with("guest"), "{}", stdout(&output));
}
