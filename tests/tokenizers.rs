//! Subword tokenizers against Python's `tokenizers`, against files that nobody should trust, and against
//! themselves: trained twice, saved and loaded.

use std::fs;
use std::path::{Path, PathBuf};

use bertstream::ErrorKind;
use bertstream::vocab::count::{CountConfig, each_word};
use bertstream::vocab::subword::{Algorithm, Beside, TrainConfig, Trained, train};
use bertstream::vocab::{
    CharVocab, SubwordTokenizer, Tokenizer, WordVocab, as_tokenizer_json, bert_vocab, encode_with_masks, load,
};
use serde_json::{Value, json};

const ALGORITHMS: [(Algorithm, &str); 3] =
    [(Algorithm::Wordpiece, "wordpiece"), (Algorithm::Bpe, "bpe"), (Algorithm::Unigram, "unigram")];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn fixture(model: &str) -> Vec<u8> {
    fs::read(fixtures().join(format!("tokenizers/{model}.json"))).unwrap()
}

fn tokenizer(json: &[u8]) -> SubwordTokenizer {
    SubwordTokenizer::from_json(json, &Beside::default()).unwrap()
}

fn ids(tokenizer: &dyn Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.encode(text, &mut ids);
    ids
}

fn trained(config: &TrainConfig, corpus: &Path, workers: usize) -> bertstream::Result<Trained> {
    let count =
        CountConfig { workers, chunk: 4096, max_word: 1024, ..CountConfig::new(std::env::temp_dir()) };
    train(config, |each| each_word(corpus, &count, &|_| {}, each)).map(|(trained, _)| trained)
}

fn config(algorithm: Algorithm) -> TrainConfig {
    TrainConfig { algorithm, vocab_size: 320, cased: false, min_freq: 1, memory: 1 << 24 }
}

#[test]
fn ids_and_words_are_those_of_pythons_tokenizers() {
    // Made by `scripts/check_tokenizers.py --fixture`.
    let expected: Value = serde_json::from_slice(&fixture("expected")).unwrap();
    let lines = expected["lines"].as_array().unwrap();
    assert!(lines.len() > 15);
    for (_, model) in ALGORITHMS {
        let tokenizer = tokenizer(&fixture(model));
        assert!(tokenizer.knows_words());
        for (at, line) in lines.iter().enumerate() {
            let line = line.as_str().unwrap();
            let theirs: Vec<u32> = serde_json::from_value(expected[model]["ids"][at].clone()).unwrap();
            let words: Vec<u32> = serde_json::from_value(expected[model]["words"][at].clone()).unwrap();
            let (mut ours, mut begins) = (vec![7], vec![]);
            tokenizer.encode_words(line, &mut ours, &mut begins);
            assert_eq!(ours[1..], theirs, "{model}: {line:?}");
            let changes = (0..words.len()).map(|i| i == 0 || words[i] != words[i - 1]);
            assert_eq!(begins, changes.collect::<Vec<_>>(), "{model}: {line:?}");
            assert_eq!(ids(&tokenizer, line), theirs);
        }
    }
}

#[test]
fn roles_ordinary_tokens_and_spelling_agree() {
    for (_, model) in ALGORITHMS {
        let tokenizer = tokenizer(&fixture(model));
        let s = tokenizer.specials();
        assert_eq!([s.pad, s.unknown, s.classify, s.separator, s.mask], [0, 1, 2, 3, 4]);
        assert_eq!(tokenizer.ordinary_len() as usize, tokenizer.len() - 5);
        let ordinary: Vec<u32> = (0..tokenizer.ordinary_len()).map(|k| tokenizer.ordinary(k)).collect();
        assert!(ordinary.is_sorted() && !ordinary.contains(&s.mask));
        for id in 0..tokenizer.len() as u32 {
            assert_eq!(tokenizer.id(tokenizer.token(id).unwrap()), Some(id));
        }
        assert_eq!((tokenizer.token(tokenizer.len() as u32), tokenizer.id("no such")), (None, None));
        assert_eq!((tokenizer.counts(), tokenizer.file_name()), (None, "tokenizer.json"));
        let with_mask = encode_with_masks(&tokenizer, "the [MASK] sleeps");
        assert_eq!(with_mask, ids(&tokenizer, "the [MASK] sleeps"));
        assert!(with_mask.contains(&s.mask));
    }
}

