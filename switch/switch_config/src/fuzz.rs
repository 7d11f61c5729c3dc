//! What is promised for any file at all.

use crate::{Context, diff, parse, print};

/// Feeds any bytes to the parser; panics when it breaks a promise: errors have lines inside the text, and what was
/// read is printed so that it reads the same.
pub fn fuzz_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let context = Context::default();
    match parse(&text, &context) {
        Ok(config) => {
            let printed = print(&config);
            match parse(&printed, &context) {
                Ok(again) => {
                    assert_eq!(again, config, "{printed}");
                    assert!(diff(&config, &again).is_empty(), "{printed}");
                }
                Err(errors) => panic!("printed as\n{printed}\n{errors}"),
            }
        }
        Err(errors) => {
            let lines = text.matches('\n').count() as u32 + 1;
            assert!(!errors.all().is_empty());
            for error in errors.all() {
                assert!((1..=lines).contains(&error.line), "{error}");
            }
        }
    }
}
