//! Patterns for names of files. Takes a path, gives the files that it stands for. Knows nothing of what they hold.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern, glob_with};

use crate::{Error, ErrorKind, Result};

/// Ends of the names of files that are kept beside a corpus, which no pattern means.
const OURS: [&str; 5] = [".bsidx", ".bstok", ".bstok.part", ".utf8", ".unpacked"];

/// The files that `path` stands for: itself, or, where it is the name of no file and has `*`, `?` or `[...]` in it, all
/// files whose names match, sorted by name. Names that begin with a dot are matched by a dot only.
///
/// # Errors
/// [`ErrorKind::MissingInput`] where nothing matches, [`ErrorKind::Usage`] where it is no pattern,
/// [`ErrorKind::Io`] where a directory cannot be read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(pattern) = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists()) else {
        return Ok(vec![path.to_owned()]);
    };
    let options = MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    let paths = glob_with(pattern, options).map_err(|error| {
        let escaped = Pattern::escape(pattern);
        Error::usage(format!("--corpus {pattern}: {error}; a file of this very name is written {escaped}"))
    })?;
    let mut files = Vec::new();
    for found in paths {
        let found = found.map_err(|error| Error::reading(error.path(), error.error().kind().into()))?;
        let ours = OURS.iter().any(|end| found.as_os_str().as_encoded_bytes().ends_with(end.as_bytes()));
        if found.is_file() && !ours {
            files.push(found);
        }
    }
    if files.is_empty() {
        return Err(Error::new(
            ErrorKind::MissingInput,
            format!("corpus {pattern}: no file has such a name"),
        ));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_its_files_by_name_and_a_name_is_itself() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "b.txt",
            "a.txt",
            "c.txt.bsidx",
            "c.txt.00.bstok",
            "c.txt.gz.00.unpacked",
            ".d.txt",
            "e[1].txt",
            "f.tsv",
        ] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        std::fs::create_dir(directory.path().join("g.txt")).unwrap();
        let check = |pattern: &str, expected: &[&str]| {
            let found = files(&directory.path().join(pattern)).unwrap();
            let expected: Vec<PathBuf> = expected.iter().map(|name| directory.path().join(name)).collect();
            assert_eq!(found, expected, "{pattern}");
        };
        check("*.txt", &["a.txt", "b.txt", "e[1].txt"]);
        check("?.t*", &["a.txt", "b.txt", "f.tsv"]);
        check("[a-b].txt", &["a.txt", "b.txt"]);
        check("*", &["a.txt", "b.txt", "e[1].txt", "f.tsv"]);
        check("e[1].txt", &["e[1].txt"]);
        check("missing.txt", &["missing.txt"]);
        for (pattern, kind) in [("*.md", ErrorKind::MissingInput), ("a[.txt", ErrorKind::Usage)] {
            assert_eq!(files(&directory.path().join(pattern)).unwrap_err().kind(), kind, "{pattern}");
        }
    }
}
