//! libFuzzer over one of the targets, which BERTSTREAM_FUZZ_TARGET names: `scripts/fuzz.sh`.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

mod targets;

use targets::{TARGETS, Target};

fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let asked = std::env::var("BERTSTREAM_FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(name, _)| *name == asked);
        found.unwrap_or_else(|| panic!("no target {asked:?}: scripts/fuzz.sh --list")).1
    });
    target(data);
});
