//! Requests, answers, and how they become lines.

use serde::{Deserialize, Serialize};

use crate::rows::{
    CacheRow, ConfigText, FdbRow, FlowRow, HardwareRow, PartitionRow, PortRow, PuntRow, Snapshot, Status,
    WorkerRow,
};

/// The version of the protocol: another one is refused.
pub const VERSION: u32 = 1;
/// Bytes of a request's line at most, without its end.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Bytes of a response's line at most, without its end.
pub const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// What is asked of the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The switch in short. Answered by [`Answer::Status`].
    Status,
    /// Every port. Answered by [`Answer::Ports`].
    ShowPorts,
    /// What the hardware below ports says itself. Answered by [`Answer::Hardware`].
    ShowHardware,
    /// Rules. Answered by [`Answer::Flows`].
    ShowFlows {
        /// Of this bridge only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<String>,
        /// Of this table only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<u8>,
    },
    /// Learned addresses. Answered by [`Answer::Fdb`].
    ShowFdb {
        /// Of this bridge only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<String>,
    },
    /// Every worker. Answered by [`Answer::Workers`].
    ShowWorkers,
    /// Every worker's caches. Answered by [`Answer::Caches`].
    ShowCaches,
    /// Every partition of a port's queues. Answered by [`Answer::Partitions`].
    ShowPartitions,
    /// The configuration in force. Answered by [`Answer::Config`].
    ShowConfig,
    /// The frames that wait for a controller. Answered by [`Answer::Controller`].
    ShowController,
    /// Bridges, ports, workers and caches at one moment. Answered by [`Answer::Snapshot`].
    Snapshot,
    /// Adds a rule; one with the same table, priority and match is replaced.
    FlowAdd {
        /// The bridge; needn't be said if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<String>,
        /// As `ovs-ofctl add-flow` takes it.
        flow: String,
    },
    /// Changes the actions of rules.
    FlowMod {
        /// The bridge; needn't be said if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<String>,
        /// As `ovs-ofctl mod-flows` takes it.
        flow: String,
        /// Only the rule with exactly this match and priority.
        #[serde(default)]
        strict: bool,
    },
    /// Removes rules.
    FlowDel {
        /// The bridge; needn't be said if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<String>,
        /// As `ovs-ofctl del-flows` takes it; empty for all.
        #[serde(default)]
        flow: String,
        /// Only the rule with exactly this match and priority.
        #[serde(default)]
        strict: bool,
    },
    /// Adds a port until the switch ends or the file is read again.
    PortAdd {
        /// The keys of a `[[port]]` as TOML, one a line.
        port: String,
    },
    /// Removes a port.
    PortDel {
        /// Its name.
        name: String,
    },
    /// Adds a partition of a port's queues until the switch ends or the file is read again.
    PartitionAdd {
        /// The keys of a `[[partition]]` as TOML, one a line.
        partition: String,
        /// The partition it comes before; the port's last if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
    },
    /// Changes the partition of the same name, which keeps its place.
    PartitionMod {
        /// The keys of a `[[partition]]` as TOML, one a line.
        partition: String,
    },
    /// Removes a partition.
    PartitionDel {
        /// Its name.
        name: String,
    },
    /// Reads the file again, as SIGHUP does. Answered by [`Answer::Changed`].
    Reload,
    /// Switches the timing of the path's stages, shown by [`Request::ShowWorkers`].
    Stages {
        /// On or off.
        on: bool,
    },
    /// Hands the switch over to the asking process. After [`Answer::HandOver`], [notes](crate::handover) are
    /// exchanged.
    TakeOver {
        /// The oldest version of a state that the asking process reads.
        oldest: u32,
        /// The newest one.
        newest: u32,
    },
}

/// What the switch answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::ShowPorts`].
    Ports(Vec<PortRow>),
    /// To [`Request::ShowHardware`]: ports without hardware of their own have no row.
    Hardware(Vec<HardwareRow>),
    /// To [`Request::ShowFlows`].
    Flows(Vec<FlowRow>),
    /// To [`Request::ShowFdb`].
    Fdb(Vec<FdbRow>),
    /// To [`Request::ShowWorkers`].
    Workers(Vec<WorkerRow>),
    /// To [`Request::ShowCaches`].
    Caches(Vec<CacheRow>),
    /// To [`Request::ShowPartitions`].
    Partitions(Vec<PartitionRow>),
    /// To [`Request::ShowConfig`].
    Config(ConfigText),
    /// To [`Request::ShowController`].
    Controller(Vec<PuntRow>),
    /// To [`Request::Snapshot`].
    Snapshot(Snapshot),
    /// To requests that change something: what was changed, a line each. It is in force.
    Changed(Vec<String>),
    /// To [`Request::TakeOver`]: notes follow.
    HandOver {
        /// The version of the states that will come.
        version: u32,
    },
}

/// Why the switch doesn't do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people; may have several lines.
    pub message: String,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Why, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The line is no request.
    Malformed,
    /// The line is longer than a request can be.
    TooLong,
    /// A protocol version that this switch doesn't speak.
    Version,
    /// This user is not answered.
    Denied,
    /// There is no such bridge, port, rule.
    NotFound,
    /// A flow string, a port's keys or a file are wrong.
    Invalid,
    /// It can't be changed while the switch runs.
    Fixed,
    /// It was tried and failed.
    Failed,
    /// The answer would be too large; ask for less.
    TooLarge,
}

