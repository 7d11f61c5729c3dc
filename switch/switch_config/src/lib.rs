//! The configuration file: types, checks, differences, schema.
