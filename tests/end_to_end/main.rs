//! The program as it is used: real text, the real engine, the real binary, and nothing in between that is
//! only a test's. What one room promises is tested beside it; here is what all of them promise together.

mod batches;
mod bench;
mod commands;
mod config;
mod failures;
mod help;
mod hostile;
mod ram;
mod report;
mod resume;
mod signals;
mod spellings;
mod stages;
mod tokens;
mod toy;