/// A request as it stands in a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestLine {
    pub version: u32,
    #[serde(default)]
    pub id: u64,
    pub request: Request,
}

/// A response as it stands in a line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResponseLine {
    pub version: u32,
    /// That of the request; 0 if it couldn't be read.
    #[serde(default)]
    pub id: u64,
    #[serde(flatten)]
    pub result: ResultLine,
}

/// An answer or a refusal, as it stands in a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ResultLine {
    Ok(Answer),
    Error(Refusal),
}

/// Only what is needed to answer a request that isn't understood.
#[derive(Deserialize)]
struct Envelope {
    version: u32,
    #[serde(default)]
    id: u64,
}

/// Reads a request's line: its id, and the request or why it is none.
pub(crate) fn parse_request(line: &[u8]) -> (u64, Result<Request, Refusal>) {
    match serde_json::from_slice::<RequestLine>(line) {
        Ok(RequestLine { version: VERSION, id, request }) => (id, Ok(request)),
        parsed => {
            // A later version may have other requests: its number says more than the parser's complaint.
            let envelope = serde_json::from_slice::<Envelope>(line).ok();
            let id = envelope.as_ref().map_or(0, |e| e.id);
            let refusal = match (envelope, parsed) {
                (Some(Envelope { version, .. }), _) if version != VERSION => Refusal::new(
                    RefusalKind::Version,
                    format!("this switch speaks version {VERSION} of the protocol, not {version}"),
                ),
                (_, Err(error)) => {
                    Refusal::new(RefusalKind::Malformed, format!("this is no request: {error}"))
                }
                (_, Ok(_)) => unreachable!("another version has been answered"),
            };
            (id, Err(refusal))
        }
    }
}

/// Writes a response's line, without its end.
pub(crate) fn response_line(id: u64, result: Result<Answer, Refusal>) -> Vec<u8> {
    let write = |result| {
        let line = ResponseLine { version: VERSION, id, result };
        serde_json::to_vec(&line).expect("rows and texts can be written as JSON")
    };
    let line = write(match result {
        Ok(answer) => ResultLine::Ok(answer),
        Err(refusal) => ResultLine::Error(refusal),
    });
    if line.len() <= RESPONSE_BYTES_MAX {
        return line;
    }
    let message =
        format!("the answer has {} bytes, {RESPONSE_BYTES_MAX} are allowed: ask for less", line.len());
    write(ResultLine::Error(Refusal::new(RefusalKind::TooLarge, message)))
}

/// Feeds any bytes to the parser of requests; panics when one that was read isn't written so that it reads the
/// same.
pub fn fuzz_request(data: &[u8]) {
    if let (id, Ok(request)) = parse_request(data) {
        let line = serde_json::to_vec(&RequestLine { version: VERSION, id, request: request.clone() })
            .expect("requests can be written as JSON");
        assert_eq!(parse_request(&line), (id, Ok(request)));
        assert!(!line.contains(&b'\n'), "a request is one line");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Result<Request, Refusal> {
        parse_request(line.as_bytes()).1
    }

    #[test]
    fn requests_read_as_documented() {
        assert_eq!(request(r#"{"version":1,"request":"show-ports"}"#), Ok(Request::ShowPorts));
        assert_eq!(
            request(
                r#"{"version":1,"id":7,"request":{"flow-add":{"bridge":"br0","flow":"actions=normal"}}}"#
            ),
            Ok(Request::FlowAdd { bridge: Some("br0".into()), flow: "actions=normal".into() })
        );
        assert_eq!(
            request(r#"{"version":1,"request":{"show-flows":{}}}"#),
            Ok(Request::ShowFlows { bridge: None, table: None })
        );
    }

    #[test]
    fn another_version_is_refused_whatever_it_asks() {
        let (id, result) = parse_request(br#"{"version":2,"id":9,"request":"dance"}"#);
        assert_eq!((id, result.unwrap_err().kind), (9, RefusalKind::Version));
    }

    #[test]
    fn what_is_no_request_is_malformed() {
        for line in ["", "x", "[]", r#"{"version":1}"#, r#"{"version":1,"request":"dance"}"#] {
            assert_eq!(request(line).unwrap_err().kind, RefusalKind::Malformed, "{line}");
        }
        let unknown = r#"{"version":1,"request":{"flow-add":{"flow":"x","prio":1}}}"#;
        assert!(request(unknown).unwrap_err().message.contains("prio"));
        let (id, _) = parse_request(br#"{"version":1,"id":3,"request":"dance"}"#);
        assert_eq!(id, 3, "a client can tell which request it was");
    }

    #[test]
    fn an_answer_that_is_too_large_becomes_a_refusal() {
        let text = "x".repeat(RESPONSE_BYTES_MAX);
        let line = response_line(1, Ok(Answer::Config(ConfigText { path: None, text })));
        let line: ResponseLine = serde_json::from_slice(&line).unwrap();
        let ResultLine::Error(refusal) = line.result else { panic!("a refusal") };
        assert_eq!(refusal.kind, RefusalKind::TooLarge);
    }

    #[test]
    fn fuzzing_accepts_anything() {
        for line in [&b"\xff"[..], b"{\"version\":1,\"request\":\"reload\"}", b"\"\\ud800\""] {
            fuzz_request(line);
        }
    }
}
