//! Configurations in files: flags come before them, a run writes its own, and that makes the run again.

use super::toy::{Place, Ran};

/// A model that takes a millisecond a step.
const TINY: &str = "--hidden 16 --layers 1 --attn-heads 2 --seq-len 24 --batch-size 16";

#[test]
fn a_run_is_made_again_from_what_it_wrote() {
    let place = Place::with_lines(200);
    place.good("tokenizer train -c train.tsv --model wordpiece --vocab-size 200 -o tokenizer.json");
    place.write("docs.txt", "one two three.\nfour five six.\nseven eight.\n\n".repeat(40));
    place.write("more.txt", "eight seven.\nsix five four.\n\n".repeat(40));
    let json =
        "{\"body\": \"One two. Three four five. Six.\"}\n{\"body\": \"Seven. Eight two.\"}\n".repeat(40);
    place.write("docs.jsonl", &json);
    std::fs::create_dir_all(place.path("shards")).unwrap();
    place.write("shards/a.txt", place.read("docs.txt"));
    place.write("shards/b.txt", place.read("more.txt"));
    place.write("bad.tsv", [&b"one \xff two\tthree four\n".repeat(4)[..], &place.read("train.tsv")].concat());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &place.read("train.tsv")).unwrap();
    place.write("packed.tsv.gz", gzip.finish().unwrap());
    place.good("vocab -c train.tsv --tokens char -o letters.json");
    place.good("tokenize -c train.tsv -v vocab.json -o elsewhere.bstok");
    for (corpus, samples) in [("train.tsv", "ready.jsonl"), ("held-out.tsv", "ready-test.jsonl")] {
        let made = place.good(&format!("sample -c {corpus} -v vocab.json --seq-len 24 --limit 99 --json"));
        place.write(samples, made.stdout);
    }
    let words = "-c train.tsv -v vocab.json";
    for (at, flags) in [
        format!("{words} -t held-out.tsv --eval-lines 50 {TINY} --steps 8 --seed 18446744073709551615"),
        format!(
            "{words} --preset reference --hidden 16 --layers 1 --attn-heads 2 --steps 6 --corpus-lines 90"
        ),
        "-c train.tsv -v tokenizer.json --size tiny --precision bf16 --steps 3 --mask-unit word".to_owned(),
        format!(
            "-c docs.txt:2 -c more.txt:1 -v tokenizer.json {TINY} --epochs 1 --accumulate 2 --pad packed"
        ),
        format!("{words} {TINY} --steps 5 --engine graph --clip 0 --lr 3e-5 --warmup 0 --on-bad-line skip"),
        format!("{words} {TINY} --steps 3 --tokens elsewhere.bstok --io pread"),
        format!("-c train.tsv -v letters.json {TINY} --steps 3 --index-dir indices --workers 0"),
        format!("-c docs.jsonl --field body -t docs.jsonl -v tokenizer.json {TINY} --steps 3 --pair sop"),
        format!("-c shards/*.txt --io memory -v tokenizer.json {TINY} --steps 3 --shuffle blocks"),
        format!("-c shards --corpus-format text -v tokenizer.json {TINY} --steps 3 --pair none"),
        format!("-c packed.tsv.gz -t held-out.tsv -v vocab.json {TINY} --steps 3 --mask-unit ngram"),
        format!("-c bad.tsv -t bad.tsv -v vocab.json {TINY} --steps 3 --on-bad-bytes replace"),
        format!("--samples ready.jsonl -t held-out.tsv -v vocab.json {TINY} --steps 3"),
        format!("-c ready.jsonl -t ready-test.jsonl --corpus-format samples -v vocab.json {TINY} --steps 3"),
    ]
    .iter()
    .enumerate()
    {
        place.good(&format!("train {flags} -o first-{at}"));
        same_again(&place, &format!("first-{at}"));
    }
    place.good("quickstart -o toy --steps 4 --quiet");
    same_again(&place, "toy");
    // A run of weights that came from elsewhere.
    place.good("export first-2 my-bert");
    place.good("train --init my-bert -c train.tsv --seq-len 24 --batch-size 16 --steps 3 -o continued");
    same_again(&place, "continued");
}

fn same_again(place: &Place, run: &str) {
    let again = format!("{run}-again");
    place.good(&format!("train --config {run}/run.toml -o {again}"));
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "config.json", "run.toml"] {
        let same = place.read(&format!("{run}/{file}")) == place.read(&format!("{again}/{file}"));
        assert!(same, "{file} of {again} differs");
    }
}

