//! How flags are spelled: what scripts and users of the reference rely on.

use super::toy::Place;

/// Each command's help names these.
#[test]
fn every_command_has_its_flags() {
    let place = Place::empty();
    let check = |command: &str, flags: &str| {
        let help = place.good(&format!("{command} --help")).stdout;
        for flag in flags.split_whitespace() {
            let there = help.split([' ', ',', '\n', '=']).any(|word| word == flag);
            assert!(there, "{command} has no {flag}:\n{help}");
        }
    };
    check(
        "vocab",
        "-c --corpus -o --output -s --vocab-size -m --min-freq -e --encoding --workers --limit --preset --json",
    );
    check(
        "corpus",
        "-c --corpus --check -v --vocab -s --seq-len --corpus-lines --io --encoding --limit --json",
    );
    check("doctor", "-c --corpus -v --vocab -s --seq-len -b --batch-size --json");
    let source = "-c --corpus -v --vocab -s --seq-len -e --epochs -w --workers --io --seed --limit --format \
                  --preset --json --pair --truncate --shuffle --mask-rate --mask-count --mask-share \
                  --random-share --next-rate --predict-unknown --on-bad-line --corpus-lines --encoding";
    check("sample", source);
    check("collate", source);
    check("collate", "-b --batch-size --pad -o --output");
    check(
        "train",
        "-c --corpus -t --test -v --vocab -o --output --resume -H --hidden -l --layers -a --attn-heads -s \
         --seq-len -b --batch-size -e --epochs --steps -w --workers --io --seed --preset --json --lr \
         --adam-weight-decay --adam-beta1 --adam-beta2 --log-freq --corpus-lines --schedule --warmup \
         --optimizer --clip --accumulate --dropout --engine --device --keep --save-every --eval-every",
    );
    check("eval", "--run -c --corpus --batches --json -s --seq-len -b --batch-size --workers --io");
    check("inspect", "--run --step --limit --json");
    check("quickstart", "-o --output --steps --seed");
    for command in
        ["vocab", "corpus", "doctor", "sample", "collate", "train", "eval", "inspect", "bench", "tune"]
    {
        let top = place.good("--help").stdout;
        assert!(top.contains(&format!("  {command} ")), "{command} is not in:\n{top}");
    }
}

/// The reference's own command lines, long and short, and they do what they say.
#[test]
fn the_reference_s_command_lines_work() {
    let place = Place::with_lines(64);
    place.good("vocab -c train.tsv -o a.json -s 50 -e utf-8 -m 2");
    place.good(
        "vocab --corpus_path train.tsv --output_path b.json --vocab_size 50 --encoding utf-8 --min_freq 2",
    );
    assert_eq!(place.read("a.json"), place.read("b.json"));
    let short = "train -c train.tsv -t held-out.tsv -v vocab.json -o short -H 16 -l 1 -a 2 -s 20 -b 16 -e 1 \
                 -w 2 --with_cuda False --log_freq 1 --corpus_lines 48 --on_memory True --lr 0.001 \
                 --adam_weight_decay 0.01 --adam_beta1 0.9 --adam_beta2 0.999";
    let long = "train --train_dataset train.tsv --test_dataset held-out.tsv --vocab_path vocab.json \
                --output_path long --hidden 16 --layers 1 --attn_heads 2 --seq_len 20 --batch_size 16 \
                --epochs 1 --num_workers 0 --with_cuda false --log_freq 1 --corpus_lines 48 \
                --on_memory False";
    let ours = "train --corpus train.tsv --test held-out.tsv --vocab vocab.json --output ours --hidden 16 \
                --layers 1 --attn-heads 2 --seq-len 20 --batch-size 16 --epochs 1 --workers 1 --device cpu \
                --log-freq 1 --corpus-lines 48 --io mmap --lr 1e-3 --adam-weight-decay 0.01 \
                --adam-beta1 0.9 --adam-beta2 0.999";
    [short, long, ours].iter().for_each(|flags| drop(place.good(flags)));
    for other in ["short", "long"] {
        assert_eq!(place.json(&format!("{other}/state.json"))["step"], 3);
        for file in ["model.safetensors", "optimizer.safetensors"] {
            let same = place.read(&format!("{other}/{file}")) == place.read(&format!("ours/{file}"));
            assert!(same, "{file} of {other} differs");
        }
    }
}
