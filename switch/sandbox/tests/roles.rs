//! What threads can still do, and what not. Each test enters the sandbox on a thread of its own.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sandbox::{Capabilities, Role, enter, report_violations};
use signal_hook::consts::SIGHUP;
use signal_hook::low_level::raise;

/// Runs on a thread, because nothing of the sandbox can be undone.
fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().expect("the thread doesn't panic")
}

#[test]
fn a_worker_computes_and_waits_but_opens_nothing() {
    report_violations().unwrap();
    on_thread(|| {
        let given_up = enter(Role::Worker, Capabilities::NONE).unwrap();
        assert_eq!(given_up.kept, Capabilities::NONE);
        assert_eq!(Capabilities::of_this_thread().unwrap_err().kind(), ErrorKind::PermissionDenied);
        let memory: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 100_000]).collect();
        assert_eq!(memory[99][99_999], 99);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(File::open("/dev/null").unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
        assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    });
    File::open("/dev/null").expect("other threads are not concerned");
}

#[test]
fn the_control_thread_opens_connects_and_starts_workers_but_no_programs() {
    report_violations().unwrap();
    on_thread(|| {
        let given_up = enter(Role::Control, Capabilities::SYS_NICE).unwrap();
        assert!(Capabilities::SYS_NICE.has(given_up.kept));
        assert_eq!(Capabilities::of_this_thread().unwrap(), given_up.kept);
        File::open("/dev/null").unwrap();
        std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        a.try_clone().unwrap();
        on_thread(|| {
            enter(Role::Worker, Capabilities::NONE).unwrap();
            assert!(File::open("/dev/null").is_err());
        });
        assert!(std::process::Command::new("/bin/true").spawn().is_err());
    });
}

#[test]
fn only_threads_that_can_serve_them_are_interrupted_by_signals_to_the_process() {
    let told = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, told.clone()).unwrap();
    let interrupts = |role: Role| {
        let told = told.clone();
        on_thread(move || {
            enter(role, Capabilities::NONE).unwrap();
            raise(SIGHUP).unwrap();
            told.swap(false, Ordering::SeqCst)
        })
    };
    for role in [Role::Worker, Role::Vcpu, Role::Device] {
        assert!(!interrupts(role), "{}", role.name());
    }
    for role in [Role::Control, Role::Machine] {
        assert!(interrupts(role), "{}", role.name());
    }
}

#[test]
fn what_is_given_up_is_told() {
    on_thread(|| {
        let text = enter(Role::Worker, Capabilities::NONE).unwrap().to_string();
        assert!(text.starts_with("worker: "), "{text}");
        assert!(text.contains("kept: none; no new privileges; "), "{text}");
    });
}

#[test]
fn capabilities_have_the_names_of_the_manual() {
    let two = Capabilities::NET_ADMIN.or(Capabilities::SYS_NICE);
    assert_eq!(two.to_string(), "CAP_NET_ADMIN CAP_SYS_NICE");
    assert_eq!(Capabilities::NONE.to_string(), "none");
}