#[test]
fn a_flag_comes_before_the_file_the_file_before_the_preset_and_that_before_the_default() {
    let place = Place::with_lines(100);
    place.write(
        "run.toml",
        "corpus = \"train.tsv\"\nvocab = \"vocab.json\"\noutput = \"run\"\npreset = \"reference\"\n\
         seq_len = 24 # spelled as the reference does\nhidden = 0x10\nlayers = 1\nattn-heads = 2\n\
         batch-size = 1_6\nsteps = 2\nquiet = true\npredict-unknown = false\n",
    );
    let ran = place.good("train --config run.toml --hidden 8 --corpus train.tsv");
    assert_eq!(ran.stderr, "", "quiet");
    let config = place.json("run/config.json");
    assert_eq!(config["model"]["hidden"], 8, "the flag");
    assert_eq!((&config["sample"]["seq_len"], &config["collate"]["batch_size"]), (&24.into(), &16.into()));
    assert_eq!(config["sample"]["predict_unknown"], false, "the file");
    assert_eq!(config["sample"]["mask_count"], "bernoulli", "the preset");
    assert_eq!(config["sample"]["seed"], 42, "the default");
    assert_eq!(config["data"]["corpus"]["path"], "train.tsv", "the flag's corpus in place of the file's");
}

#[test]
fn what_a_file_cannot_mean_is_refused_with_its_line() {
    let place = Place::with_lines(10);
    let check = |text: &str, code: i32, named: &[&str]| {
        place.write("run.toml", format!("corpus = \"train.tsv\"\nvocab = \"vocab.json\"\n{text}"));
        let Ran { code: found, stderr, .. } = place.run("train --config run.toml --output run");
        assert_eq!(found, code, "{text}: {stderr}");
        named.iter().for_each(|part| assert!(stderr.contains(part), "{text}: no {part:?} in {stderr}"));
        assert!(!place.path("run").exists(), "{text}");
    };
    check("hiden = 64\n", 2, &["run.toml:3: unknown key hiden: did you mean hidden?"]);
    check("\nbatchsize = 64\n", 2, &["run.toml:4:", "batch-size"]);
    check("colour = 1\n", 2, &["run.toml:3: unknown key colour", "`bertstream config`"]);
    check("resume = \"run\"\n", 2, &["run.toml:3: unknown key resume"]);
    check("pad = \"longst\"\n", 2, &["run.toml:3: ", "longst", "longest, fixed, packed"]);
    check("seed = 1\nsteps = 0\n", 2, &["run.toml:4: ", "--steps", "at least 1"]);
    check("hidden = [64]\n", 2, &["run.toml:3: hidden: one value"]);
    check("hidden = 1979-05-27\n", 2, &["run.toml:3: hidden: no flag takes a date"]);
    check("quiet = 1\n", 2, &["run.toml:3: quiet: true or false"]);
    check("[model]\nhidden = 64\n", 2, &["run.toml:3: unknown key model"]);
    check("hidden = 64\nhidden = 65\n", 2, &["run.toml:4: no TOML: "]);
    check("seq-len = 64\nseq_len = 65\n", 2, &["run.toml:4: seq_len is line 3 already"]);
    check("hidden = \n", 2, &["run.toml:3: no TOML: "]);
    check("io = \"mmap\"\nsize = \"tiny\"\ninit = \"x\"\n", 2, &["run.toml: ", "--init", "--size"]);
    let missing = place.run("train --config none.toml --output run");
    assert_eq!((missing.code, missing.stderr.contains("none.toml")), (66, true), "{}", missing.stderr);
    place.write("bytes.toml", b"corpus = \"\xff\"");
    let bytes = place.run("train --config bytes.toml --output run");
    assert_eq!((bytes.code, bytes.stderr.contains("UTF-8")), (2, true), "{}", bytes.stderr);
    let corpus = "output = \"run\"\ncorpus = \"train.tsv\"";
    for (text, named) in [("", "--output"), ("output = \"run\"", "--corpus"), (corpus, "--vocab")] {
        place.write("run.toml", text);
        let ran = place.run("train --config run.toml");
        assert_eq!((ran.code, ran.stderr.contains(named)), (2, true), "{}", ran.stderr);
    }
    let both = place.run("train --config run.toml --resume run");
    assert_eq!(both.code, 2, "a run that goes on has its own configuration: {}", both.stderr);
}

#[test]
fn the_template_trains_as_it_is_and_with_each_line_switched_on() {
    let place = Place::with_lines(40);
    place.good("tokenizer train -c train.tsv --model wordpiece --vocab-size 200 -o tokenizer.json");
    place.write("train.txt", place.read("train.tsv"));
    let template = place.good("config").stdout;
    place.write("run.toml", &template);
    place.good("train --config run.toml --size tiny --steps 1");
    assert!(place.path("run/model.safetensors").is_file());
    // Keys with a default mean that default; what stands in angle brackets is replaced before it is used.
    let on: String = template
        .lines()
        // Text that is no JSON has no fields, and nothing is written for TensorBoard.
        .filter(|line| {
            !line.starts_with("# ")
                && !line.contains('<')
                && !["#field", "#histogram", "#examples"].iter().any(|key| line.starts_with(key))
        })
        .map(|line| line.trim_start_matches('#').to_owned() + "\n")
        .collect();
    place.write("all.toml", on);
    place.good("train --config all.toml --size tiny --steps 1 --threads 1 --output all");
}
