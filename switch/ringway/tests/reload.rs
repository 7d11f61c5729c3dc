//! A running switch reads its file again: only what differs changes, or nothing does.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

struct Running {
    dir: tempfile::TempDir,
    child: Child,
}

impl Running {
    fn start(text: &str) -> Running {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("switch.toml");
        std::fs::write(&file, with_paths(text, &dir)).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .arg("-qq")
            .arg("run")
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .expect("the command can be started");
        let running = Running { dir, child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(running.path("control")).is_err() {
            assert!(Instant::now() < deadline, "the switch doesn't come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ask(&self, args: &[&str]) -> Output {
        let socket = self.path("control");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.args(args).arg("--socket").arg(socket).output().expect("the command can be started")
    }

    /// Reads the file again with this text; what went wrong, if anything.
    fn reload(&self, text: &str) -> Result<String, String> {
        std::fs::write(self.path("switch.toml"), with_paths(text, &self.dir)).expect("a file");
        let output = self.ask(&["reload"]);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn show(&self, what: &str) -> Vec<Value> {
        let output = self.ask(&["show", what, "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("an array")
    }

    fn ports(&self) -> Vec<String> {
        let name = |row: &Value| row["name"].as_str().expect("a name").to_owned();
        self.show("ports").iter().map(name).collect()
    }

    fn flows(&self) -> Vec<String> {
        self.show("flows").iter().map(|row| row["flow"].as_str().expect("a flow").to_owned()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_paths(text: &str, dir: &tempfile::TempDir) -> String {
    let text = format!(
        "[workers]\ncores = [0]\n\n[control]\nsocket = '@/control'\n\n[[bridge]]\nname = 'br0'\n\n{text}"
    );
    text.replace('@', dir.path().to_str().expect("UTF-8"))
}

fn vhost(name: &str) -> String {
    format!(
        "[[port]]\nname = '{name}'\nbridge = 'br0'\ndriver = 'vhost-user'\nsocket = '@/{name}'\nmode = 'server'\n"
    )
}

#[test]
fn only_what_differs_changes() {
    let kept = vhost("vm0");
    let running = Running::start(&(kept.clone() + &vhost("vm1")));
    assert_eq!(running.ports(), ["vm0", "vm1"]);
    let front_end = UnixStream::connect(running.path("vm0")).unwrap();
    let connections = |name: &str| {
        let rows = running.show("ports");
        rows.iter().find(|row| row["name"] == name).expect("the port")["state"].clone()
    };
    let before = connections("vm0");
    running
        .reload(&(kept + &vhost("vm2") + "[[flow]]\nbridge = 'br0'\nflow = 'in_port=vm0,actions=drop'\n"))
        .unwrap();
    assert_eq!(running.ports(), ["vm0", "vm2"]);
    assert!(!running.path("vm1").exists(), "a port that goes takes its socket with it");
    UnixStream::connect(running.path("vm2")).expect("a port that comes listens");
    assert_eq!(connections("vm0"), before, "a port that stays keeps its connection");
    assert!(running.flows().iter().any(|flow| flow.contains("actions=drop")), "{:?}", running.flows());
    drop(front_end);
}

#[test]
fn a_port_that_can_not_be_opened_leaves_everything_as_it_was() {
    let old = vhost("vm0");
    let running = Running::start(&old);
    let _owner = UnixListener::bind(running.path("taken")).unwrap();
    let flow = "[[flow]]\nbridge = 'br0'\nflow = 'in_port=vm0,actions=drop'\n";
    let error = running.reload(&(vhost("vm1") + &vhost("taken") + &vhost("vm0") + flow)).unwrap_err();
    assert!(error.contains("nothing was changed") && error.contains("taken"), "{error}");
    assert_eq!(running.ports(), ["vm0"]);
    assert!(!running.path("vm1").exists());
    assert!(!running.flows().iter().any(|flow| flow.contains("drop")), "{:?}", running.flows());
    UnixStream::connect(running.path("vm0")).expect("the port still listens");
    running.reload(&(old + &vhost("vm1"))).expect("a good file is taken afterwards");
}

#[test]
fn a_predecessor_whose_file_its_successor_can_not_use_is_put_back() {
    let record = "[[port]]\nname = 'rec'\nbridge = 'br0'\ndriver = 'pcap'\nwrite = '@/out.pcapng'\n";
    let running = Running::start(&(vhost("vm0") + record));
    std::fs::write(running.path("in.pcap"), "no capture").unwrap();
    let successor = format!("{record}read = '@/in.pcap'\n");
    let error = running.reload(&(vhost("vm1") + &successor)).unwrap_err();
    assert!(error.contains("nothing was changed") && error.contains("in.pcap"), "{error}");
    assert_eq!(running.ports(), ["vm0", "rec"]);
    UnixStream::connect(running.path("vm0")).expect("a port that should have gone is back");
    assert!(!running.path("vm1").exists());
}

#[test]
fn guests_come_and_go_with_the_file() {
    let ports = vhost("vm0") + &vhost("vm1");
    let reflect = "[[guest]]\nname = 'g1'\nsocket = '@/vm1'\nmode = 'client'\nrole = 'reflect'\n";
    let running = Running::start(&ports);
    let state = |name: &str| {
        let rows = running.show("ports");
        rows.iter().find(|row| row["name"] == name).expect("the port")["state"].as_str().unwrap().to_owned()
    };
    let waits = state("vm1");
    let until = |wanted: &dyn Fn(&str) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !wanted(&state("vm1")) {
            assert!(Instant::now() < deadline, "the port's state stays {}", state("vm1"));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    running.reload(&(ports.clone() + reflect)).unwrap();
    until(&|state| state == "up");
    running.reload(&ports).unwrap();
    until(&|state| state == waits);
}

#[test]
fn a_wrong_port_is_refused_by_its_keys() {
    let running = Running::start(&vhost("vm0"));
    let output = running.ask(&["port", "add", "vm1", "bridge=br0", "driver=nul", "mtu=1"]);
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success() && error.contains("driver: ") && error.contains("null"), "{error}");
    assert!(!error.contains("line "), "{error}");
    assert_eq!(running.ports(), ["vm0"]);
}

#[test]
fn what_is_fixed_while_the_switch_runs_is_refused_by_name() {
    let running = Running::start(&vhost("vm0"));
    let error = running.reload("[memory]\npool_buffers = 1000\n").unwrap_err();
    assert!(error.contains("nothing was changed") && error.contains("memory.pool_buffers"), "{error}");
    assert_eq!(running.ports(), ["vm0"]);
}

/// Sends a signal to the switch in such a way that any of its threads may be the one that the kernel interrupts.
fn signal(running: &Running, signal: Signal) {
    let pid = Pid::from_child(&running.child);
    let send = |signal| kill_process(pid, signal).expect("the switch is there");
    send(Signal::STOP);
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(&stat).expect("the switch is there").contains(") T ") {
        assert!(Instant::now() < deadline, "the switch doesn't stand still");
        std::thread::sleep(Duration::from_millis(1));
    }
    send(signal);
    send(Signal::CONT);
}

#[test]
fn signals_reach_the_switch_whichever_thread_is_free() {
    let mut running = Running::start(&vhost("vm0"));
    for n in 0..8 {
        let wanted: Vec<_> = ["vm0", "vm1"][..1 + (n + 1) % 2].to_vec();
        let ports: String = wanted.iter().map(|name| vhost(name)).collect();
        std::fs::write(running.path("switch.toml"), with_paths(&ports, &running.dir)).unwrap();
        signal(&running, Signal::HUP);
        let deadline = Instant::now() + Duration::from_secs(20);
        while running.ports() != wanted {
            assert!(Instant::now() < deadline, "the {n}. SIGHUP is lost");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    signal(&running, Signal::TERM);
    let deadline = Instant::now() + Duration::from_secs(20);
    while running.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "SIGTERM is lost");
        std::thread::sleep(Duration::from_millis(10));
    }
}
