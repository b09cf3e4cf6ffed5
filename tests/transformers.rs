//! Models in transformers' format: what is written is read, what is strange is refused and named, and a model
//! means the same from either side. That transformers itself agrees is shown by
//! `scripts/check_in_transformers.sh`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use bertstream::model::{Arch, Init, Layout, ModelConfig};
use bertstream::train::transformers::{Imported, export, import};
use bertstream::vocab::{Tokenizer, WordVocab};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

fn words() -> WordVocab {
    WordVocab::from_texts(["one two three four", "one two three", "one two", "one"], None, 1)
}

fn model(vocab: &WordVocab) -> ModelConfig {
    ModelConfig {
        arch: Arch::Bert,
        vocab_size: vocab.len(),
        hidden: 8,
        layers: 2,
        heads: 2,
        dropout: 0.1,
        init: Init::Bert,
        max_positions: 12,
    }
}

/// Weights in which no two parameters are alike.
fn weights(model: &ModelConfig) -> Vec<f32> {
    let layout = Layout::new(&ModelConfig { init: Init::Torch, ..model.clone() });
    layout.initial_weights(5).iter().enumerate().map(|(i, w)| w + 1e-3 * (i % 17) as f32).collect()
}

/// An exported model in a directory of its own.
struct Exported {
    place: TempDir,
    weights: Vec<f32>,
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

impl Exported {
    fn new() -> Self {
        let (place, vocab) = (tempfile::tempdir().unwrap(), words());
        let weights = weights(&model(&vocab));
        export::write(&place.path().join("m"), &model(&vocab), &weights, &vocab, "# a card\n").unwrap();
        Self { place, weights }
    }

    fn path(&self) -> std::path::PathBuf {
        self.place.path().join("m")
    }

    fn file(&self) -> std::path::PathBuf {
        self.path().join("model.safetensors")
    }

