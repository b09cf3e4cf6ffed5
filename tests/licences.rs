//! `docs/THIRD_PARTY.md` names every package that the program can be built of, with a licence that lets it be
//! given away under this program's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Licences of which at least one must be among those of a package: all of them permissive.
const FINE: [&str; 12] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
    "Unicode-3.0",
];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// (name, version) of all packages of Cargo.lock that come from elsewhere.
fn locked() -> BTreeSet<(String, String)> {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let packages =
        lock["package"].as_array().unwrap().iter().filter(|package| package.get("source").is_some());
    packages
        .map(|package| ["name", "version"].map(|field| package[field].as_str().unwrap().to_owned()).into())
        .collect()
}

#[test]
fn every_package_is_listed_with_a_licence_that_suits() {
    let text = read("docs/THIRD_PARTY.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| package"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let listed: BTreeSet<_> = rows.iter().map(|row| (row[1].to_owned(), row[2].to_owned())).collect();
    assert_eq!(listed, locked(), "run `python3 scripts/licences.py`");
    for row in rows {
        let all_needed = row[3].split(" AND ").map(|part| part.trim_matches(['(', ')']));
        for part in all_needed {
            let fine = part.split(" OR ").any(|one| {
                let one = one.trim_matches(['(', ')']).split(" WITH ").next().unwrap_or_default();
                FINE.contains(&one)
            });
            assert!(fine, "{}: {}", row[1], row[3]);
        }
    }
}