#[test]
fn a_tokenizer_survives_its_file_and_its_fingerprint_tells_it_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let mut seen = Vec::new();
    for (_, model) in ALGORITHMS {
        let original = tokenizer(&fixture(model));
        original.save(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), fixture(model));
        for from in [&path, dir.path()] {
            assert_eq!(load(from).unwrap().fingerprint(), original.fingerprint());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it is needed");
        seen.push(original.fingerprint());
    }
    let mut file: Value = serde_json::from_slice(&fixture("wordpiece")).unwrap();
    let before = seen[0];
    file["truncation"] =
        json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    file["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    let limited = tokenizer(file.to_string().as_bytes());
    assert_eq!(limited.fingerprint(), before, "limits are no part of it");
    assert!(!String::from_utf8_lossy(limited.json()).contains("LongestFirst"));
    assert_eq!(
        ids(&limited, "the knight sleeps"),
        ids(&tokenizer(&fixture("wordpiece")), "the knight sleeps")
    );
    file["normalizer"]["lowercase"] = json!(false);
    assert_ne!(tokenizer(file.to_string().as_bytes()).fingerprint(), before);
}

/// A WordPiece file with these tokens; `change` damages it.
fn wordpiece(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let roles = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": roles.iter().zip(0..).map(|(token, id)| special(id, token)).collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "##b": 6,
                "[unused1]": 7}},
    });
    change(&mut file);
    file.to_string().into_bytes()
}

#[test]
fn unused_tokens_are_not_ordinary() {
    let tokenizer = tokenizer(&wordpiece(|_| ()));
    let ordinary: Vec<u32> = (0..tokenizer.ordinary_len()).map(|k| tokenizer.ordinary(k)).collect();
    assert_eq!(ordinary, [5, 6]);
}