    fn tensors(&self) -> Tensors {
        let bytes = fs::read(self.file()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let entry = |(name, view): (String, TensorView<'_>)| {
            (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        file.tensors().into_iter().map(entry).collect()
    }

    fn read(&self) -> bertstream::Result<Imported> {
        import::read(&self.path(), 3)
    }
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The tensors under other names, or without some.
fn renamed(tensors: &Tensors, name: impl Fn(&str) -> Option<String>) -> Tensors {
    tensors.iter().filter_map(|(old, tensor)| Some((name(old)?, tensor.clone()))).collect()
}

/// Every value through `f`.
fn converted(tensors: &Tensors, dtype: Dtype, f: impl Fn(f32) -> u16) -> Tensors {
    let convert = |(name, (_, shape, bytes)): (&String, &(Dtype, Vec<usize>, Vec<u8>))| {
        let values = bytes.as_chunks::<4>().0.iter().map(|&b| f(f32::from_le_bytes(b)));
        (name.clone(), (dtype, shape.clone(), values.flat_map(u16::to_le_bytes).collect()))
    };
    tensors.iter().map(convert).collect()
}

#[test]
fn what_is_exported_is_imported_and_the_pair_classes_are_theirs() {
    let exported = Exported::new();
    let back = exported.read().unwrap();
    assert_eq!(back.model, model(&words()));
    assert_eq!(back.weights, exported.weights);
    assert!(back.report.fresh.is_empty());
    let ours = &exported.weights[Layout::new(&back.model).outer().nsp_bias];
    let (_, _, theirs) = &exported.tensors()["cls.seq_relationship.bias"];
    assert_eq!(*theirs, [ours[1].to_le_bytes(), ours[0].to_le_bytes()].concat());
    assert_eq!(fs::read_to_string(exported.path().join("README.md")).unwrap(), "# a card\n");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(exported.path().join(name)).unwrap()).unwrap()
    };
    let config = read("config.json");
    assert_eq!((&config["hidden_act"], &config["hidden_dropout_prob"]), (&json!("gelu"), &json!(0.1)));
    assert_eq!(read("tokenizer.json")["model"]["vocab"]["one"], 5);
    assert_eq!(read("tokenizer_config.json")["mask_token"], "<mask>");
}

#[test]
fn a_directory_with_something_in_it_and_the_reference_are_refused() {
    let (place, vocab) = (tempfile::tempdir().unwrap(), words());
    let bert = model(&vocab);
    let export = |path: &Path, model: &ModelConfig| {
        export::write(path, model, &weights(model), &vocab, "").map_err(|error| error.kind().exit_code())
    };
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(export(&empty, &bert), Ok(()));
    assert_eq!(export(&empty, &bert), Err(73));
    fs::write(place.path().join("file"), "x").unwrap();
    assert_eq!(export(&place.path().join("file"), &bert), Err(73));
    let reference = ModelConfig { arch: Arch::Reference, ..bert };
    assert_eq!(export(&place.path().join("new"), &reference), Err(2));
    assert!(!place.path().join("new").exists());
}

#[test]
fn older_smaller_and_divided_checkpoints_are_read() {
    let exported = Exported::new();
    let tensors = exported.tensors();
    let old = renamed(&tensors, |name| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        Some(name.replace("LayerNorm.bias", "LayerNorm.beta"))
    });
    let mut tied = old.clone();
    let (dtype, shape, bytes) = tensors["bert.embeddings.word_embeddings.weight"].clone();
    tied.insert("cls.predictions.decoder.weight".to_owned(), (dtype, shape, bytes));
    tied.insert("cls.predictions.decoder.bias".to_owned(), tensors["cls.predictions.bias"].clone());
    tied.insert("bert.embeddings.position_ids".to_owned(), (Dtype::I64, vec![1, 12], vec![0; 96]));
    write(&exported.file(), &tied);
    let whole = exported.read().unwrap();
    assert_eq!(whole.weights, exported.weights);

    // The bias under its second name alone.
    tied.remove("cls.predictions.bias");
    write(&exported.file(), &tied);
    assert_eq!(exported.read().unwrap().weights, exported.weights);

    // BertModel: without its prefix, and without heads.
    write(&exported.file(), &renamed(&tensors, |name| name.strip_prefix("bert.").map(str::to_owned)));
    let body = exported.read().unwrap();
    assert_eq!(body.report.fresh, ["the masked-token head", "the next-sentence head"]);
    assert_ne!(body.report.fingerprint, whole.report.fingerprint);
    let layout = Layout::new(&body.model);
    let fresh = layout.initial_weights(3);
    for p in layout.parameters() {
        let expected = if p.name.starts_with("cls.") { &fresh } else { &exported.weights };
        assert_eq!(body.weights[p.range.clone()], expected[p.range.clone()], "{}", p.name);
    }

    // BertForMaskedLM: no pooler, no pair head.
    let masked = |name: &str| !name.contains("pooler") && !name.contains("seq_relationship");
    write(&exported.file(), &renamed(&tensors, |name| masked(name).then(|| name.to_owned())));
    assert_eq!(exported.read().unwrap().report.fresh, ["the pooler", "the next-sentence head"]);

    // Two shards.
    fs::remove_file(exported.file()).unwrap();
    let first = |name: &str| name.contains("encoder");
    let shard = |which: bool| renamed(&tensors, |name| (first(name) == which).then(|| name.to_owned()));
    write(&exported.path().join("a.safetensors"), &shard(true));
    write(&exported.path().join("b.safetensors"), &shard(false));
    let map: BTreeMap<&String, &str> =
        tensors.keys().map(|n| (n, if first(n) { "a.safetensors" } else { "b.safetensors" })).collect();
    let index = exported.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    assert_eq!(exported.read().unwrap().weights, exported.weights);
    for name in ["../m/a.safetensors", "/etc/passwd", "a.bin", ""] {
        fs::write(&index, json!({"weight_map": {"x": name}}).to_string()).unwrap();
        assert_eq!(exported.read().unwrap_err().kind().exit_code(), 65, "{name}");
    }
}

#[test]
fn half_precision_is_converted() {
    let exported = Exported::new();
    let tensors = exported.tensors();
    let upper = |x: f32| (x.to_bits() >> 16) as u16;
    write(&exported.file(), &converted(&tensors, Dtype::BF16, upper));
    let expected: Vec<f32> =
        exported.weights.iter().map(|&x| f32::from_bits(u32::from(upper(x)) << 16)).collect();
    assert_eq!(exported.read().unwrap().weights, expected);
    // 1.5 as half precision, everywhere.
    write(&exported.file(), &converted(&tensors, Dtype::F16, |_| 0x3e00));
    assert!(exported.read().unwrap().weights.iter().all(|&x| x == 1.5));
}

#[test]
fn what_is_strange_is_refused_and_named() {
    const QUERY: &str = "bert.encoder.layer.1.attention.self.query.weight";
    let check = |what: &str, spoil: &dyn Fn(&mut Tensors), code: u8, named: &str| {
        let exported = Exported::new();
        let mut tensors = exported.tensors();
        spoil(&mut tensors);
        write(&exported.file(), &tensors);
        let error = exported.read().expect_err(what);
        assert_eq!(error.kind().exit_code(), code, "{what}: {error}");
        assert!(error.to_string().contains(named), "{what}: {error} lacks {named}");
    };
    let set = |t: &mut Tensors, at: usize, x: f32| {
        t.get_mut(QUERY).unwrap().2[4 * at..4 * at + 4].copy_from_slice(&x.to_le_bytes());
    };
    check("missing", &|t| drop(t.remove(QUERY)), 65, QUERY);
    check("missing in part", &|t| drop(t.remove("cls.predictions.bias")), 65, "cls.predictions.bias");
    check(
        "unknown",
        &|t| drop(t.insert("classifier.weight".into(), (Dtype::F32, vec![1], vec![0; 4]))),
        65,
        "classifier.weight",
    );
    check("a shape", &|t| t.get_mut(QUERY).unwrap().1 = vec![4, 16], 65, QUERY);
    check("a type", &|t| *t.get_mut(QUERY).unwrap() = (Dtype::I32, vec![8, 8], vec![0; 256]), 65, QUERY);
    check("NaN", &|t| set(t, 7, f32::NAN), 65, "element 7 is NaN");
    check("infinite", &|t| set(t, 63, f32::INFINITY), 65, QUERY);
    check(
        "twice",
        &|t| {
            let bias = t["bert.pooler.dense.bias"].clone();
            t.insert("pooler.dense.bias".into(), bias);
        },
        65,
        "twice",
    );
    check(
        "an untied head",
        &|t| {
            let (dtype, shape, mut bytes) = t["bert.embeddings.word_embeddings.weight"].clone();
            bytes[0] ^= 1;
            t.insert("cls.predictions.decoder.weight".into(), (dtype, shape, bytes));
        },
        78,
        "differ",
    );
}

#[test]
fn damaged_files_and_pickles_are_refused() {
    let exported = Exported::new();
    let good = fs::read(exported.file()).unwrap();
    let check = |what: &str, bytes: &[u8]| {
        fs::write(exported.file(), bytes).unwrap();
        let error = exported.read().expect_err(what);
        assert_eq!(error.kind().exit_code(), 65, "{what}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{what}: {error}");
    };
    for cut in [0, 4, 8, 100, good.len() / 2, good.len() - 1] {
        check("cut short", &good[..cut]);
    }
    check("longer", &[&good[..], &[0; 4]].concat());
    check("a header bomb", &[&u64::MAX.to_le_bytes()[..], &good[8..]].concat());
    check("a deep header", &[&100_000u64.to_le_bytes()[..], "[".repeat(100_000).as_bytes()].concat());
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &[0; 8]].concat();
    let one = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    check("an overlap", &header(&format!("{{{one},{}}}", one.replace("\"a\"", "\"b\""))));
    check("a place behind the file", &header(&format!("{{{}}}", one.replace("[0,8]", "[0,80]"))));

