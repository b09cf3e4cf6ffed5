//! Masks of whole words: single ones, n-grams and spans. Pure functions of words and draws.
//!
//! A group is a run of consecutive words, one word for whole-word masking. Groups of both kinds of count
//! differ by the distribution of their lengths alone. A word of which only some tokens may be predicted has
//! only those; one without any, and the end of a segment, ends every group.

use super::MaskUnit;
use crate::rng::SampleRng;

/// Most words of an n-gram (Lan et al. 2020, section 3.1), whose length n has a probability proportional to
/// 1/n.
const LONGEST_NGRAM: u32 = 3;

/// Most words of a span, whose length has a geometric distribution cut off there: 3.8 words on average (Joshi
/// et al. 2020, section 3.1).
const LONGEST_SPAN: usize = 10;

/// Parameter of that distribution.
const SPAN_P: f64 = 0.2;

/// Chooses among the words of one sample. Words are told token by token, then chosen, then turned into places.
pub struct Chooser {
    lengths: Lengths,
    words: Vec<Word>,
    /// Candidates so far.
    candidates: u32,
    /// Whether the next token cannot go on with the word before.
    run_ended: bool,
    /// For each word what became of it.
    chosen: Vec<Choice>,
    /// The order in which words are tried.
    order: Vec<u32>,
    /// For each place left whether a group begins there.
    opens: Vec<bool>,
}

/// A word, as a range of candidates.
struct Word {
    from: u32,
    to: u32,
    /// Whether it comes right behind the word before it.
    follows: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Left,
    Opens,
    GoesOn,
}

impl Chooser {
    /// A chooser of such groups; `None` where the unit is the token.
    pub fn new(unit: MaskUnit) -> Option<Self> {
        let lengths = match unit {
            MaskUnit::Token => return None,
            MaskUnit::Word => Lengths::new(&[1.0]),
            MaskUnit::Ngram => {
                Lengths::new(&(1..=LONGEST_NGRAM).map(|n| 1.0 / f64::from(n)).collect::<Vec<_>>())
            }
            MaskUnit::Span => {
                let weights = std::iter::successors(Some(1.0), |weight| Some(weight * (1.0 - SPAN_P)));
                Lengths::new(&weights.take(LONGEST_SPAN).collect::<Vec<_>>())
            }
        };
        Some(Self {
            lengths,
            words: Vec::new(),
            candidates: 0,
            run_ended: true,
            chosen: Vec::new(),
            order: Vec::new(),
            opens: Vec::new(),
        })
    }

    /// Forgets all words.
    pub fn clear(&mut self) {
        self.words.clear();
        self.candidates = 0;
        self.run_ended = true;
    }

    /// The next token, whether it begins a word and whether it may be predicted.
    pub fn add(&mut self, begins: bool, candidate: bool) {
        if begins || self.run_ended {
            let follows = !self.run_ended && !self.drop_empty();
            self.words.push(Word { from: self.candidates, to: self.candidates, follows });
            self.run_ended = false;
        }
        if candidate {
            self.candidates += 1;
            if let Some(word) = self.words.last_mut() {
                word.to = self.candidates;
            }
        }
    }

    /// The last word is complete, and no group goes on behind it.
    pub fn end_run(&mut self) {
        self.drop_empty();
        self.run_ended = true;
    }

    /// Drops the last word where it has no candidate; tells whether it did.
    fn drop_empty(&mut self) -> bool {
        self.words.pop_if(|word| word.from == word.to).is_some()
    }

    /// Chooses groups of together `budget` candidates at most: words are tried as starts in random order, and
    /// a group takes as many words of its drawn length as are free, follow and fit the budget (Google's
    /// whole-word masking, ALBERT's n-grams). A start that does not fit is passed over, so that a few
    /// candidates of the budget may be left: where every word is longer than it, all of them.
    pub fn choose_exact(&mut self, budget: usize, rng: &mut SampleRng) {
        self.begin();
        let mut left = budget as u32;
        self.order.clear();
        self.order.extend(0..self.words.len() as u32);
        for i in 0..self.order.len() {
            if left == 0 {
                break;
            }
            let j = i + rng.below((self.order.len() - i) as u64) as usize;
            self.order.swap(i, j);
            let start = self.order[i] as usize;
            if self.chosen[start] == Choice::Left && self.words[start].len() <= left {
                let length = self.lengths.draw(rng);
                left -= self.take(start, length, left);
            }
        }
    }

    /// Chooses groups such that each candidate is chosen with probability `rate`.
    ///
    /// Words are walked through; at each that no group has reached a group begins with probability `s`. With
    /// groups of `m` words on average, a step of the walk covers `s m` words and leaves `1 - s`, so that the
    /// covered share is `s m / (s m + 1 - s)`; it is `rate` for `s = rate / (rate + m (1 - rate))`. So it is
    /// far from the beginning of a run. To have it from the first word on, a run begins as if the walk had
    /// come from afar: within a group with probability `rate`, of which `r` words are then left with
    /// probability `P(length >= r) / m`.
    pub fn choose_bernoulli(&mut self, rate: f64, rng: &mut SampleRng) {
        self.begin();
        let begins = rate / (rate + self.lengths.mean * (1.0 - rate));
        let mut at = 0;
        while at < self.words.len() {
            let length = match self.words[at].follows {
                true => (rng.unit() < begins).then(|| self.lengths.draw(rng)),
                false => (rng.unit() < rate).then(|| self.lengths.draw_rest(rng)),
            };
            let Some(length) = length else {
                at += 1;
                continue;
            };
            self.take(at, length, u32::MAX);
            at += 1;
            while self.chosen.get(at) == Some(&Choice::GoesOn) {
                at += 1;
            }
        }
    }

