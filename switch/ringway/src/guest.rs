//! `ringway guest`: plays a guest until it is told to end, and reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::CommandFactory;
use clap::error::ErrorKind;
use guest_host::{GenerateRole, GuestConfig, HostRole, Ping, Role, SocketMode};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Cli, GuestArgs, GuestMode};
use crate::failure::Outcome;
use crate::{live, output, report};

/// Between two pings unless told.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Plays the guest, and prints its report.
pub fn guest(args: &GuestArgs) -> Outcome {
    let config = match config(args) {
        Ok(config) => config,
        Err(message) => Cli::command().error(ErrorKind::ArgumentConflict, message).exit(),
    };
    let stop = stop_on_signals()?;
    let report = guest_host::run(&config, &stop, |progress| live::draw(&report::progress(progress)));
    live::clear();
    let report = report?;
    if args.json { output::json(&report) } else { output::text(&report::report(&report)) }
}

/// A flag that SIGINT and SIGTERM set.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("signals")?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let flag = stop.clone();
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        flag.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(stop)
}

/// The guest the arguments describe, or which of them don't belong together.
fn config(args: &GuestArgs) -> Result<GuestConfig, String> {
    let mode = if args.server { SocketMode::Server } else { SocketMode::Client };
    let config = GuestConfig::new(args.name.clone(), args.socket.clone(), mode, role(args)?);
    Ok(GuestConfig {
        mac: args.mac.map_or_else(|| mac_of(args.socket.as_os_str().as_encoded_bytes()), |mac| mac.bytes()),
        packed: args.packed,
        queue_pairs: args.queues,
        ring_size: args.ring_size,
        offloads: !args.no_offloads,
        mtu: args.mtu,
        duration: args.for_,
        ..config
    })
}

fn role(args: &GuestArgs) -> Result<Role, String> {
    let (host, generate) = (&args.host, &args.generate);
    let of_host = [
        ("--address", host.address.is_some()),
        ("--gateway", host.gateway.is_some()),
        ("--ping", !host.ping.is_empty()),
        ("--stream-to", host.stream_to.is_some()),
    ];
    let of_generate = [
        ("--to", generate.to.is_some()),
        ("--ip-src", generate.ip_src.is_some()),
        ("--ip-dst", generate.ip_dst.is_some()),
        ("--rate", generate.rate.is_some()),
        ("--size", generate.size.is_some()),
        ("--flows", generate.flows.is_some()),
        ("--window", generate.window.is_some()),
    ];
    let refuse = |flags: &[(&str, bool)], mode| match flags.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(format!("{flag} is for --mode {mode}")),
        None => Ok(()),
    };
    if args.mode != GuestMode::Host {
        refuse(&of_host, "host")?;
    }
    if args.mode != GuestMode::Generate {
        refuse(&of_generate, "generate")?;
    }
    Ok(match args.mode {
        GuestMode::Reflect => Role::Reflect,
        GuestMode::Sink => Role::Sink,
        GuestMode::Generate => {
            let default = GenerateRole::default();
            Role::Generate(GenerateRole {
                to: generate.to.map_or(default.to, |mac| mac.bytes()),
                ip: (generate.ip_src.unwrap_or(default.ip.0), generate.ip_dst.unwrap_or(default.ip.1)),
                rate: generate.rate.unwrap_or(default.rate),
                size: generate.size.unwrap_or(default.size),
                flows: generate.flows.unwrap_or(default.flows),
                window: generate.window,
            })
        }
        GuestMode::Host => {
            let address = host.address.ok_or("--mode host needs --address")?;
            let interval = host.ping_interval.unwrap_or(PING_INTERVAL);
            Role::Host(HostRole {
                gateway: host.gateway,
                ping: host.ping.iter().map(|&target| Ping { target, interval }).collect(),
                stream_to: host.stream_to,
                ..HostRole::new(address.addr, address.prefix)
            })
        }
    })
}

/// A locally administered address that differs from socket to socket, and is the same every time (FNV-1a).
fn mac_of(socket: &[u8]) -> [u8; 6] {
    let hash = socket.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [.., a, b, c] = hash.to_be_bytes();
    [0x02, 0x52, 0x57, a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use clap::Parser;

    fn parse(options: &str) -> Result<GuestConfig, String> {
        let line = format!("ringway guest --socket /s {options}");
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        let Command::Guest(args) = cli.command else { panic!("{line}") };
        config(&args)
    }

    #[test]
    fn every_setting_reaches_the_guest() {
        let guest = parse(
            "--mode sink --server --name s --mac 02:00:00:00:00:09 --packed --queues 4 --ring-size 512 \
             --no-offloads --mtu 9000 --for 1.5",
        );
        let expected = GuestConfig {
            mac: [2, 0, 0, 0, 0, 9],
            packed: true,
            queue_pairs: 4,
            ring_size: 512,
            offloads: false,
            mtu: 9000,
            duration: Some(Duration::from_millis(1500)),
            ..GuestConfig::new("s", "/s", SocketMode::Server, Role::Sink)
        };
        assert_eq!(guest, Ok(expected));
    }

    #[test]
    fn a_host_pings_several() {
        let guest =
            parse("--mode host --address 10.0.0.1/24 --ping 10.0.0.2 --ping 10.0.0.3 --ping-interval 0.1");
        let Role::Host(host) = guest.unwrap().role else { panic!("a host") };
        assert_eq!(host.ping.len(), 2);
        assert_eq!(host.ping[0].interval, Duration::from_millis(100));
        assert_eq!(host.prefix_len, 24);
    }

    #[test]
    fn a_generator_does_what_it_does_by_default_unless_told() {
        let default = Role::Generate(GenerateRole::default());
        assert_eq!(parse("--mode generate").unwrap().role, default);
        let Role::Generate(told) = parse("--mode generate --rate max --size 1514 --window 64").unwrap().role
        else {
            panic!("a generator")
        };
        assert_eq!((told.rate, told.size, told.window), (guest_host::Rate::Max, 1514, Some(64)));
    }

    #[test]
    fn settings_of_another_mode_are_refused() {
        assert_eq!(parse("--mode sink --rate 5"), Err("--rate is for --mode generate".to_owned()));
        assert!(parse("--mode reflect --address 10.0.0.1/24").unwrap_err().contains("--mode host"));
        assert!(parse("--mode host").unwrap_err().contains("--address"));
    }

    #[test]
    fn what_no_guest_can_be_is_refused() {
        for wrong in ["--ring-size 100", "--ring-size 4", "--queues 9", "--mtu 10", "--mac 01:00:00:00:00:00"]
        {
            assert!(parse(&format!("--mode sink {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn guests_on_two_sockets_have_two_addresses() {
        assert_ne!(mac_of(b"/tmp/vm0.sock"), mac_of(b"/tmp/vm1.sock"));
        assert_eq!(mac_of(b"/tmp/vm0.sock")[0] & 3, 2, "locally administered, one station");
    }
}