    fs::remove_file(exported.file()).unwrap();
    assert_eq!(exported.read().unwrap_err().kind().exit_code(), 66);
    fs::write(exported.path().join("pytorch_model.bin"), b"\x80\x04.").unwrap();
    let error = exported.read().unwrap_err();
    assert_eq!(error.kind().exit_code(), 65);
    let message = error.to_string();
    assert!(message.contains("never opened") && message.contains("safe_serialization=True"), "{message}");
    fs::write(exported.path().join("config.json"), "{").unwrap();
    assert_eq!(exported.read().unwrap_err().kind().exit_code(), 65);
    assert_eq!(import::read(&exported.place.path().join("nowhere"), 0).unwrap_err().kind().exit_code(), 66);
}

#[test]
fn rows_go_with_their_tokens() {
    let own = words();
    let imported = Exported::new().read().unwrap();
    let fit = |own: Option<&dyn Tokenizer>, vocab: &WordVocab| imported.clone().for_vocabulary(own, vocab, 9);
    let numbers = |fit: import::Fit| (fit.kept, fit.new, fit.dropped);

    let (same, found) = fit(Some(&own), &own).unwrap();
    assert_eq!((same.weights == imported.weights, numbers(found)), (true, (9, 0, 0)));
    let (same, found) = fit(None, &own).unwrap();
    assert_eq!((same.weights == imported.weights, numbers(found)), (true, (9, 0, 0)));

    // Another order, one word lost, two new ones.
    let other = WordVocab::from_texts(["two two two six six five one three"], None, 1);
    let (adapted, found) = fit(Some(&own), &other).unwrap();
    assert_eq!(numbers(found), (8, 2, 1));
    assert_eq!(adapted.model.vocab_size, 10);
    let (from, to) = (Layout::new(&imported.model), Layout::new(&adapted.model));
    let fresh = to.initial_weights(9);
    for (old, new) in from.parameters().iter().zip(to.parameters()) {
        let values = &adapted.weights[new.range.clone()];
        let by_token = ["bert.embeddings.word_embeddings.weight", "cls.predictions.bias"];
        if !by_token.contains(&new.name.as_str()) {
            assert_eq!(values, &imported.weights[old.range.clone()], "{}", new.name);
            continue;
        }
        let width = values.len() / other.len();
        for (id, row) in values.chunks(width).enumerate() {
            let source = other.token(id as u32).and_then(|token| own.id(token)).map(|id| id as usize);
            let expected = match source {
                Some(source) => &imported.weights[old.range.start + source * width..][..width],
                None => &fresh[new.range.start + id * width..][..width],
            };
            assert_eq!(row, expected, "{}: {:?}", new.name, other.token(id as u32));
        }
    }
    assert_eq!(fit(None, &other).unwrap_err().kind().exit_code(), 78);
    let foreign = WordVocab::from_texts(["uno dos tres"], None, 1);
    assert_eq!(fit(Some(&own), &foreign).unwrap_err().kind().exit_code(), 78);
}

/// The program run in a directory: exit code, stdout, stderr.
fn bertstream(place: &Path, words: &[&str]) -> (i32, String, String) {
    let done =
        Command::new(env!("CARGO_BIN_EXE_bertstream")).args(words).current_dir(place).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (done.status.code().unwrap(), text(&done.stdout), text(&done.stderr))
}

#[test]
fn a_run_and_its_export_mean_the_same_and_a_run_starts_from_one() {
    let place = tempfile::tempdir().unwrap();
    let toy =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/toy.pairs.tsv")).unwrap();
    fs::write(place.path().join("a.tsv"), toy.lines().take(200).collect::<Vec<_>>().join("\n")).unwrap();
    let run = |line: &str| bertstream(place.path(), &line.split_whitespace().collect::<Vec<_>>());
    let good = |line: &str| {
        let (code, stdout, stderr) = run(line);
        assert_eq!(code, 0, "{line}: {stderr}");
        stdout
    };
    let refused = |line: &str, code: i32, named: &str| {
        let (found, _, stderr) = run(line);
        assert_eq!(found, code, "{line}: {stderr}");
        assert!(stderr.contains(named), "{line}: {stderr}");
    };
    good("vocab -c a.tsv -o v.json");
    let shape = "--hidden 16 -l 1 -a 2 -s 24 -b 16 --steps 3 -q";
    good(&format!("train -c a.tsv -v v.json -o run --arch bert {shape}"));
    good("export run hf --checkpoint 3");
    refused("export run hf", 73, "not empty");
    good(&format!("train -c a.tsv -v v.json -o other {shape}"));
    refused("export other elsewhere", 2, "--arch bert");
    let card = fs::read_to_string(place.path().join("hf/README.md")).unwrap();
    assert!(card.contains("a.tsv") && card.contains("masked tokens: loss"), "{card}");
    assert!(!card.contains(&*place.path().to_string_lossy()), "{card}");

    let fill = |model: &str| {
        let text = "the cook <mask> the <mask> .";
        let (code, stdout, stderr) =
            bertstream(place.path(), &["fill-mask", model, text, "--json", "-k", "3"]);
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    assert_eq!(fill("run"), fill("hf"));
    let filled: Value = serde_json::from_str(&fill("run")).unwrap();
    assert_eq!(
        (filled["masks"].as_array().unwrap().len(), filled["masks"][0].as_array().unwrap().len()),
        (2, 3)
    );
    refused("fill-mask run nothing", 2, "<mask>");
    refused("fill-mask nowhere <mask>", 66, "nowhere");

    fs::write(place.path().join("lines.txt"), "the cook\n\nthe baker eats\n").unwrap();
    let lines = good("embed run lines.txt");
    assert_eq!((lines.lines().count(), good("embed hf lines.txt")), (3, lines.clone()));
    assert_ne!(good("embed run lines.txt --pool first"), lines);
    refused("embed run lines.txt --format npy", 2, "--output");
    good("embed run lines.txt --format npy --output vectors.npy");
    let vectors = fs::read(place.path().join("vectors.npy")).unwrap();
    let expected: Vec<f32> =
        lines.lines().flat_map(|line| serde_json::from_str::<Vec<f32>>(line).unwrap()).collect();
    let body: Vec<f32> = vectors[128..].as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!((body, expected.len()), (expected, 3 * 16));

    good("train -c a.tsv --init hf -o next --steps 2 -b 16 -s 24 -q --lr 1e-20 --warmup 0");
    let figures = |model: &str| -> Value {
        serde_json::from_str(&good(&format!("eval --run {model} -c a.tsv -s 24 -b 16 --json"))).unwrap()
    };
    for name in ["mlm_loss", "nsp_loss", "mlm_accuracy"] {
        assert_eq!(figures("next")[name], figures("run")[name], "{name}");
        assert_eq!(figures("hf")[name], figures("run")[name], "{name}");
    }
    refused("train -c a.tsv --init hf -o x --hidden 32", 2, "--hidden 32");
    refused("train -c a.tsv --init hf -o x -s 513", 2, "512 positions");
    refused("train -c a.tsv --init hf -o x --arch reference", 2, "--arch");
    refused("train -c a.tsv --init nowhere -o x", 66, "nowhere");
    assert!(!place.path().join("x").exists());

    // Before its first checkpoint a run goes on from the same checkpoint, or not at all.
    fs::remove_dir_all(place.path().join("next/checkpoints")).unwrap();
    good("train --resume next -q");
    assert_eq!(figures("next")["mlm_loss"], figures("run")["mlm_loss"]);
    fs::remove_dir_all(place.path().join("next/checkpoints")).unwrap();
    fs::remove_dir_all(place.path().join("hf")).unwrap();
    good("export run hf2");
    good("train -c a.tsv --init hf2 -v v.json -o third --steps 1 -b 16 -q");
    good("export third hf");
    refused("train --resume next -q", 78, "changed since");
}
