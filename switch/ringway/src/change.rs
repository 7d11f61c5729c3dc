//! `ringway flow`, `port`, `partition` and `reload`: changes to a running switch.

use control::{Answer, Client, Request};

use crate::args::{FlowArgs, FlowChange, PartitionArgs, PartitionChange, PortArgs, PortChange, SwitchArgs};
use crate::failure::Outcome;
use crate::output;

/// Connects to the switch that the arguments mean.
///
/// # Errors
/// The file that names it is wrong, or it isn't there.
pub fn connect(args: &SwitchArgs) -> anyhow::Result<Client> {
    Ok(match &args.file {
        Some(file) => {
            let config = switch_config::load(file, &switch_config::Context::default())?;
            Client::connect(config.control.socket.as_path())?
        }
        None => Client::connect(&args.socket)?,
    })
}

/// An answer that doesn't belong to the request.
pub fn unexpected() -> anyhow::Error {
    anyhow::anyhow!("the switch answered something else: is it of another version than this command?")
}

/// Adds, changes or removes rules.
pub fn flow(args: FlowArgs) -> Outcome {
    let bridge = args.bridge;
    let request = match args.change {
        FlowChange::Add { flow } => Request::FlowAdd { bridge, flow },
        FlowChange::Mod { flow, strict } => Request::FlowMod { bridge, flow, strict },
        FlowChange::Del { flow, strict, .. } => {
            Request::FlowDel { bridge, flow: flow.unwrap_or_default(), strict }
        }
    };
    change(&args.switch, request)
}

/// Adds or removes a port.
pub fn port(args: PortArgs) -> Outcome {
    let request = match args.change {
        PortChange::Add { name, keys } => Request::PortAdd { port: named_toml(name, keys) },
        PortChange::Del { name } => Request::PortDel { name },
    };
    change(&args.switch, request)
}

/// Adds, changes or removes a partition of a port's queues.
pub fn partition(args: PartitionArgs) -> Outcome {
    let request = match args.change {
        PartitionChange::Add { name, keys, before } => {
            Request::PartitionAdd { partition: named_toml(name, keys), before }
        }
        PartitionChange::Mod { name, keys } => Request::PartitionMod { partition: named_toml(name, keys) },
        PartitionChange::Del { name } => Request::PartitionDel { name },
    };
    change(&args.switch, request)
}

/// Has the switch read its file again.
pub fn reload(args: &SwitchArgs) -> Outcome {
    change(args, Request::Reload)
}

fn change(switch: &SwitchArgs, request: Request) -> Outcome {
    match connect(switch)?.call(request)? {
        Answer::Changed(lines) => {
            output::text(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
        }
        _ => Err(unexpected()),
    }
}

/// The keys of a `[[port]]` or `[[partition]]`, one a line.
fn named_toml(name: String, keys: Vec<(String, toml::Value)>) -> String {
    let name = ("name".to_owned(), toml::Value::String(name));
    std::iter::once(name).chain(keys).map(|(key, value)| format!("{key} = {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_written_as_a_file_would_have_it() {
        let keys = vec![("driver".to_owned(), "tap".into()), ("tag".to_owned(), 5.into())];
        assert_eq!(named_toml("t0".into(), keys), "name = \"t0\"\ndriver = \"tap\"\ntag = 5\n");
    }

    #[test]
    fn a_key_given_twice_stays_wrong() {
        let keys = vec![("tag".to_owned(), 5.into()), ("tag".to_owned(), 6.into())];
        assert!(named_toml("t0".into(), keys).parse::<toml::Table>().is_err(), "the switch says so");
    }
}
