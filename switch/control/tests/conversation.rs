//! A client, a server, and what goes wrong between them.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use control::{
    Answer, Client, ClientError, ControlSocket, Handler, PortRow, REQUEST_BYTES_MAX, Refusal, RefusalKind,
    Request, serve,
};

/// Remembers flows, refuses the rest.
#[derive(Default)]
struct Switch {
    flows: RefCell<Vec<String>>,
}

impl Handler for Switch {
    async fn handle(&self, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::ShowPorts => {
                Ok(Answer::Ports(vec![PortRow { name: "vm0".into(), ..PortRow::default() }]))
            }
            Request::FlowAdd { flow, .. } => {
                self.flows.borrow_mut().push(flow);
                Ok(Answer::Changed(self.flows.borrow().clone()))
            }
            _ => Err(Refusal::new(RefusalKind::NotFound, "there is nothing else here")),
        }
    }
}

/// Runs a switch beside `test`, which gets the socket's path.
fn with_switch(test: impl FnOnce(&Path) + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("control.sock");
    let socket = ControlSocket::bind(&path, 0o600).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let client = std::thread::spawn(move || test(&path));
    local.block_on(&runtime, async {
        let server = serve(&socket, Rc::new(Switch::default()));
        let done = tokio::task::spawn_blocking(move || client.join());
        tokio::select! {
            ended = server => panic!("the server ended: {ended:?}"),
            joined = done => joined.unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
    });
}

#[test]
fn requests_are_answered_in_turn() {
    with_switch(|path| {
        let mut client = Client::connect(path).unwrap();
        let Answer::Ports(ports) = client.call(Request::ShowPorts).unwrap() else { panic!("ports") };
        assert_eq!(ports[0].name, "vm0");
        for flow in ["a", "b"] {
            client.call(Request::FlowAdd { bridge: None, flow: flow.into() }).unwrap();
        }
        let changed = client.call(Request::FlowAdd { bridge: None, flow: "c".into() }).unwrap();
        assert_eq!(changed, Answer::Changed(vec!["a".into(), "b".into(), "c".into()]));
    });
}

#[test]
fn refusals_reach_the_client_and_the_connection_goes_on() {
    with_switch(|path| {
        let mut client = Client::connect(path).unwrap();
        let Err(ClientError::Refused(refusal)) = client.call(Request::ShowWorkers) else {
            panic!("a refusal")
        };
        assert_eq!(refusal.kind, RefusalKind::NotFound);
        client.call(Request::ShowPorts).unwrap();
    });
}

#[test]
fn lines_that_are_no_requests_are_answered_and_the_connection_goes_on() {
    with_switch(|path| {
        let mut stream = UnixStream::connect(path).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut say = |line: &[u8]| {
            stream.write_all(line).unwrap();
            stream.write_all(b"\n").unwrap();
            let mut response = String::new();
            reader.read_line(&mut response).unwrap();
            response
        };
        assert!(say(b"\xff\xfe").contains("malformed"));
        assert!(say(b"{}").contains("malformed"));
        assert!(say(br#"{"version":7,"request":"show-ports"}"#).contains(r#""kind":"version""#));
        assert!(say(&vec![b'x'; REQUEST_BYTES_MAX + 1]).contains("too-long"));
        let deep = [b'['; 100_000];
        assert!(say(&deep).contains("malformed"));
        assert!(
            say(br#"{"version":1,"id":5,"request":"show-ports"}"#).starts_with(r#"{"version":1,"id":5,"ok""#)
        );
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_line_disturbs_nobody() {
    with_switch(|path| {
        for _ in 0..100 {
            UnixStream::connect(path).unwrap().write_all(b"{\"version\":1,").unwrap();
        }
        Client::connect(path).unwrap().call(Request::ShowPorts).unwrap();
    });
}

#[test]
fn clients_beyond_the_limit_wait_for_others_to_leave() {
    with_switch(|path| {
        let idle: Vec<_> =
            (0..control::CONNECTIONS_MAX).map(|_| UnixStream::connect(path).unwrap()).collect();
        let waiting = std::thread::spawn({
            let path = path.to_owned();
            move || Client::connect(&path).unwrap().call(Request::ShowPorts)
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!waiting.is_finished());
        drop(idle);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn the_client_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    assert!(matches!(Client::connect(&path), Err(ClientError::NotRunning { .. })));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::connect(&path), Err(ClientError::NotRunning { .. })), "a stale socket");
}

#[test]
fn a_server_that_speaks_something_else_is_told_from_one_that_dies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        for reply in [&b"HTTP/1.1 400 Bad Request\n"[..], b"{\"version\":1,\"id\":1,"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(reply).unwrap();
        }
    });
    let call = || Client::connect(&path).unwrap().call(Request::Status);
    assert!(matches!(call(), Err(ClientError::Garbled { .. })));
    assert!(matches!(call(), Err(ClientError::Lost { .. })));
    server.join().unwrap();
}

#[test]
fn other_users_are_told_that_they_may_not() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    with_switch(|path| {
        // The folder, too, must let others in: only the switch itself is asked here.
        let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
        open(path);
        open(path.parent().unwrap());
        let path = path.to_owned();
        let stranger = std::thread::spawn(move || {
            // Of this thread only, as the system call has it.
            let nobody = rustix::thread::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            Client::connect(&path).unwrap().call(Request::ShowPorts)
        });
        let Err(ClientError::Refused(refusal)) = stranger.join().unwrap() else { panic!("a refusal") };
        assert_eq!(refusal.kind, RefusalKind::Denied);
        assert!(refusal.message.contains("user 65534 may not"), "{}", refusal.message);
    });
}

#[test]
fn a_refusal_is_read_though_the_switch_has_hung_up_before_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let refusal = r#"{"version":1,"id":0,"error":{"kind":"denied","message":"user 7 may not"}}"#;
    stream.write_all(format!("{refusal}\n").as_bytes()).unwrap();
    drop(stream);
    let Err(ClientError::Refused(refusal)) = client.call(Request::ShowPorts) else { panic!("a refusal") };
    assert_eq!(refusal.message, "user 7 may not");
}

#[test]
fn a_switch_that_does_not_hand_itself_over_says_so() {
    with_switch(|path| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(control::handover::ask(path, 1, 2)).unwrap_err();
        assert!(
            matches!(&error, ClientError::Refused(refusal) if refusal.kind == RefusalKind::NotFound),
            "{error}"
        );
        let nowhere = path.with_extension("none");
        let error = runtime.block_on(control::handover::ask(&nowhere, 1, 2)).unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    });
}
