//! From text, or a file, to a [`Config`]. Only here is anything read from outside.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::de::DeValue;

use crate::check::{Context, check};
use crate::config::Config;
use crate::error::{ConfigErrors, LoadError};
use crate::keys;
use crate::read::{FromToml, Node, Place, Reader, parse_toml};

/// Bytes of a file at most.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads a configuration from TOML text.
///
/// # Errors
/// Everything that is wrong, in the order of the lines.
pub fn parse(text: &str, context: &Context) -> Result<Config, ConfigErrors> {
    let mut reader = Reader::new(text);
    let table = parse_toml(text, &mut reader);
    let root = DeValue::Table(table.into_inner());
    let node = Node { value: &root, place: Place::default() };
    let config = keys::File::from_toml(node, &mut reader).and_then(|file| check(file, context, &mut reader));
    reader.finish(config)
}

/// Reads a configuration file. Relative paths in it start at its folder, unless `context` names another.
///
/// # Errors
/// The file can't be read, is too large, or something in it is wrong.
pub fn load(path: &Path, context: &Context) -> Result<Config, LoadError> {
    parse_file(path, &read(path)?, context)
}

/// Reads the text of a configuration file.
///
/// # Errors
/// The file can't be read, is too large, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, LoadError> {
    let unreadable = |cause| LoadError::Unreadable { path: path.to_owned(), cause };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::TooLarge { path: path.to_owned(), limit: FILE_BYTES_MAX });
    }
    Ok(text)
}

/// Reads a configuration from the text of the file at `path`.
///
/// # Errors
/// As [`parse`].
pub fn parse_file(path: &Path, text: &str, context: &Context) -> Result<Config, LoadError> {
    let mut context = context.clone();
    if context.base.is_none() {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        context.base = path.parent().map(Path::to_owned);
    }
    Ok(parse(text, &context)?)
}

/// What this machine has; without what can't be found out.
pub fn this_machine() -> Context {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
    Context { cpus: online.and_then(|list| list.parse().ok()), ..Context::default() }
}
