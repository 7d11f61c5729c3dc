//! Memory formats of classification: key extraction, keys and masks of entries, the distribution hash.
