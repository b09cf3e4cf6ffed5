//! The invariants of the house, held by a test: who may import whom, and what may stand where.
//!
//! Each rule is a line of a table with its reason. Rules look at code alone: comments, the insides of
//! string literals, and a file's test module are left out first. `docs/ARCHITECTURE.md` tells the same
//! rules in words.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, in the order of the data. A room imports itself and earlier ones only.
const ROOMS: &[&str] = &[
    "error", "rng", "durable", "text", "vocab", "corpus", "sample", "collate", "flow", "pipeline", "model",
    "train", "cli",
];

/// Rooms with a heading of their own in `docs/ARCHITECTURE.md`; the four before `vocab` share one.
const HEADINGS: &[&str] =
    &["vocab", "corpus", "sample", "collate", "flow", "pipeline", "model", "train", "cli"];

/// What a room does not know, although it lies earlier in the order: (room, what, why).
const UNKNOWN_TO: &[(&str, &[&str], &str)] = &[
    ("collate", &["vocab", "corpus"], "a batch is made of samples, not of text"),
    ("flow", &["rng", "vocab", "corpus", "sample", "collate"], "threads and channels know no BERT"),
    ("model", &["vocab", "corpus", "flow", "pipeline"], "a step sees batches and weights alone"),
];

/// What may stand in some places only: (words, places by prefix, why).
const CONFINED: &[(&[&str], &[&str], &str)] = &[
    (
        &["candle_core", "candle_nn"],
        &["src/model/graph/"],
        "no tensor before the model: everything that passes between stages is a plain column",
    ),
    (
        &["thread::spawn", "thread::Builder", "spawn_scoped", "crossbeam_channel", "mpsc"],
        &["src/flow/", "src/cli/train/stop.rs", "src/cli/report/serve.rs"],
        "every thread and channel of the pipeline lives where the order of results is kept; one thread waits \
         for signals, one for browsers",
    ),
    (
        &["thread::scope", "thread::Scope", "thread::{"],
        &["src/flow/", "src/pipeline.rs"],
        "threads end with the call that needs them: one scope, around one pipeline",
    ),
    (
        &["memmap2"],
        &["src/corpus/mmap/mod.rs"],
        "the honest limit of a map is stated once, beside its SAFETY",
    ),
    (
        &["SystemTime", "std::env", "env::var", "available_parallelism"],
        &["src/cli/"],
        "time, environment and CPU count are read where flags are",
    ),
    (&["println!", "print!"], &["src/cli/"], "results go to stdout, and only a command has results"),
    (&["eprintln!", "eprint!"], &["src/cli/", "src/main.rs"], "a library does not talk to the terminal"),
    (
        &["thread::sleep"],
        &["src/cli/bench/"],
        "stages wait for each other, not for time to pass; what stands for a device in a measurement does",
    ),
    (
        &["unsafe"],
        &[
            "src/corpus/mmap/",
            "src/model/fused/attention/ahead.rs",
            "src/model/fused/attention/amx/",
            "src/model/fused/attention/short.rs",
            "src/model/fused/attention/vectors.rs",
            "src/model/fused/matmul/",
            "src/model/device/cuda.rs",
        ],
        "where it pays for itself, by name",
    ),
    (
        &["cudarc"],
        &["src/model/device/cuda.rs"],
        "a device is a trait: all but one file of its engine is proven without one",
    ),
];

/// What must stand nowhere outside tests: (words, why).
const BANNED: &[(&[&str], &str)] = &[
    (&["todo!", "unimplemented!", "dbg!"], "what is here is finished"),
    (&["#[allow", "#![allow"], "a lint is obeyed, or expected with its reason"),
    (&[".unwrap()", ".unwrap_err()"], "`expect` says why it cannot fail"),
    (&["panic!"], "bad input is an error, never a panic"),
    (&["unbounded("], "every channel is bounded by a named constant"),
];

#[test]
fn the_house_is_in_order() {
    let files = rust_files(&root().join("src"));
    assert!(files.len() > 20, "the walk over src found {} files only", files.len());
    let breaches: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(root()).expect("walked from there").to_string_lossy().into_owned();
            breaches(&name, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn the_architecture_has_a_heading_for_each_room_in_order() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let headings: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("## `")?.split('`').next()).collect();
    assert_eq!(headings, HEADINGS);
}

