//! Help that is true: every command has examples, and each of them runs as it is typed.

use std::process::Command;

use super::toy::Place;

/// Every command, subcommands included, with its help.
fn all_help(place: &Place) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut wanted = vec![String::new()];
    while let Some(command) = wanted.pop() {
        let help = place.good(format!("{command} --help").trim_start()).stdout;
        let below = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names = below.take_while(|line| line.starts_with("  ")).filter(|line| !line.starts_with("   "));
        let names: Vec<String> =
            names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
        wanted.extend(names.iter().filter(|name| *name != "help").map(|name| format!("{command} {name}")));
        all.push((command.trim_start().to_owned(), help));
    }
    assert!(all.len() > 25, "{} commands", all.len());
    all
}

/// The commands under "Example:", continued lines joined.
fn examples(help: &str) -> Vec<String> {
    let below = help.lines().skip_while(|line| !["Example:", "Examples:"].contains(line)).skip(1);
    let text: String = below.map(|line| format!("{line}\n")).collect();
    let joined = text.replace("\\\n", "");
    joined
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|l| !l.is_empty())
        .collect()
}

#[test]
fn every_example_runs_as_it_is_typed() {
    let place = Place::with_lines(200);
    let sentences =
        |file: &str| String::from_utf8(place.read(file)).unwrap().replace('\t', "\n").replace('\n', "\n\n");
    place.write("train.txt", sentences("train.tsv"));
    place.write("held-out.txt", sentences("held-out.tsv"));
    place.write("lines.txt", "the cook bakes bread .\nthe king sleeps .\n");
    place.good("tokenizer train -c train.txt -s 200 -o tokenizer.json");
    let train = "train -c train.txt -v tokenizer.json -o run --size tiny -s 32 -b 16 --steps 3";
    place.good(train);
    place.good(&train.replace("-o run ", "-o run-2 "));
    place.good("export run my-bert");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_bertstream"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for (command, help) in all_help(&place) {
        let examples = examples(&help);
        let groups = help.lines().any(|line| line == "Commands:");
        assert!(groups || !examples.is_empty(), "{command} has no example:\n{help}");
        for example in examples {
            assert!(example.starts_with("bertstream "), "{command}: {example}");
            // A run and an export are made where nothing is.
            for flag in ["--output ", "export run "] {
                let Some(name) = example.split(flag).nth(1).and_then(|rest| rest.split(' ').next()) else {
                    continue;
                };
                if place.path(name).is_dir() {
                    std::fs::remove_dir_all(place.path(name)).unwrap();
                }
            }
            let output = Command::new("sh")
                .args(["-c", &example])
                .current_dir(place.path(""))
                .env("PATH", &path)
                .env("XDG_CACHE_HOME", place.path("cache"))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{example}: {}: {said}", output.status);
        }
    }
}

/// Whoever asks for help wants to know what happens without the flag.
#[test]
fn every_flag_with_a_value_tells_its_default_or_is_off_without_it() {
    let place = Place::empty();
    for (command, help) in all_help(&place) {
        // A line that is wrapped is no longer typed as it stands.
        let examples = help.lines().skip_while(|line| !line.starts_with("Example"));
        examples.for_each(|line| assert!(line.chars().count() <= 80, "{command}: too wide: {line}"));
        for line in help.lines().filter(|line| line.trim_start().starts_with("--") && line.contains('<')) {
            let after = help.split(line).nth(1).unwrap_or_default();
            let told: Vec<&str> = after.lines().skip(1).take_while(|l| !l.starts_with("      --")).collect();
            assert!(!told.join("").trim().is_empty(), "{command} {line}: nothing is said of it");
        }
    }
}

#[test]
fn shells_and_manuals_know_every_command() {
    let place = Place::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.good(&format!("completions {shell}")).stdout;
        for part in ["fill-mask", "histogram-every", "quickstart"] {
            assert!(script.contains(part), "{shell} knows no {part}");
        }
    }
    place.good("man pages");
    let page = String::from_utf8(place.read("pages/bertstream-train.1")).unwrap();
    assert!(page.contains("seq\\-len") && page.contains("Examples:"), "{page}");
    for name in ["bertstream.1", "bertstream-bench-step.1", "bertstream-tokenizer-encode.1"] {
        assert!(!place.read(&format!("pages/{name}")).is_empty());
    }
    let version = place.good("--version").stdout;
    assert!(version.starts_with(concat!("bertstream ", env!("CARGO_PKG_VERSION"), "\n")), "{version}");
    assert!(
        ["built for", "elementwise", "f32", "bf16"].iter().all(|part| version.contains(part)),
        "{version}"
    );
}