    /// Leaves of the candidates' places those that were chosen.
    pub fn leave_chosen(&mut self, places: &mut Vec<u32>) {
        self.opens.clear();
        for (word, &choice) in self.words.iter().zip(&self.chosen).filter(|word| *word.1 != Choice::Left) {
            for candidate in word.from..word.to {
                places[self.opens.len()] = places[candidate as usize];
                self.opens.push(candidate == word.from && choice == Choice::Opens);
            }
        }
        places.truncate(self.opens.len());
    }

    /// Whether a group begins at the `i`-th place that was left.
    pub fn opens(&self, i: usize) -> bool {
        self.opens[i]
    }

    fn begin(&mut self) {
        self.end_run();
        self.chosen.clear();
        self.chosen.resize(self.words.len(), Choice::Left);
    }

    /// Chooses up to `length` words from `start` on, of `most` candidates together; gives their number.
    fn take(&mut self, start: usize, length: usize, most: u32) -> u32 {
        let mut taken = 0;
        for at in start..self.words.len().min(start + length) {
            let word = &self.words[at];
            let goes_on = at == start || (word.follows && self.chosen[at] == Choice::Left);
            if !goes_on || taken + word.len() > most {
                break;
            }
            taken += word.len();
            self.chosen[at] = if at == start { Choice::Opens } else { Choice::GoesOn };
        }
        taken
    }
}

impl Word {
    fn len(&self) -> u32 {
        self.to - self.from
    }
}

/// How many words groups have.
struct Lengths {
    /// Probability of more than `i` words, from 0 on.
    more_than: Vec<f64>,
    mean: f64,
}

impl Lengths {
    /// Lengths 1, 2, ... in proportion to `weights`.
    fn new(weights: &[f64]) -> Self {
        let all: f64 = weights.iter().sum();
        let more_than: Vec<f64> =
            (0..weights.len()).map(|i| weights[i..].iter().sum::<f64>() / all).collect();
        let mean = more_than.iter().sum();
        Self { more_than, mean }
    }

    fn draw(&self, rng: &mut SampleRng) -> usize {
        if self.more_than.len() == 1 {
            return 1;
        }
        let draw = rng.unit();
        self.more_than.iter().take_while(|&&more| draw < more).count().max(1)
    }

