//! Rows as aligned tables for people.