#[test]
fn a_bad_tokenizer_json_is_refused_and_the_entry_named() {
    let check_bytes = |bytes: &[u8], expected: &str| {
        let error = SubwordTokenizer::from_json(bytes, &Beside::default()).err().expect(expected);
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(error.to_string().contains(expected), "{expected:?} in {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    };
    let check = |change: &dyn Fn(&mut Value), expected: &str| check_bytes(&wordpiece(change), expected);
    check_bytes(b"", "not a tokenizer.json");
    check_bytes(b"[1]", "\"model\" has no \"vocab\"");
    check_bytes(b"{\"model\": 5}", "\"model\" has no \"vocab\"");
    check_bytes("[".repeat(1 << 20).as_bytes(), "recursion limit");
    let nested = r#"{"type":"Sequence","normalizers":["#.repeat(200);
    check_bytes(format!("{{\"normalizer\":{nested}").as_bytes(), "recursion limit");
    check_bytes(&vec![b' '; (64 << 20) + 1], "larger than");
    check(&|f| f["version"] = json!("9.0"), "9.0");
    // Parts.
    check(&|f| f["normalizer"] = json!({"type": "Exec"}), "\"normalizer\" is of type \"Exec\"");
    check(&|f| f["normalizer"] = json!({"lowercase": true}), "\"normalizer\" has no \"type\"");
    check(
        &|f| {
            f["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers":
                [{"type": "Whitespace"}, {"type": "Python"}]});
        },
        "\"pre_tokenizer\" is of type \"Python\"",
    );
    check(&|f| f["decoder"] = json!({"type": "Sequence", "decoders": 3}), "\"decoders\" is not a list");
    check(&|f| f["post_processor"] = json!({"type": 3}), "\"post_processor\" has no \"type\"");
    check(
        &|f| f["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA////"}),
        "recompiled",
    );
    check(
        &|f| {
            f["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated",
                "invert": false});
        },
        "not a usable tokenizer.json",
    );
    check(&|f| f["model"]["type"] = json!("Pickle"), "\"model\" is of type \"Pickle\"");
    check(&|f| f["model"]["dropout"] = json!(0.1), "dropout");
    // Ids.
    check(&|f| f["model"]["vocab"]["a"] = json!(9), "token \"a\" has id 9, but there are 8 tokens");
    check(&|f| f["model"]["vocab"]["a"] = json!(6), "have the same id, 6");
    check(&|f| f["model"]["vocab"]["a"] = json!(-1), "gives \"a\" the id -1");
    check(&|f| f["model"]["vocab"]["a"] = json!(1_u64 << 32), "gives \"a\" the id 4294967296");
    check(&|f| f["model"]["vocab"]["a"] = json!(u32::MAX), "ids must have no gaps");
    check(&|f| f["model"]["vocab"]["a"] = json!("x"), "gives \"a\" the id \"x\"");
    check(&|f| f["added_tokens"][0]["id"] = json!(5), "\"[PAD]\" has id 5 in the file");
    check(&|f| f["added_tokens"][0]["id"] = json!(1_u64 << 40), "added_tokens entry 0");
    check(&|f| f["added_tokens"][0]["content"] = json!(""), "added_tokens entry 0");
    check(&|f| f["added_tokens"] = json!({}), "\"added_tokens\" is not a list");
    // Roles.
    let without = |f: &mut Value, token: &str| {
        let entry = f["added_tokens"].as_array_mut().unwrap();
        entry.retain(|entry| entry["content"] != token);
        let last = f["model"]["vocab"].as_object_mut().unwrap();
        let id = last.remove(token).unwrap();
        *last.get_mut("[unused1]").unwrap() = id;
    };
    check(&|f| without(f, "[PAD]"), "there is no pad_token: neither [PAD] nor <pad>");
    check(&|f| without(f, "[MASK]"), "there is no mask_token");
    check(&|f| without(f, "[UNK]"), "\"unk_token\" \"[UNK]\" is not in \"vocab\"");
    check(&|f| f["model"]["unk_token"] = json!("[PAD]"), "pad_token and unk_token are the same token");
    // Unigram and BPE.
    let unigram = |vocab: Value, unk: Value| {
        move |f: &mut Value| {
            f["added_tokens"] = json!([]);
            f["model"] = json!({"type": "Unigram", "unk_id": unk, "vocab": vocab});
        }
    };
    check(&|f| unigram(json!([["a", 0.0], ["a", 1.0]]), json!(0))(f), "holds \"a\" twice");
    check(&|f| unigram(json!([["a", 0.0]]), json!(null))(f), "\"unk_id\" names no entry");
    check(&|f| unigram(json!([["a", 0.0]]), json!(7))(f), "\"unk_id\" names no entry");
    check(&|f| unigram(json!([["a"]]), json!(0))(f), "\"vocab\" entry 0");
    check(
        &|f| {
            let vocab = f["model"]["vocab"].clone();
            f["model"] = json!({"type": "BPE", "vocab": vocab, "merges": [["a", "zz"]]});
        },
        "not a usable tokenizer.json",
    );
}

#[test]
fn a_tokenizer_without_a_pre_tokenizer_knows_no_words() {
    let tokenizer = tokenizer(&wordpiece(|f| f["pre_tokenizer"] = Value::Null));
    assert!(!tokenizer.knows_words());
    assert_eq!(ids(&tokenizer, "ab"), [5, 6]);
}

#[test]
fn what_lies_beside_names_the_roles_and_goes_along() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    fs::write(
        &path,
        wordpiece(|f| {
            let text = f.to_string().replace("[PAD]", "<nothing>");
            *f = serde_json::from_str(&text).unwrap();
        }),
    )
    .unwrap();
    assert!(load(&path).err().unwrap().to_string().contains("there is no pad_token"));
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"pad_token": {"content": "<nothing>"}}"#)
        .unwrap();
    let loaded = load(dir.path()).unwrap();
    assert_eq!(loaded.specials().pad, 0);

    let run = tempfile::tempdir().unwrap();
    loaded.save(&run.path().join("tokenizer.json")).unwrap();
    let again = load(&run.path().join("tokenizer.json")).unwrap();
    assert_eq!((again.specials(), again.fingerprint()), (loaded.specials(), loaded.fingerprint()));

    fs::write(dir.path().join("special_tokens_map.json"), r#"{"pad_token": "gone"}"#).unwrap();
    assert!(load(&path).err().unwrap().to_string().contains("pad_token is \"gone\", which the vocabulary"));
    fs::write(dir.path().join("special_tokens_map.json"), "{").unwrap();
    assert!(load(&path).err().unwrap().to_string().contains("special_tokens_map.json is not JSON"));
}

