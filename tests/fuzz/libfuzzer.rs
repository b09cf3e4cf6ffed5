//! libFuzzer over one of the targets, which BERTSTREAM_FUZZ_TARGET names: `scripts/fuzz.sh`.

#![no_main]

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, OnceLock};

use libfuzzer_sys::fuzz_target;

mod targets;

use targets::{TARGETS, Target};

/// What the last panic said, and where.
static SAID: Mutex<String> = Mutex::new(String::new());

fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let asked = std::env::var("BERTSTREAM_FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(name, _)| *name == asked);
        let target = found.unwrap_or_else(|| panic!("no target {asked:?}: scripts/fuzz.sh --list")).1;
        // libfuzzer-sys ends the process at any panic, those included that the program contains.
        panic::set_hook(Box::new(|panic| *SAID.lock().unwrap() = panic.to_string()));
        target
    });
    if panic::catch_unwind(AssertUnwindSafe(|| target(data))).is_err() {
        eprintln!("{}", SAID.lock().unwrap());
        std::process::abort();
    }
});
