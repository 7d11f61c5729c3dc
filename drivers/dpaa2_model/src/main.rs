//! `dpaa2-model BOARD SOCKET [CONTROL]`: serves a model to programs below the preload library.

use dpaa2_model::{Description, Model, control, remote};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: dpaa2-model BOARD SOCKET [CONTROL]

BOARD    description of the hardware (TOML)
SOCKET   Unix socket to make for programs: DPAA2_MODEL=unix:SOCKET
CONTROL  Unix socket to make for reports and events";

fn serve(board: &str, socket: &str, control_socket: Option<&str>) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read_to_string(board).map_err(|error| format!("{board}: {error}"))?;
    let model = Model::new(&Description::from_toml(&text)?)?.share();
    if let Some(path) = control_socket {
        control::listen(&model, Path::new(path))?;
    }
    remote::serve(&model, Path::new(socket))?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (board, socket, control_socket) = match arguments[..] {
        [board, socket] => (board, socket, None),
        [board, socket, control] => (board, socket, Some(control)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let Err(error) = serve(board, socket, control_socket) else { return ExitCode::SUCCESS };
    eprintln!("dpaa2-model: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}