#[test]
fn a_vocab_txt_is_a_bert_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocab.txt");
    let check = |lines: &str, text: &str, expected: Result<&[u32], &str>| {
        fs::write(&path, lines.replace(' ', "\n")).unwrap();
        match (load(&path), expected) {
            (Ok(tokenizer), Ok(expected)) => assert_eq!(ids(tokenizer.as_ref(), text), expected, "{text:?}"),
            (Err(error), Err(part)) => {
                assert_eq!(error.kind(), ErrorKind::Data);
                assert!(error.to_string().contains(part), "{error}");
            }
            (result, _) => panic!("{lines}: {:?}", result.map(|t| t.len())),
        }
    };
    let roles = "[PAD] [UNK] [CLS] [SEP] [MASK]";
    check(&format!("{roles} cafe ##s !"), "Caf\u{e9}s! [MASK] x", Ok(&[5, 6, 7, 4, 1]));
    check(&format!("{roles} Cafe ##s caf\u{e9} cafe"), "cafe caf\u{e9} Cafes", Ok(&[8, 7, 5, 6]));
    check(&format!("{roles}\r a\r "), "A", Ok(&[5]));
    // A letter without a lower-case form does not make a vocabulary cased.
    check(&format!("{roles} a \u{1d538}"), "A\u{1d538}", Ok(&[1]));
    check(&format!("{roles} a \u{1d538}"), "A \u{1d538}", Ok(&[5, 6]));
    check(&format!("{roles} a b a"), "", Err("line 8, \"a\", is the token of line 6 already"));
    check(&format!("{roles} a  b"), "", Err("line 7 is empty"));
    check("[PAD] [UNK] [CLS] [SEP] a", "", Err("no line has the mask_token ([MASK] or <mask>)"));
    check("", "", Err("no line has the pad_token"));
    fs::write(&path, b"[PAD]\n\xff\n").unwrap();
    assert!(load(&path).err().unwrap().to_string().contains("not text in UTF-8"));
    fs::write(&path, b"\x80\x04\x95pickle").unwrap();
    assert!(load(&path).err().unwrap().to_string().contains("never unpickled"));

    // What lies beside it decides, and both are found by their directory.
    let lines = format!("{roles} a A");
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"do_lower_case": true}"#).unwrap();
    check(&lines, "A", Ok(&[5]));
    let vocabulary = bert_vocab(dir.path()).unwrap().unwrap();
    assert_eq!(vocabulary.tokens.join(" "), lines);
    assert_eq!(
        json!(vocabulary.options),
        json!({"do_lower_case": true, "strip_accents": null, "tokenize_chinese_chars": true})
    );
}

#[test]
fn a_directory_without_a_vocabulary_says_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::MissingInput);
    assert!(error.to_string().contains("any of tokenizer.json, vocab.txt, vocab.json"), "{error}");
}

#[test]
fn training_gives_the_same_bytes_each_time_for_any_threads() {
    let corpus = fixtures().join("toy.pairs.tsv");
    for (algorithm, model) in ALGORITHMS {
        for cased in [false, true] {
            let config = TrainConfig { cased, ..config(algorithm) };
            let (once, again) =
                (trained(&config, &corpus, 0).unwrap(), trained(&config, &corpus, 3).unwrap());
            assert!(once.tokenizer.json() == again.tokenizer.json(), "{model}");
            assert_eq!(once.report, again.report);
            assert_eq!(once.report.words, once.report.words_seen);
        }
    }
}