    /// How many words of a group are left, seen from a random word of it on.
    fn draw_rest(&self, rng: &mut SampleRng) -> usize {
        if self.more_than.len() == 1 {
            return 1;
        }
        let mut draw = rng.unit() * self.mean;
        let passed = |more: &&f64| {
            draw -= **more;
            draw >= 0.0
        };
        (1 + self.more_than.iter().take_while(passed).count()).min(self.more_than.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Domain;
    use crate::sample::mask::exact_count;

    const UNITS: [MaskUnit; 3] = [MaskUnit::Word, MaskUnit::Ngram, MaskUnit::Span];

    /// A chooser told of words, each the tokens of it that may be predicted, `None` where a segment ends. The
    /// place of a candidate is its token's.
    fn told(unit: MaskUnit, words: &[Option<Vec<bool>>]) -> (Chooser, Vec<u32>) {
        let mut chooser = Chooser::new(unit).unwrap();
        let (mut places, mut at) = (Vec::new(), 0);
        for word in words {
            let Some(tokens) = word else {
                chooser.end_run();
                continue;
            };
            for (i, &candidate) in tokens.iter().enumerate() {
                chooser.add(i == 0, candidate);
                places.extend(candidate.then_some(at));
                at += 1;
            }
        }
        (chooser, places)
    }

    fn words() -> impl Strategy<Value = Vec<Option<Vec<bool>>>> {
        let tokens = prop::collection::vec(prop::bool::weighted(0.9), 1..5);
        prop::collection::vec(prop::option::weighted(0.95, tokens), 0..40)
    }

    /// For each word with a candidate the places of its candidates.
    fn groups(words: &[Option<Vec<bool>>]) -> Vec<Vec<u32>> {
        let mut at = 0;
        let places = |tokens: &Vec<bool>| {
            at += tokens.len() as u32;
            let from = at - tokens.len() as u32;
            (from..at).zip(tokens).filter(|token| *token.1).map(|token| token.0).collect()
        };
        words.iter().flatten().map(places).collect()
    }

    proptest! {
        #[test]
        fn no_word_is_split_and_the_budget_is_kept(words in words(), rate in 0.0f64..=1.0, seed: u64) {
            for unit in UNITS {
                let (mut chooser, all) = told(unit, &words);
                let budget = exact_count(rate, all.len());
                let mut rng = SampleRng::new(Domain::Survey, seed, &[]);
                chooser.choose_exact(budget, &mut rng);
                let mut exact = all.clone();
                chooser.leave_chosen(&mut exact);
                chooser.choose_bernoulli(rate, &mut rng);
                let mut bernoulli = all.clone();
                chooser.leave_chosen(&mut bernoulli);
                for chosen in [&exact, &bernoulli] {
                    prop_assert!(chosen.windows(2).all(|w| w[0] < w[1]));
                    for group in groups(&words) {
                        let hit = group.iter().filter(|place| chosen.contains(place)).count();
                        prop_assert!(hit == 0 || hit == group.len(), "{group:?} in {chosen:?}");
                    }
                }
                // What is left of the budget is less than the shortest word that was left.
                let left = groups(&words).into_iter().filter(|g| !g.is_empty() && !exact.contains(&g[0]));
                let shortest = left.map(|group| group.len()).min().unwrap_or(usize::MAX);
                prop_assert!(exact.len() <= budget && budget - exact.len() < shortest);
            }
        }
    }

    #[test]
    fn every_candidate_is_chosen_at_the_rate() {
        // Two segments, short runs and long ones, words of one to three tokens.
        let word = |n: usize| Some(vec![true; n]);
        let mut words: Vec<_> = (0..30).map(|i| word(1 + i % 3)).collect();
        words[3] = Some(vec![false]);
        words[11] = None;
        words[20] = Some(vec![true, false, true]);
        for unit in UNITS {
            for rate in [0.15, 0.5, 1.0] {
                let (mut chooser, all) = told(unit, &words);
                let mut counts = vec![0u32; 70];
                let mut rng = SampleRng::new(Domain::Survey, 1, &[]);
                const ROUNDS: u32 = 20_000;
                for _ in 0..ROUNDS {
                    chooser.choose_bernoulli(rate, &mut rng);
                    let mut chosen = all.clone();
                    chooser.leave_chosen(&mut chosen);
                    chosen.iter().for_each(|&at| counts[at as usize] += 1);
                }
                // At each place by itself: four standard deviations.
                let bound = 4.0 * (rate * (1.0 - rate) / f64::from(ROUNDS)).sqrt();
                for &at in &all {
                    let share = f64::from(counts[at as usize]) / f64::from(ROUNDS);
                    assert!((share - rate).abs() <= bound + 1e-9, "{unit:?} at {rate}, place {at}: {share}");
                }
            }
        }
    }

    #[test]
    fn the_lengths_of_groups_have_their_distribution() {
        let check = |unit, mean: f64, expected: &[f64]| {
            let lengths = Chooser::new(unit).unwrap().lengths;
            assert!((lengths.mean - mean).abs() < 5e-3, "{}", lengths.mean);
            let mut rng = SampleRng::new(Domain::Survey, 2, &[]);
            let mut counts = vec![0u32; lengths.more_than.len() + 1];
            let mut rests = counts.clone();
            const ROUNDS: u32 = 100_000;
            for _ in 0..ROUNDS {
                counts[lengths.draw(&mut rng)] += 1;
                rests[lengths.draw_rest(&mut rng)] += 1;
            }
            let near = |count: u32, p: f64| {
                let sigma = (p * (1.0 - p) / f64::from(ROUNDS)).sqrt();
                (f64::from(count) / f64::from(ROUNDS) - p).abs() <= 4.0 * sigma + 1e-9
            };
            for (i, &p) in expected.iter().enumerate() {
                assert!(near(counts[i + 1], p), "{unit:?}: {counts:?}");
                let rest = expected[i..].iter().sum::<f64>() / lengths.mean;
                assert!(near(rests[i + 1], rest), "{unit:?}: {rests:?}");
            }
        };
        check(MaskUnit::Word, 1.0, &[1.0]);
        check(MaskUnit::Ngram, 18.0 / 11.0, &[6.0 / 11.0, 3.0 / 11.0, 2.0 / 11.0]);
        let geometric = |n: i32| 0.2 * 0.8f64.powi(n) / (1.0 - 0.8f64.powi(10));
        // The mean that the paper gives.
        check(MaskUnit::Span, 3.8, &(0..10).map(geometric).collect::<Vec<_>>());
    }

    #[test]
    fn exact_spans_of_a_long_text_are_as_long_as_they_are_drawn() {
        let words = vec![Some(vec![true]); 4000];
        let (mut chooser, all) = told(MaskUnit::Span, &words);
        let (mut spans, mut chosen) = (0, 0);
        for seed in 0..20 {
            chooser.choose_exact(40, &mut SampleRng::new(Domain::Survey, seed, &[]));
            let mut places = all.clone();
            chooser.leave_chosen(&mut places);
            assert_eq!(places.len(), 40);
            chosen += places.len();
            spans += (0..places.len()).filter(|&i| chooser.opens(i)).count();
        }
        // Some 210 spans, the last of each text cut by the budget.
        let mean = chosen as f64 / spans as f64;
        assert!((3.0..4.2).contains(&mean), "{mean}");
    }
}
