//! A place where a stage is made to panic, so that what follows from that can be tried on the program as it is. Passing
//! it costs a look at a pointer for each item between threads. Nothing is there unless somebody asks for it.

use std::sync::OnceLock;

static PLACE: OnceLock<(String, u64)> = OnceLock::new();

/// Has stage `name` panic at its item `number`, counted from 0. The first one asked for in a process counts.
pub fn fail_at(name: &str, number: u64) {
    PLACE.get_or_init(|| (name.to_owned(), number));
}

/// Panics where that was asked for.
pub(super) fn pass(stage: &str, item: u64) {
    let asked = PLACE.get().is_some_and(|(name, number)| name == stage && *number == item);
    assert!(!asked, "the fail point that was asked for");
}