#[test]
fn each_rule_catches_its_breach_and_lets_the_rest_pass() {
    let check = |path: &str, code: &str, expected: Option<&str>| {
        let found = breaches(path, &format!("//! A file.\n{code}"));
        match expected {
            None => assert!(found.is_empty(), "{path}: {code}: {found:?}"),
            Some(part) => {
                assert!(found.iter().any(|breach| breach.contains(part)), "{path}: {code}: {found:?}");
            }
        }
    };
    check("src/sample/mask.rs", "use crate::train::Run;", Some("src/sample/mask.rs:2: sample imports train"));
    check("src/sample/mask.rs", "use crate::{Error, cli::flags};", Some("sample imports cli"));
    check("src/sample/mask.rs", "use crate::{\n  a::B,\n  corpus::{Corpus, Io},\n};", Some("imports a"));
    check("src/sample/mask.rs", "use crate::corpus::Corpus; use crate::{Error, Result};", None);
    check("src/flow/ordered.rs", "use crate::sample::Unit;", Some("flow imports sample"));
    check("src/flow/ordered.rs", "use crate::Result;", None);
    check("src/attic/mod.rs", "", Some("no room"));
    check("src/sample/mask.rs", "use candle_core::Tensor;", Some("`candle_core`"));
    check("src/model/graph/mod.rs", "use candle_core::Tensor;", None);
    check("src/train/mod.rs", "use candle_core::Device;", Some("`candle_core`"));
    check("src/train/mod.rs", "std::thread::spawn(f);", Some("`thread::spawn`"));
    check("src/train/mod.rs", "use std::thread::{spawn};", Some("`thread::{`"));
    check("src/flow/mod.rs", "std::thread::scope(|s| s);", None);
    check("src/pipeline.rs", "use std::thread::{self, Scope};", None);
    check("src/pipeline.rs", "thread::spawn(f);", Some("`thread::spawn`"));
    check("src/corpus/index/mod.rs", "use memmap2::Mmap;", Some("`memmap2`"));
    check("src/vocab/mod.rs", "fn f() { let n = std::env::var(A); }", Some("`std::env`"));
    check("src/vocab/mod.rs", "println!(\"a\");", Some("`println!`"));
    check("src/vocab/mod.rs", "eprintln!(\"a\");", Some("`eprintln!`"));
    check("src/cli/eval.rs", "println!(\"a\");", None);
    check("src/sample/mask.rs", "unsafe { f() }", Some("`unsafe`"));
    check("src/corpus/mmap/mod.rs", "unsafe { f() }", Some("no SAFETY"));
    check("src/corpus/mmap/mod.rs", "// SAFETY: it is.\nlet x = unsafe { f() };", None);
    check("src/corpus/mmap/mod.rs", "// SAFETY: it is,\n// on two lines.\n#[inline]\nunsafe { f() }", None);
    check("src/corpus/mmap/mod.rs", "/// # Safety\n/// It is.\nunsafe fn f() {}", None);
    check("src/corpus/mmap/mod.rs", "// SAFETY: it is.\nf();\nunsafe { f() }", Some("no SAFETY"));
    check("src/flow/mod.rs", "thread::sleep(d);", Some("`thread::sleep`"));
    check("src/cli/bench/collate.rs", "thread::sleep(d);", None);
    check("src/model/mod.rs", "fn f() { todo!() }", Some("`todo!`"));
    check("src/model/mod.rs", "#[allow(dead_code)]", Some("`#[allow`"));
    check("src/model/mod.rs", "f().unwrap();", Some("`.unwrap()`"));
    check("src/model/mod.rs", "f().unwrap_or(1); let not_unsafe = 1;", None);
    check("src/model/mod.rs", "// todo!() and .unwrap()\n/* panic!() */", None);
    check("src/model/mod.rs", "let a = \"panic! \\\" todo!\"; let b = r#\"dbg! \" dbg!\"#;", None);
    check("src/model/mod.rs", "let quote = '\"'; f().unwrap();", Some("`.unwrap()`"));
    check("src/model/mod.rs", "fn f<'a>(x: &'a str) {} g().unwrap();", Some("`.unwrap()`"));
    check("src/model/mod.rs", "#[cfg(test)]\nmod tests {\n  f().unwrap();\n}", None);
    assert_eq!(breaches("src/lib.rs", "pub mod a;\n"), ["src/lib.rs:1: does not open with `//!`"]);
}

