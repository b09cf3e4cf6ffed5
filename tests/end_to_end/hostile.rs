//! Files that mean harm, or come to harm, and the same text in every guise: what the whole program makes of them,
//! within limits of memory and of processor time that the system enforces.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use flate2::write::GzEncoder;

use super::toy::{Place, Ran};

const SHAPE: &str = "--hidden 8 --layers 1 --attn-heads 2 --seq-len 16 --batch-size 8";

/// Address space of a limited command, in KiB: twice what the program takes by itself with its libraries and the
/// stacks of its threads, and far less than the files below.
const SPACE: u64 = 512 << 10;

/// Runs a command within [`SPACE`] and 20 seconds of processor time: whoever takes more is killed.
fn limited(place: &Place, flags: &str) -> Ran {
    let limits = format!("ulimit -v {SPACE} && ulimit -t 20 && exec \"$0\" \"$@\"");
    let program = place.command("");
    let mut command = Command::new("sh");
    command.arg("-c").arg(limits).arg(program.get_program()).args(flags.split_whitespace());
    command.current_dir(place.path("")).stdin(Stdio::null()).env("XDG_CACHE_HOME", place.path("cache"));
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    let code = output.status.code().unwrap_or_else(|| panic!("{flags}: {}: {stderr}", output.status));
    assert!(!stderr.contains("panicked"), "{flags}: {stderr}");
    Ran { code, stdout, stderr }
}

/// A file with a hole of this length between two texts.
fn sparse(place: &Place, name: &str, before: &str, hole: u64, after: &str) {
    place.write(name, before);
    let mut file = File::options().append(true).open(place.path(name)).unwrap();
    file.set_len(before.len() as u64 + hole).unwrap();
    file.write_all(after.as_bytes()).unwrap();
}