#[test]
fn what_is_trained_spells_its_own_text() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("c.txt");
    let text = "Low lower lowest, new newer newest; wide wider widest. \u{6771}\u{4eac} caf\u{e9} ".repeat(4);
    fs::write(&corpus, &text).unwrap();
    for (algorithm, model) in ALGORITHMS {
        let Trained { tokenizer, report } = trained(&config(algorithm), &corpus, 0).unwrap();
        let ids = ids(&tokenizer, &text);
        assert!(!ids.contains(&tokenizer.specials().unknown), "{model}");
        let per_word = ids.len() as f64 / report.words as f64;
        // Text is cut as its words are, but for white space at the end.
        assert!((per_word - report.tokens_per_word).abs() < 0.05, "{model}: {per_word} {report:?}");
        assert_eq!(report.tokens as usize, tokenizer.len());
    }
    let whole = trained(&config(Algorithm::Wordpiece), &corpus, 0).unwrap().tokenizer;
    assert!(whole.id("lowest").is_some() && whole.id("Low").is_none() && whole.id("cafe").is_some());
    let cased = TrainConfig { cased: true, ..config(Algorithm::Wordpiece) };
    let cased = trained(&cased, &corpus, 0).unwrap().tokenizer;
    assert!(cased.id("Low").is_some() && cased.id("caf\u{e9}").is_some());
}

#[test]
fn what_the_memory_does_not_hold_is_left_out_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("c.txt");
    // Five hundred words, the k-th of them k times.
    let word = |k: usize| format!("w{}", (b'a' + (k % 26) as u8) as char).repeat(k % 7 + 1) + &k.to_string();
    let text: String = (1..=500).map(|k| format!("{} ", word(k)).repeat(k) + "\n").collect();
    fs::write(&corpus, text).unwrap();
    let total = 500 * 501 / 2;
    for (algorithm, model) in ALGORITHMS {
        let report = trained(&config(algorithm), &corpus, 0).unwrap().report;
        assert_eq!((report.words, report.words_seen, report.distinct_seen), (total, total, 500), "{model}");
        let small = TrainConfig { memory: 40_000, ..config(algorithm) };
        let report = trained(&small, &corpus, 2).unwrap().report;
        let kept = report.distinct_seen;
        assert!((20..300).contains(&kept), "{model}: {report:?}");
        assert_eq!((report.words, report.distinct), (total, 500));
        // The most frequent ones: 500 times, 499 times, and so on.
        assert_eq!(report.words_seen, (501 - kept..=500).sum::<u64>(), "{model}");
        let rare = TrainConfig { min_freq: 401, ..config(algorithm) };
        assert_eq!(trained(&rare, &corpus, 0).unwrap().report.distinct_seen, 100);
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("c.txt");
    fs::write(&corpus, "a b c a").unwrap();
    let check = |config: TrainConfig, kind, expected: &str| {
        let error = trained(&config, &corpus, 0).err().unwrap();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(TrainConfig { vocab_size: 260, ..config(Algorithm::Bpe) }, ErrorKind::Usage, "at least 261");
    check(TrainConfig { vocab_size: 5, ..config(Algorithm::Unigram) }, ErrorKind::Usage, "at least 32");
    check(TrainConfig { min_freq: 9, ..config(Algorithm::Wordpiece) }, ErrorKind::Data, "no word is left");
}

#[test]
fn a_word_vocabulary_has_a_tokenizer_json_that_gives_the_same_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocab.json");
    let text = "the cat\tsat\u{1c}on\u{a0}the \"mat\" \u{6771}\u{4eac} caf\u{e9}";
    let lines = [text, "", "  cat\u{1f}\u{2028}the dog \u{6771}", "a\r\nmat"];
    let check = |vocab: &dyn Tokenizer| {
        vocab.save(&path).unwrap();
        let exported = tokenizer(&as_tokenizer_json(&path).unwrap());
        assert_eq!(exported.specials(), vocab.specials());
        assert_eq!(exported.len(), vocab.len());
        for line in lines {
            assert_eq!(ids(&exported, line), ids(vocab, line), "{line:?}");
        }
        assert!(bert_vocab(&path).unwrap().is_none());
    };
    check(&WordVocab::from_texts([text], None, 1));
    check(&CharVocab::from_texts([text], None, 1));

    let subwords = fixtures().join("tokenizers/bpe.json");
    assert_eq!(as_tokenizer_json(&subwords).unwrap(), fixture("bpe"));
    assert!(bert_vocab(&subwords).unwrap().is_none());
}
