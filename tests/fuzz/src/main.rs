//! libFuzzer over one target, which `ROOTSTOCK_FUZZ` names: one program for all, since each
//! would be the same code linked anew.

#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<String> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let names: Vec<_> = targets::names().collect();
        std::env::var("ROOTSTOCK_FUZZ").unwrap_or_else(|_| panic!("ROOTSTOCK_FUZZ names one of {names:?}"))
    });
    targets::feed(target, bytes);
});
