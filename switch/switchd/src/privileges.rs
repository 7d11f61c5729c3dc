//! What the process asks for at its start, and what it gives up.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbox::{Capabilities, Role};
use switch_config::{Config, Driver, FslmcBus};

/// Uses as many descriptors as the system lets this process have: each guest brings some ten, and a successor gets
/// duplicates of all of them.
pub(crate) fn use_all_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, "the process keeps its limit of descriptors");
    }
}

/// Gives up what the control thread, and all that it starts, won't need with this configuration, and says so.
pub(crate) fn give_up(config: &Config) {
    if let Err(error) = sandbox::report_violations() {
        tracing::warn!("sandbox: {error}");
    }
    match sandbox::enter(Role::Control, needed(config)) {
        Ok(given_up) => tracing::info!("sandbox: {given_up}"),
        Err(error) => tracing::warn!("sandbox: the process keeps its privileges: {error}"),
    }
}

/// The capabilities that ports of this configuration need when they come and go, and a take-over.
fn needed(config: &Config) -> Capabilities {
    // Front-ends run as other users: to connect to their sockets, and to make sockets in their directories.
    let mut needed = Capabilities::DAC_OVERRIDE.or(Capabilities::SYS_NICE);
    for port in &config.ports {
        match &port.driver {
            Driver::Tap(tap) => {
                needed = needed.or(Capabilities::NET_ADMIN);
                if tap.netns.is_some() {
                    needed = needed.or(Capabilities::SYS_ADMIN);
                }
            }
            Driver::VhostUser(vhost) if vhost.owner.is_some() => needed = needed.or(Capabilities::CHOWN),
            _ => {}
        }
    }
    if config.control.prometheus.is_some_and(|address| address.port() < 1024) {
        needed = needed.or(Capabilities::NET_BIND_SERVICE);
    }
    match config.fslmc.as_ref().map(|fslmc| &fslmc.bus) {
        Some(FslmcBus::Vfio) => needed = needed.or(Capabilities::IPC_LOCK),
        Some(FslmcBus::Model { board }) if crate::dpaa2::has_tap(board) => {
            needed = needed.or(Capabilities::NET_ADMIN);
        }
        _ => {}
    }
    needed
}

/// What to add to the error of a TAP port that comes later than the process has given up what it needs.
pub(crate) fn tap_hint(tap: &switch_config::Tap) -> &'static str {
    let needs = match tap.netns {
        Some(_) => Capabilities::NET_ADMIN.or(Capabilities::SYS_ADMIN),
        None => Capabilities::NET_ADMIN,
    };
    match Capabilities::of_this_thread() {
        Ok(has) if !has.has(needs) && rustix::process::geteuid().is_root() => {
            "the file had no such port when the switch was started, so it gave the capabilities up: start it anew \
             with `ringway run FILE --take-over`"
        }
        _ => "the TAP device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ports: &str) -> Config {
        let text = format!("[[bridge]]\nname = \"br0\"\n{ports}");
        switch_config::parse(&text, &switch_config::Context::default()).unwrap()
    }

    #[test]
    fn only_what_ports_of_the_file_need_is_kept() {
        let guests = config("[[port]]\nname=\"a\"\nbridge=\"br0\"\ndriver=\"vhost-user\"\nsocket=\"/t/a\"");
        assert_eq!(needed(&guests).to_string(), "CAP_DAC_OVERRIDE CAP_SYS_NICE");
        let tap = config("[[port]]\nname=\"t\"\nbridge=\"br0\"\ndriver=\"tap\"\ndevice=\"t0\"");
        assert_eq!(needed(&tap).to_string(), "CAP_DAC_OVERRIDE CAP_NET_ADMIN CAP_SYS_NICE");
        let text = "[[port]]\nname=\"t\"\nbridge=\"br0\"\ndriver=\"tap\"\ndevice=\"t0\"\nnetns=\"x\"";
        assert!(needed(&config(text)).has(Capabilities::SYS_ADMIN));
        let owned = "[control]\nsocket=\"/t/ctl\"\n[[vm]]\nname=\"v\"\nkernel=\"builtin:sink\"\nuser=\"root\"\nnet=[{port=\"p\"}]";
        assert_eq!(needed(&config(owned)).to_string(), "CAP_CHOWN CAP_DAC_OVERRIDE CAP_SYS_NICE");
        let board = config("[fslmc]\nbus=\"vfio\"\ncontainer=\"dprc.2\"");
        assert!(needed(&board).has(Capabilities::IPC_LOCK));
        let model = |end: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&file, format!("soc = 'lx2160a'\n[[dpmac]]\nid = 1\nend = {{ {end} }}")).unwrap();
            let board = file.path().display();
            needed(&config(&format!("[fslmc]\nbus=\"model\"\nboard=\"{board}\"\ncontainer=\"dprc.2\"")))
        };
        assert!(model("kind = 'tap', name = 't0'").has(Capabilities::NET_ADMIN));
        assert!(!model("kind = 'loop'").has(Capabilities::NET_ADMIN));
    }
}
