//! What a model puts in place of masked tokens, as a table in Markdown.

use crate::collate::HostBatch;
use crate::model::Predictions;
use crate::sample::{Corruption, PairLabel};
use crate::vocab::Tokenizer;

/// How many guesses are shown.
const GUESSES: usize = 3;

/// For each sample its text, with what is to be predicted in bold, and a table of the guesses there.
pub fn table(batch: &HostBatch, predictions: &Predictions, tokenizer: &dyn Tokenizer) -> String {
    let spelled = |id: u32| escaped(tokenizer.token(id).unwrap_or("?"));
    let width = predictions.mlm.len() / batch.labels.len().max(1);
    let mut text = String::new();
    for sample in 0..batch.samples() {
        let (ids, _) = batch.sample(sample);
        let places: Vec<(usize, u32, Corruption)> = batch.predictions(sample).collect();
        let shown: Vec<String> = ids
            .iter()
            .enumerate()
            .map(|(at, &id)| match places.iter().any(|(place, ..)| *place == at) {
                true => format!("**{}**", spelled(id)),
                false => spelled(id),
            })
            .collect();
        text += &format!("{}. {}\n", sample + 1, shown.join(" "));
        text += &pair(batch.pairs[sample], &predictions.nsp, sample);
        text += "\n| shown | true | guesses |\n|---|---|---|\n";
        for (k, (place, label, _)) in batch.predicted(sample).zip(places) {
            let guesses: Vec<String> = likeliest(&predictions.mlm[k * width..(k + 1) * width])
                .into_iter()
                .map(|(id, share)| {
                    let mark = if id == label { "**" } else { "" };
                    format!("{mark}{}{mark} {:.0} %", spelled(id), 100.0 * share)
                })
                .collect();
            text += &format!("| {} | {} | {} |\n", spelled(ids[place]), spelled(label), guesses.join(", "));
        }
        text.push('\n');
    }
    text
}

/// What is thought of a pair, beside what it is.
fn pair(label: PairLabel, log_probabilities: &[f32], sample: usize) -> String {
    let (truth, class) = match label {
        PairLabel::None => return String::new(),
        PairLabel::NotNext => ("do not", 0),
        PairLabel::IsNext => ("do", 1),
    };
    let share = log_probabilities.get(2 * sample + class).map_or(0.0, |p| p.exp());
    format!("\nThe two {truth} belong together: {:.0} % sure of that.\n", 100.0 * share)
}

/// The most probable ids with their probabilities; of equals the smaller id.
fn likeliest(log_probabilities: &[f32]) -> Vec<(u32, f32)> {
    let mut ranked: Vec<(u32, f32)> = Vec::with_capacity(GUESSES + 1);
    for (id, &p) in log_probabilities.iter().enumerate() {
        let at = ranked.partition_point(|&(_, better)| better >= p);
        if at < GUESSES {
            ranked.insert(at, (id as u32, p));
            ranked.truncate(GUESSES);
        }
    }
    ranked.into_iter().map(|(id, p)| (id, p.exp())).collect()
}

/// A token as Markdown shows it: `<sos>` is no tag, `|` no border, `*` no emphasis.
fn escaped(token: &str) -> String {
    let mut text = String::with_capacity(token.len());
    for c in token.chars() {
        if "\\`*_{}[]<>()#+-.!|~".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::WordVocab;

    #[test]
    fn guesses_stand_beside_the_truth_which_is_bold_where_it_is_among_them() {
        let vocab = WordVocab::from_texts(["cat dog"], None, 1);
        let [cat, dog] = ["cat", "dog"].map(|word| {
            let mut ids = vec![];
            vocab.encode(word, &mut ids);
            ids[0]
        });
        let specials = vocab.specials();
        let batch = HostBatch {
            rows: 1,
            seq_len: 3,
            ids: vec![specials.classify, specials.mask, dog],
            segments: vec![1; 3],
            lengths: vec![3],
            masked: vec![1],
            labels: vec![cat],
            corruptions: vec![Corruption::Mask],
            pairs: vec![PairLabel::IsNext],
            ..HostBatch::default()
        };
        let mut mlm = vec![f32::NEG_INFINITY; vocab.len()];
        mlm[cat as usize] = 0.75f32.ln();
        mlm[dog as usize] = 0.25f32.ln();
        let predictions = Predictions { mlm, nsp: vec![0.1f32.ln(), 0.9f32.ln()] };
        assert_eq!(
            table(&batch, &predictions, &vocab),
            "1. \\<sos\\> **\\<mask\\>** dog\n\nThe two do belong together: 90 % sure of that.\n\n\
             | shown | true | guesses |\n|---|---|---|\n| \\<mask\\> | cat | **cat** 75 %, dog 25 %, \
             \\<pad\\> 0 % |\n\n"
        );
    }
}