/// All breaches of the rules in one file, as `file:line: what (why)`.
fn breaches(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(format!("{path}:1: does not open with `//!`"));
    }
    let code = code_only(without_tests(text));
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let inside = |places: &[&str]| places.iter().any(|place| path.starts_with(place));

    for &(words, places, why) in CONFINED.iter().filter(|rule| !inside(rule.1)) {
        for (word, at) in words.iter().flat_map(|word| occurrences(&code, word)) {
            found.push(format!("{path}:{}: `{word}` belongs into {places:?} ({why})", line_of(at)));
        }
    }
    for &(words, why) in BANNED {
        for (word, at) in words.iter().flat_map(|word| occurrences(&code, word)) {
            found.push(format!("{path}:{}: `{word}` ({why})", line_of(at)));
        }
    }
    for (_, at) in occurrences(&code, "unsafe").filter(|(_, at)| !has_safety(text, line_of(*at))) {
        found.push(format!("{path}:{}: `unsafe` with no SAFETY paragraph above", line_of(at)));
    }
    found.extend(import_breaches(path, &code, line_of));
    found
}

/// Imports of later rooms, of rooms that this one must not know, and of what is no room at all.
fn import_breaches(path: &str, code: &str, line_of: impl Fn(usize) -> usize) -> Vec<String> {
    let below = path.strip_prefix("src/").unwrap_or(path);
    let room = below.split('/').next().unwrap_or(below).trim_end_matches(".rs");
    if ["lib", "main"].contains(&room) {
        return vec![];
    }
    let Some(rank) = ROOMS.iter().position(|&r| r == room) else {
        return vec![format!("{path}:1: {room} is no room: give it a place in ROOMS")];
    };
    let unknown = UNKNOWN_TO.iter().filter(|(of, ..)| *of == room);
    imports(code)
        .into_iter()
        .filter_map(|(imported, at)| {
            let why = match ROOMS.iter().position(|&r| r == imported) {
                None => Some("which is no room"),
                Some(other) if other > rank => Some("which lies later in the order of the data"),
                Some(_) => {
                    unknown.clone().find(|(_, what, _)| what.contains(&imported)).map(|(.., why)| *why)
                }
            };
            why.map(|why| format!("{path}:{}: {room} imports {imported} ({why})", line_of(at)))
        })
        .collect()
}

/// The rooms named behind `crate::`, alone or at the first level of a group; types re-exported at the
/// root begin with a capital and are everybody's.
fn imports(code: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for (_, at) in occurrences(code, "crate::") {
        let start = at + "crate::".len();
        let Some(group) = code[start..].strip_prefix('{') else {
            found.push((identifier(&code[start..]), at));
            continue;
        };
        let mut depth = 0;
        let mut expects_name = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => expects_name = true,
                c if expects_name && !c.is_whitespace() => {
                    found.push((identifier(&group[i..]), at));
                    expects_name = false;
                }
                _ => {}
            }
        }
    }
    found.retain(|(name, _)| name.starts_with(|c: char| c.is_lowercase()));
    found
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Where `word` stands in `code` as a word of its own.
fn occurrences<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = (&'c str, usize)> + use<'c> {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).filter_map(move |(at, _)| {
        let glued_before = part_of_word(word.chars().next()) && part_of_word(code[..at].chars().next_back());
        let glued_after =
            part_of_word(word.chars().next_back()) && part_of_word(code[at + word.len()..].chars().next());
        (!glued_before && !glued_after).then_some((word, at))
    })
}

/// Whether the comment right above `line` (from 1), attributes aside, or the line itself says `SAFETY:`.
fn has_safety(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).take(line).collect();
    let Some((own, above)) = lines.split_last() else { return false };
    let comment = above.iter().rev().skip_while(|l| l.starts_with("#[")).take_while(|l| l.starts_with("//"));
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    says(own) || comment.copied().any(says)
}

/// The text before the file's test module, which stands last.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

/// The code with comments and the insides of literals blanked out, line for line.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let previous_is_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let blanked = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string_end(rest)
        } else if first == 'r' && !previous_is_name && raw_string_end(rest).is_some() {
            raw_string_end(rest).expect("just seen")
        } else if first == '\'' {
            char_end(rest).unwrap_or(0)
        } else {
            0
        };
        if blanked == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..blanked].chars().filter(|&c| c == '\n'));
            rest = &rest[blanked..];
        }
    }
    code
}

/// Length of the string literal that `text` begins with.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the raw string literal that `text` begins with, if it does.
fn raw_string_end(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|&c| c == '#').count();
    text[1 + hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    Some(text[body..].find(&closing).map_or(text.len(), |end| body + end + closing.len()))
}

/// Length of the character literal that `text` begins with; a lifetime is none.
fn char_end(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        let (escaped_at, escaped) = chars.next()?;
        let from = escaped_at + escaped.len_utf8();
        return text[from..].find('\'').map(|end| from + end + 1);
    }
    let (at, next) = chars.next()?;
    (next == '\'').then_some(at + 1)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
