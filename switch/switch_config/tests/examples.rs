//! The files in `configs/`: examples are right, and each mistake planted in `configs/bad/` is reported with its line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use switch_config::{Context, LoadError, load};

/// Announces a mistake on the line it is on.
const MISTAKE_MARK: &str = "# error";

/// The configuration files in a folder of the repository.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

#[test]
fn every_example_is_right() {
    for file in files("configs") {
        if let Err(error) = load(&file, &Context::default()) {
            panic!("{}:\n{error}", file.display());
        }
    }
}

#[test]
fn every_planted_mistake_is_reported_with_its_line_and_nothing_else_is() {
    for file in files("configs/bad") {
        let text = fs::read_to_string(&file).expect("a readable file");
        let planted: BTreeSet<u32> =
            (1..).zip(text.lines()).filter(|(_, line)| line.contains(MISTAKE_MARK)).map(|(n, _)| n).collect();
        assert!(!planted.is_empty(), "{} has no line marked `{MISTAKE_MARK}`", file.display());
        let errors = match load(&file, &Context::default()) {
            Err(LoadError::Invalid(errors)) => errors,
            other => panic!("{}: {other:?}", file.display()),
        };
        let reported: BTreeSet<u32> = errors.all().iter().map(|error| error.line).collect();
        assert_eq!(reported, planted, "{} (reported, planted):\n{errors}", file.display());
    }
}

#[test]
fn an_unknown_key_is_reported_with_the_one_that_was_meant() {
    let file = files("configs/bad").into_iter().find(|path| path.ends_with("unknown-keys.toml"));
    let Err(LoadError::Invalid(errors)) = load(&file.expect("the file is there"), &Context::default()) else {
        panic!("unknown keys are errors");
    };
    for meant in ["cores", "socket", "memory", "mac_ageing_s"] {
        let hint = format!("did you mean `{meant}`?");
        assert!(errors.all().iter().any(|error| error.what.contains(&hint)), "no `{hint}` in\n{errors}");
    }
}

#[test]
fn the_demo_plays_two_guests_on_two_ports_of_one_bridge() {
    let demo =
        files("configs").into_iter().find(|path| path.ends_with("demo.toml")).expect("the demo is there");
    let config = load(&demo, &Context::default()).expect("a right file");
    assert_eq!((config.bridges.len(), config.ports.len(), config.guests.len()), (1, 2, 2));
    for port in &config.ports {
        let switch_config::Driver::VhostUser(vhost_user) = &port.driver else {
            panic!("{} is no vhost-user port", port.name);
        };
        let guests = config.guests.iter().filter(|guest| guest.socket == vhost_user.socket);
        assert_eq!(guests.count(), 1, "guests on {}", port.name);
    }
}
