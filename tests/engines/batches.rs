//! Which batches are refused, and which odd ones work.

use bertstream::ErrorKind;
use bertstream::collate::HostBatch;
use bertstream::model::{ModelConfig, sinusoids};

use crate::common::whole_step;
use crate::{batch, fresh, tiny, tiny_bert};

#[test]
fn what_points_nowhere_is_refused() {
    let config = tiny(0.1);
    let good = batch(&config, 9, &[9, 4]);
    type Spoil = fn(&mut HostBatch);
    let breaks: [(&str, Spoil); 12] = [
        ("no rows", |b| *b = HostBatch { seq_len: 9, ..HostBatch::default() }),
        ("a token beyond the vocabulary", |b| b.ids[3] = 23),
        ("a fourth segment", |b| b.segments[3] = 3),
        ("a row without tokens", |b| b.lengths[1] = 0),
        ("a row longer than the batch", |b| b.lengths[0] = 10),
        ("a label beyond the vocabulary", |b| b.labels[0] = 23),
        ("a masked position behind the batch", |b| b.masked[0] = 18),
        ("a masked padding", |b| b.masked[0] = 17),
        ("a token too few", |b| b.ids.truncate(17)),
        ("a segment too many", |b| b.segments.push(0)),
        ("a label too few", |b| b.labels.truncate(1)),
        ("a pair too few", |b| b.pairs.truncate(1)),
    ];
    for (name, mut engine) in fresh(&config) {
        for (what, spoil) in breaks {
            let mut bad = good.clone();
            spoil(&mut bad);
            let pass = whole_step(&bad, 1);
            let errors = [
                engine.accumulate(&bad, &pass).unwrap_err(),
                engine.evaluate(&bad).unwrap_err(),
                engine.predict(&bad).unwrap_err(),
            ];
            assert!(errors.iter().all(|e| e.kind() == ErrorKind::Data), "{name}: {what}: {errors:?}");
        }
        assert!(engine.gradients().unwrap().iter().all(|&g| g == 0.0), "{name}");
    }
}

#[test]
fn the_published_architecture_has_no_place_for_some() {
    let config = tiny_bert(0.1);
    let good = batch(&config, 9, &[9, 4]);
    let mut unsegmented = good.clone();
    unsegmented.segments[2] = 0;
    for (name, mut engine) in fresh(&config) {
        assert!(engine.evaluate(&good).is_ok(), "{name}");
        for (bad, named) in [(&unsegmented, "no segment"), (&batch(&config, 49, &[49]), "48")] {
            let error = engine.evaluate(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data, "{name}");
            assert!(error.to_string().contains(named), "{name}: {error}");
        }
    }
}

#[test]
fn odd_shapes_work() {
    let shapes = [
        (ModelConfig { hidden: 6, heads: 3, layers: 1, ..tiny(0.1) }, 9, vec![9, 2]),
        (ModelConfig { hidden: 5, heads: 1, layers: 1, ..tiny(0.1) }, 9, vec![9, 2]),
        (ModelConfig { hidden: 2, heads: 2, layers: 1, ..tiny(0.1) }, 9, vec![9, 2]),
        (tiny(0.1), 1, vec![1, 1, 1]),
        (tiny(0.1), 5, vec![1]),
        // The reference's table of positions ends at 512.
        (tiny(0.1), 700, vec![700]),
        (ModelConfig { hidden: 6, heads: 3, layers: 1, ..tiny_bert(0.1) }, 9, vec![9, 2]),
        (ModelConfig { hidden: 5, heads: 1, layers: 1, ..tiny_bert(0.1) }, 48, vec![48, 1]),
        (tiny_bert(0.1), 1, vec![1, 1, 1]),
    ];
    for (config, seq_len, lengths) in shapes {
        let batch = batch(&config, seq_len, &lengths);
        for (name, mut engine) in fresh(&config) {
            let outcome = engine.accumulate(&batch, &whole_step(&batch, 1)).unwrap();
            let gradients = engine.gradients().unwrap();
            let what = format!("{name}: {config:?}, seq_len {seq_len}: {outcome:?}");
            assert!(outcome.mlm_loss() > 0.0 && outcome.loss().is_finite(), "{what}");
            assert!(gradients.iter().all(|g| g.is_finite()) && gradients.iter().any(|&g| g != 0.0), "{what}");
            let predictions = engine.predict(&batch).unwrap();
            let rows = predictions.mlm.chunks(config.vocab_size).chain(predictions.nsp.chunks(2));
            for row in rows {
                let sum: f32 = row.iter().map(|l| l.exp()).sum();
                assert!((sum - 1.0).abs() < 1e-4, "{what}: a distribution that sums to {sum}");
            }
        }
    }
}

#[test]
fn positions_are_the_papers_at_any_length_and_width() {
    for (seq_len, hidden) in [(700, 8), (3, 5), (1, 2)] {
        let encodings = sinusoids(seq_len, hidden);
        assert_eq!(encodings.len(), seq_len * hidden);
        for (i, encoding) in encodings.into_iter().enumerate() {
            let (position, j) = (i / hidden, i % hidden);
            let angle = position as f64 / 10000f64.powf((j - j % 2) as f64 / hidden as f64);
            let expected = if j % 2 == 0 { angle.sin() } else { angle.cos() };
            // The angle itself is rounded to f32: at 700 by up to 3e-5.
            assert!((f64::from(encoding) - expected).abs() < 1e-4, "{seq_len} {hidden}: {i}");
        }
    }
}