#[test]
fn a_hostile_vocabulary_is_bad_data_and_never_a_panic() {
    let place = Place::with_lines(40);
    let wordpiece =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tokenizers/wordpiece.json"));
    let wordpiece = wordpiece.unwrap();
    let model = |vocab: &str| {
        format!(
            r#"{{"model":{{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"","max_input_chars_per_word":0,"vocab":{vocab}}}}}"#
        )
    };
    let roles = r#""[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"[MASK]":4"#;
    for (name, content) in [
        ("nested.json", "[".repeat(1 << 20)),
        ("nested-deep.json", format!("{{\"model\":{}", "{\"a\":".repeat(1 << 18))),
        ("cut.json", wordpiece[..wordpiece.len() / 2].to_owned()),
        ("parts.json", wordpiece.replace("BertPreTokenizer", "Exec")),
        ("no-roles.json", model(r#"{"[UNK]":0,"a":1}"#)),
        ("gap.json", model(&format!("{{{roles},\"a\":7}}"))),
        ("twice.json", model(&format!("{{{roles},\"a\":5,\"b\":5}}"))),
        ("huge-id.json", model(&format!("{{{roles},\"a\":99999999999999999999}}"))),
        ("negative.json", model(&format!("{{{roles},\"a\":-1}}"))),
        ("twice.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n".to_owned()),
        ("no-roles.txt", "a\nb\n".to_owned()),
        ("empty.json", String::new()),
        ("empty.txt", String::new()),
    ] {
        place.write(name, content);
        let ran = limited(&place, &format!("sample -c train.tsv -v {name} --limit 1 --workers 1"));
        assert_eq!(ran.code, 65, "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(name) && ran.stdout.is_empty(), "{name}: {}", ran.stderr);
    }
    for name in ["large.json", "large.txt"] {
        sparse(&place, name, "{\"model\": \"", 1 << 30, "\"}");
        let ran = limited(&place, &format!("sample -c train.tsv -v {name} --limit 1 --workers 1"));
        assert_eq!(ran.code, 65, "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains("larger than"), "{name}: {}", ran.stderr);
    }
}

#[test]
fn a_line_of_a_gigabyte_takes_the_memory_of_any_other() {
    let place = Place::with_lines(300);
    let text = String::from_utf8(place.read("train.tsv")).unwrap();
    sparse(&place, "long.tsv", &text, 1 << 30, "\nthe last\tline here\n");
    let reading = "-c long.tsv --io pread";
    let ran = limited(&place, &format!("corpus --check {reading}"));
    assert_eq!(ran.code, 65, "{}", ran.stderr);
    assert!(ran.stdout.contains("longer than may be"), "{}", ran.stdout);
    let sample = format!("sample {reading} -v vocab.json --no-shuffle --workers 2");
    let ran = limited(&place, &sample.replace("--no-shuffle", "--shuffle none --pair none"));
    assert_eq!(ran.code, 65, "{}", ran.stderr);
    assert!(ran.stderr.contains("line 301: 1073741824 bytes"), "{}", ran.stderr);
    let ran = limited(&place, &format!("{} --on-bad-line skip", sample.replace("--no-shuffle", "")));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(limited(&place, "vocab -c long.tsv -o long.json --ram 96M --workers 2").code, 0);
}

/// What cannot give a sample ends at once, and what can by another setting says by which.
#[test]
fn too_little_text_is_bad_data_and_never_an_endless_loop() {
    let place = Place::with_lines(40);
    for (name, content, format) in [
        ("empty.tsv", "", "pairs"),
        ("mark.tsv", "\u{feff}", "pairs"),
        ("blank.tsv", "\n\n \n\r\n", "pairs"),
        ("blank.txt", "\n\n \n\r\n\u{3000}\n", "sentences"),
        ("blank.jsonl", "\n\n", "jsonl"),
        ("one.tsv", "a b\tc d\n", "pairs"),
        ("one.txt", "a b\nc d\n", "sentences"),
        ("one.jsonl", "{\"text\": \"a b. C d.\"}", "jsonl"),
        ("alike.tsv", "a\tb\nc\tb\nd\tb\n", "pairs"),
    ] {
        place.write(name, content);
        for flags in ["", "--on-bad-line skip"] {
            let flags = format!(
                "train -c {name} --corpus-format {format} -v vocab.json -o run --steps 9 --next-rate 0.01 {SHAPE} {flags}"
            );
            let ran = limited(&place, &flags);
            assert_eq!(ran.code, 65, "{flags}: {}", ran.stderr);
            assert!(ran.stderr.contains(name), "{flags}: {}", ran.stderr);
            let _ = fs::remove_dir_all(place.path("run"));
        }
    }
}

#[test]
fn thirteen_guises_of_a_text_are_one_corpus() {
    let place = Place::empty();
    let text: String =
        (0..40).map(|i| format!("caf\u{e9} num\u{e9}ro {i}\t\u{fc}ber {} alles\n", i * i)).collect();
    place.write("plain.tsv", &text);
    place.good("vocab -c plain.tsv -o vocab.json");
    let cut = text.trim_end().to_owned();
    let crlf = text.replace('\n', "\r\n");
    let utf16 =
        |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(bytes).collect() };
    let marked = format!("\u{feff}{text}");
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    let digest = |name: &str, content: &[u8], encoding: &str| {
        place.write(name, content);
        let flags =
            format!("collate -c {name} --encoding {encoding} -v vocab.json --seq-len 16 --batch-size 8");
        let ran = place.good(&format!("{flags} --format safetensors -o batches --corpus-format pairs"));
        fs::remove_file(place.path("batches")).unwrap();
        let digest =
            ran.stderr.lines().find_map(|line| line.strip_prefix("digest")).map(str::trim).map(str::to_owned);
        digest.unwrap_or_else(|| panic!("{name}: {}", ran.stderr))
    };
    let expected = digest("plain.tsv", text.as_bytes(), "utf-8");
    for (name, content, encoding) in [
        ("crlf", crlf.clone().into_bytes(), "utf-8"),
        (
            "mixed",
            [&crlf[..crlf.find('\n').unwrap() + 1], &text[text.find('\n').unwrap() + 1..]]
                .concat()
                .into_bytes(),
            "utf-8",
        ),
        ("cut", cut.clone().into_bytes(), "utf-8"),
        ("marked", marked.clone().into_bytes(), "utf-8"),
        ("marked-crlf-cut", format!("\u{feff}{}", cut.replace('\n', "\r\n")).into_bytes(), "utf-8"),
        ("utf-16le", utf16(&text, u16::to_le_bytes), "utf-16le"),
        ("utf-16be", utf16(&crlf, u16::to_be_bytes), "utf-16be"),
        ("utf-16-little", utf16(&marked, u16::to_le_bytes), "utf-16"),
        ("utf-16-big", utf16(&marked, u16::to_be_bytes), "utf-16"),
        ("latin1", text.chars().map(|c| c as u8).collect(), "latin1"),
        ("gzip.gz", gzip.finish().unwrap(), "utf-8"),
        ("zstd.zst", zstd::encode_all(text.as_bytes(), 3).unwrap(), "utf-8"),
    ] {
        assert_eq!(digest(name, &content, encoding), expected, "{name}");
    }
}

/// Ten gigabytes of zeros from a third of a megabyte, and the like for gzip: refused where no text would compress
/// so well, and nothing stays on the disk.
#[test]
fn a_decompression_bomb_is_bad_data_within_little_memory() {
    let place = Place::with_lines(40);
    let zeros = vec![b' '; 128 << 20];
    let frame = zstd::encode_all(&zeros[..], 1).unwrap();
    let mut member = GzEncoder::new(Vec::new(), flate2::Compression::best());
    member.write_all(&zeros[..32 << 20]).unwrap();
    for (name, bomb, times) in [("a.zst", frame, 80), ("a.gz", member.finish().unwrap(), 20)] {
        place.write(name, bomb.repeat(times));
        let ran = limited(
            &place,
            &format!("sample -c {name} --corpus-format text -v vocab.json --limit 1 --workers 1"),
        );
        assert_eq!(ran.code, 65, "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains("times its own length"), "{name}: {}", ran.stderr);
    }
    let left = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap());
    let large: Vec<_> = left.filter(|entry| entry.metadata().unwrap().len() > 16 << 20).collect();
    assert!(large.is_empty(), "{large:?}");
}

/// The training ends with a checkpoint, and goes on when the corpus is whole again, to the weights of a run that
/// nothing happened to. The reader in pieces has kept a corpus as small as this one, and reaches its end at once.
#[test]
fn a_corpus_cut_off_in_a_training_costs_no_step() {
    let place = Place::with_lines(300);
    let run = format!("train -c train.tsv -v vocab.json {SHAPE} --steps 300 --log-freq 1");
    place.good(&format!("{run} -o whole"));
    let text = place.read("train.tsv");
    for (io, workers, length, code) in [("mmap", 0, 0, 74), ("mmap", 3, 5000, 74), ("pread", 2, 5000, 0)] {
        let name = format!("{io}-{workers}");
        let mut child =
            place.command(&format!("{run} -o {name} --io {io} --workers {workers}")).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.lines().any(|line| line.split_whitespace().take(2).eq(["step", "20"])) {
            assert_ne!(told.read_line(&mut said).unwrap(), 0, "it ended before step 20: {said}");
        }
        File::options().write(true).open(place.path("train.tsv")).unwrap().set_len(length).unwrap();
        told.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{name}: {said}");
        assert_eq!(said.contains("train.tsv: it shrank from"), code == 74, "{name}: {said}");
        place.write("train.tsv", &text);
        if code == 74 {
            place.good(&format!("train --resume {name}"));
        }
        for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
            let same = place.read(&format!("{name}/{file}")) == place.read(&format!("whole/{file}"));
            assert!(same, "{name}: {file} differs");
        }
    }
}
