//! The JSON schema of a file, for editors.

use schemars::generate::SchemaSettings;

use crate::keys::File;

/// The JSON schema (draft 2020-12) of a configuration file: every key with its type, default and meaning.
///
/// It says what single keys may be; that names are unique and references lead somewhere is for [`crate::parse`].
pub fn schema() -> serde_json::Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<File>();
    schema.insert("title".to_owned(), "Ringway configuration".into());
    schema.to_value()
}
