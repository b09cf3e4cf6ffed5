//! The usual mask, made fast: single tokens, as many as the rate asks for, in a row of at most 128.
//!
//! Takes a row and the number of its tokens of text, masks it in place. The work is proportional to the tokens that are
//! chosen, and next to nothing that is drawn decides a branch: a processor guesses such branches wrongly, and loses more
//! than the draws take. Whatever is less usual it leaves to [`super::Masker`], as the row was.

use std::hint::select_unpredictable as select;

use multiversion::multiversion;

use super::{Corruption, MaskCount, MaskUnit, SampleConfig, mask};
use crate::rng::{QuickRng, SampleRng};
use crate::vocab::{Specials, Tokenizer};

/// The longest row: its places are two words of bits.
const LONGEST: usize = 128;

/// Most tokens that are chosen in it.
const MOST: usize = LONGEST / 2;

/// Places tried beyond the wanted number without asking whether they are needed. Of a full row 1.9 draws on average
/// come to nothing, because their place was drawn before or holds no word.
const SPARE: usize = 4;

/// Places that are drawn from one number, each by 7 of its 64 bits at most: no four are likelier than four others by more
/// than 2^-36 of that.
const PER_NUMBER: usize = 4;

/// Binary places behind the point of [`ShortRows::tokens`].
const FRACTION: u32 = 16;

/// What is the same for all rows.
pub struct ShortRows {
    unknown: u32,
    mask: u32,
    /// Ids above this one have no role.
    highest_special: u32,
    /// For each number of candidates how many of them are chosen.
    budgets: [u8; LONGEST + 1],
    /// A draw below `random` gives another token, one from there on and below `replaced` the mask, and any else nothing.
    random: u64,
    replaced: u64,
    /// Ordinary tokens for each draw there is, were all of them below `random`; times 2^[`FRACTION`].
    tokens: u64,
    /// The first ordinary token, where they follow each other; `None` where the tokenizer has to be asked.
    first: Option<u32>,
}

/// What was chosen in a row: as many of each column as were chosen, and then whatever stood there.
pub struct Chosen {
    places: [u32; MOST],
    labels: [u32; MOST],
    corruptions: [Corruption; MOST],
    count: usize,
}

impl Chosen {
    /// Nothing.
    pub fn new() -> Self {
        Self { places: [0; MOST], labels: [0; MOST], corruptions: [Corruption::Keep; MOST], count: 0 }
    }

    /// Places in the row, ascending.
    pub fn places(&self) -> &[u32] {
        &self.places[..self.count]
    }

    /// The true ids there.
    pub fn labels(&self) -> &[u32] {
        &self.labels[..self.count]
    }

    /// What was done to them.
    pub fn corruptions(&self) -> &[Corruption] {
        &self.corruptions[..self.count]
    }
}

impl ShortRows {
    /// `None` where the configuration wants another kind of mask.
    pub fn new(tokenizer: &dyn Tokenizer, config: &SampleConfig) -> Option<Self> {
        let usual = config.mask_unit == MaskUnit::Token && config.mask_count == MaskCount::Exact;
        if !usual || config.predict_unknown {
            return None;
        }
        let Specials { pad, unknown, separator, classify, mask } = tokenizer.specials();
        let SampleConfig { mask_rate, mask_share, random_share, .. } = *config;
        let (ordinary, below) = (tokenizer.ordinary_len(), |share: f64| (share * 2f64.powi(64)) as u64);
        // A hair less, so that rounding never gives one token too many.
        let tokens = f64::from(ordinary) / random_share * f64::from(1 << FRACTION) * (1.0 - 1e-12);
        let follow = |first| (0..ordinary).all(|k| tokenizer.ordinary(k) == first + k);
        Some(Self {
            unknown,
            mask,
            highest_special: [unknown, separator, classify, mask].into_iter().fold(pad, u32::max),
            budgets: std::array::from_fn(|candidates| mask::exact_count(mask_rate, candidates) as u8),
            random: below(random_share),
            replaced: below(random_share + mask_share),
            tokens: tokens as u64,
            first: (ordinary > 0).then(|| tokenizer.ordinary(0)).filter(|&first| follow(first)),
        })
    }

    /// Masks a row of which `text` tokens are text, and all others have a role. Leaves it as it is and tells `false`
    /// where it is too long, where ids of the text have a role or could have one, and where more than half is wanted.
    pub fn mask(
        &self,
        tokenizer: &dyn Tokenizer,
        ids: &mut [u32],
        text: usize,
        rng: &mut SampleRng,
        chosen: &mut Chosen,
    ) -> bool {
        if ids.len() > LONGEST {
            return false;
        }
        let fits = mask_row(self, ids, text, rng, chosen);
        if fits && self.first.is_none() {
            let places = chosen.places().iter().zip(chosen.corruptions());
            for (&place, _) in places.filter(|(_, corruption)| **corruption == Corruption::Random) {
                let id = &mut ids[place as usize];
                *id = tokenizer.ordinary(*id);
            }
        }
        fits
    }
}

/// [`mask_here`], once for any processor and once for those with instructions for bits.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2+popcnt+lzcnt"))]
fn mask_row(
    rows: &ShortRows,
    ids: &mut [u32],
    text: usize,
    rng: &mut SampleRng,
    chosen: &mut Chosen,
) -> bool {
    mask_here(rows, ids, text, rng, chosen)
}

/// Masks a row, as [`ShortRows::mask`] says. Another token is told by its number among the ordinary ones where it is not
/// known what they are.
#[inline(always)]
fn mask_here(
    rows: &ShortRows,
    ids: &mut [u32],
    text: usize,
    rng: &mut SampleRng,
    chosen: &mut Chosen,
) -> bool {
    let (mut low, mut unknown) = (0, 0);
    for &id in &*ids {
        low += u32::from(id <= rows.highest_special);
        unknown += u32::from(id == rows.unknown);
    }
    let candidates = ids.len() - low as usize;
    let count = usize::from(rows.budgets[candidates]);
    // Words of the text that the vocabulary lacks are all that may be low in it.
    if (low - unknown) as usize + text != ids.len() || 2 * count > candidates {
        return false;
    }
    let mut rng = rng.quick();
    let mut ascending = Ascending::of(choose(ids, rows.highest_special, count, &mut rng));
    let columns =
        (&mut chosen.places[..count], &mut chosen.labels[..count], &mut chosen.corruptions[..count]);
    chosen.count = count;

    let first = rows.first.unwrap_or(0);
    let &ShortRows { mask, random, replaced, tokens, .. } = rows;
    let mut corrupt = |draw: u64, place: &mut u32, label: &mut u32, corruption: &mut Corruption| {
        let at = ascending.next();
        *place = at as u32;
        let id = &mut ids[at];
        *label = *id;
        let number = (u128::from(draw) * u128::from(tokens)) >> 64;
        // What is too large for any token is not taken.
        let other = first.wrapping_add((number as u64 >> FRACTION) as u32);
        let unless_random = select(draw < replaced, mask, *id);
        *id = select(draw < random, other, unless_random);
        *corruption = CORRUPTIONS[usize::from(draw >= random) + usize::from(draw >= replaced)];
    };
    // A number serves two tokens, its halves in either order: what it tells one by its upper half hardly depends on the
    // lower one.
    let (places, last_place) = columns.0.as_chunks_mut::<2>();
    let (labels, last_label) = columns.1.as_chunks_mut::<2>();
    let (corruptions, last_corruption) = columns.2.as_chunks_mut::<2>();
    for ((place, label), corruption) in places.iter_mut().zip(labels).zip(corruptions) {
        let number = rng.next_u64();
        corrupt(number.rotate_left(32), &mut place[0], &mut label[0], &mut corruption[0]);
        corrupt(number, &mut place[1], &mut label[1], &mut corruption[1]);
    }
    if let ([place], [label], [corruption]) = (last_place, last_label, last_corruption) {
        corrupt(rng.next_u64(), place, label, corruption);
    }
    true
}

/// In the order of the draws that give them.
static CORRUPTIONS: [Corruption; 3] = [Corruption::Random, Corruption::Mask, Corruption::Keep];

/// `count` of the places with ids above `low`; each subset of them is equally likely.
///
/// Places are drawn until there are enough; one that was drawn before, or holds no such id, comes to nothing. As many as
/// are wanted cannot be too many; behind them some are spare, of which those are kept that are still wanted.
#[inline(always)]
fn choose(ids: &[u32], low: u32, count: usize, rng: &mut QuickRng) -> Places {
    // What is left of a number behind the place that it gives is the number that gives the next one.
    let draw = |number: &mut u64| {
        let product = u128::from(*number) * ids.len() as u128;
        let place = (product >> 64) as usize;
        *number = product as u64;
        Places::of(select(ids[place] > low, place % LONGEST, LONGEST))
    };
    let (mut chosen, mut number) = (Places { low: 0, high: 0 }, 0);
    for i in 0..count {
        if i % PER_NUMBER == 0 {
            number = rng.next_u64();
        }
        chosen.add(draw(&mut number));
    }
    let (mut all, mut spare) = (chosen, rng.next_u64());
    for _ in 0..SPARE {
        all.add(draw(&mut spare));
        let wanted = all.count() <= count;
        chosen.low = select(wanted, all.low, chosen.low);
        chosen.high = select(wanted, all.high, chosen.high);
    }
    while chosen.count() < count {
        chosen.add(draw(&mut rng.next_u64()));
    }
    chosen
}

/// A set of places below [`LONGEST`], as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    low: u64,
    high: u64,
}

/// The bits of the low word from 64 on, those of the high word from 0 on: reading is cheaper than shifting in two words.
static BITS: [u64; 64 + LONGEST + 1] = {
    let mut bits = [0; 64 + LONGEST + 1];
    let mut i = 0;
    while i < 64 {
        bits[64 + i] = 1 << i;
        i += 1;
    }
    bits
};

impl Places {
    /// The set of this place alone; of [`LONGEST`] the empty one.
    #[inline(always)]
    fn of(place: usize) -> Self {
        Self { low: BITS[64 + place], high: BITS[place] }
    }

    #[inline(always)]
    fn add(&mut self, other: Self) {
        self.low |= other.low;
        self.high |= other.high;
    }

    #[inline(always)]
    fn count(self) -> usize {
        (self.low.count_ones() + self.high.count_ones()) as usize
    }
}

/// The places of a set, lowest first.
struct Ascending {
    /// Those of one word that are left, and the place of its first bit.
    word: u64,
    base: u32,
    high: u64,
}

impl Ascending {
    #[inline(always)]
    fn of(places: Places) -> Self {
        let Places { low, high } = places;
        let mut ascending = Self { word: low, base: 0, high };
        ascending.go_on();
        ascending
    }

    /// The next place; anything where there is none.
    #[inline(always)]
    fn next(&mut self) -> usize {
        let place = self.base + self.word.trailing_zeros();
        self.word &= self.word.wrapping_sub(1);
        self.go_on();
        place as usize
    }

    /// Goes on to the high word where none is left in the low one.
    #[inline(always)]
    fn go_on(&mut self) {
        let ended = self.word == 0;
        self.base = select(ended, 64, self.base);
        self.word = select(ended, self.high, self.word);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::rng::Domain;
    use crate::vocab::WordVocab;

    /// Ordinary words of the vocabulary of these tests: ids 5 to 14.
    const WORDS: u32 = 10;

    fn vocab() -> WordVocab {
        WordVocab::from_texts(["a b c d e f g h i j"], None, 1)
    }

    /// A row of one text, its unknown words at the places of `unknown`.
    fn row(text: usize, unknown: &BTreeSet<usize>) -> Vec<u32> {
        let Specials { unknown: id, separator, classify, .. } = vocab().specials();
        let word = |at| if unknown.contains(&at) { id } else { 5 + at as u32 % WORDS };
        [classify].into_iter().chain((1..=text).map(word)).chain([separator]).collect()
    }

    /// The mask as it is defined, one draw after the other: places and what stands there then.
    fn by_definition(ids: &[u32], config: &SampleConfig, mut rng: QuickRng) -> Vec<(u32, u32, Corruption)> {
        let count = mask::exact_count(config.mask_rate, ids.iter().filter(|&&id| id > 4).count());
        let (mut chosen, mut number) = (BTreeSet::new(), 0);
        let place = |number: &mut u64| {
            let product = u128::from(*number) * ids.len() as u128;
            *number = product as u64;
            let place = (product >> 64) as usize;
            (ids[place] > 4).then_some(place)
        };
        for i in 0..count {
            number = if i % PER_NUMBER == 0 { rng.next_u64() } else { number };
            chosen.extend(place(&mut number));
        }
        let mut spare = rng.next_u64();
        for _ in 0..SPARE {
            let drawn = place(&mut spare);
            chosen.extend(drawn.filter(|_| chosen.len() < count));
        }
        while chosen.len() < count {
            chosen.extend(place(&mut rng.next_u64()));
        }
        let mut number = 0;
        let fate = |(i, place): (usize, usize)| {
            number = if i % 2 == 0 { rng.next_u64() } else { number };
            let swapped = i % 2 == 0 && i + 1 < count;
            let draw = if swapped { number.rotate_left(32) } else { number };
            let unit = draw as f64 / 2f64.powi(64);
            let (at, id) = (place as u32, ids[place]);
            match unit {
                _ if unit < config.random_share => {
                    (at, 5 + (unit / config.random_share * f64::from(WORDS)) as u32, Corruption::Random)
                }
                _ if unit < config.random_share + config.mask_share => (at, 4, Corruption::Mask),
                _ => (at, id, Corruption::Keep),
            }
        };
        chosen.into_iter().enumerate().map(fate).collect()
    }

    proptest! {
        /// As this processor does it, with a tokenizer that is asked for each token, and as any processor does it.
        #[test]
        fn it_is_what_is_defined(
            text in 1usize..=LONGEST - 2,
            unknown in proptest::collection::btree_set(1usize..LONGEST, 0..40),
            rate in 0.0f64..0.5,
            shares in (0.0f64..=0.5, 0.0f64..=0.5),
            seed: u64,
        ) {
            let config = SampleConfig {
                mask_rate: rate, random_share: shares.0, mask_share: shares.1, ..SampleConfig::default()
            };
            let vocab = vocab();
            let rows = ShortRows::new(&vocab, &config).unwrap();
            let given = row(text, &unknown);
            let stream = SampleRng::new(Domain::Survey, seed, &[]);
            let expected = by_definition(&given, &config, stream.clone().quick());
            let wanted = 2 * expected.len() <= given.iter().filter(|&&id| id > 4).count();
            let asked = ShortRows { first: None, ..ShortRows::new(&vocab, &config).unwrap() };
            for way in 0..3 {
                let (mut ids, mut rng, mut chosen) = (given.clone(), stream.clone(), Chosen::new());
                let fits = match way {
                    0 => rows.mask(&vocab, &mut ids, text, &mut rng, &mut chosen),
                    1 => asked.mask(&vocab, &mut ids, text, &mut rng, &mut chosen),
                    _ => mask_here(&rows, &mut ids, text, &mut rng, &mut chosen),
                };
                prop_assert_eq!(fits, wanted);
                if !fits {
                    prop_assert_eq!(&ids, &given);
                    continue;
                }
                prop_assert_eq!(chosen.count, expected.len());
                let mut whole = given.clone();
                for (i, &(place, id, corruption)) in expected.iter().enumerate() {
                    let found = (chosen.places[i], chosen.labels[i], chosen.corruptions[i]);
                    prop_assert_eq!(found, (place, given[place as usize], corruption));
                    whole[place as usize] = id;
                }
                prop_assert_eq!(&ids, &whole);
            }
        }
    }

    #[test]
    fn each_place_is_chosen_equally_often_and_each_pair_too() {
        let (text, unknown) = (70, BTreeSet::from([3, 64, 65]));
        let vocab = vocab();
        let config = SampleConfig { mask_rate: 0.15, ..SampleConfig::default() };
        let rows = ShortRows::new(&vocab, &config).unwrap();
        let given = row(text, &unknown);
        let (mut counts, mut together) = ([0u32; LONGEST], 0u32);
        let mut chosen = Chosen::new();
        const ROUNDS: u32 = 60_000;
        for seed in 0..u64::from(ROUNDS) {
            let mut rng = SampleRng::new(Domain::Survey, seed, &[]);
            assert!(rows.mask(&vocab, &mut given.clone(), text, &mut rng, &mut chosen));
            let places = chosen.places();
            places.iter().for_each(|&place| counts[place as usize] += 1);
            // Neighbours, in both words.
            together += places.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() as u32;
        }
        // 10 of 67.
        let (n, p) = (f64::from(ROUNDS), 10.0 / 67.0);
        for place in (1..=text).filter(|place| !unknown.contains(place)) {
            let deviation = (f64::from(counts[place]) - n * p) / (n * p * (1.0 - p)).sqrt();
            assert!(deviation.abs() < 4.0, "place {place}: {deviation}");
        }
        assert_eq!(counts.iter().sum::<u32>(), 10 * ROUNDS);
        // 65 words have a word behind them, each pair of words is chosen together with 10/67 9/66. Pairs that overlap
        // spread a little wider than independent ones.
        let expected = n * 65.0 * p * 9.0 / 66.0;
        assert!((f64::from(together) - expected).abs() < 5.0 * expected.sqrt(), "{together}, {expected}");
    }

    #[test]
    fn fates_have_their_shares_and_tokens_are_uniform() {
        let vocab = vocab();
        let config = SampleConfig::default();
        let rows = ShortRows::new(&vocab, &config).unwrap();
        let given = row(126, &BTreeSet::new());
        let (mut fates, mut tokens, mut chosen) = ([0u32; 3], [0u32; WORDS as usize], Chosen::new());
        for seed in 0..20_000 {
            let mut ids = given.clone();
            rows.mask(&vocab, &mut ids, 126, &mut SampleRng::new(Domain::Survey, seed, &[]), &mut chosen);
            for (&place, &corruption) in chosen.places().iter().zip(chosen.corruptions()) {
                fates[corruption as usize] += 1;
                if corruption == Corruption::Random {
                    tokens[ids[place as usize] as usize - 5] += 1;
                }
            }
        }
        let near = |count: u32, of: u32, p: f64| {
            let of = f64::from(of);
            assert!(
                (f64::from(count) - of * p).abs() < 4.0 * (of * p * (1.0 - p)).sqrt(),
                "{count} of {of}: {p}"
            );
        };
        let all = fates.iter().sum();
        assert_eq!(all, 19 * 20_000);
        fates.into_iter().zip([0.8, 0.1, 0.1]).for_each(|(count, p)| near(count, all, p));
        tokens.into_iter().for_each(|count| near(count, fates[1], 1.0 / f64::from(WORDS)));
    }

    #[test]
    fn shares_of_all_and_of_nothing() {
        let check = |mask_share, random_share, expected| {
            let vocab = vocab();
            let config = SampleConfig { mask_share, random_share, ..SampleConfig::default() };
            let rows = ShortRows::new(&vocab, &config).unwrap();
            let mut chosen = Chosen::new();
            for seed in 0..100 {
                let (mut ids, mut rng) =
                    (row(100, &BTreeSet::new()), SampleRng::new(Domain::Survey, seed, &[]));
                assert!(rows.mask(&vocab, &mut ids, 100, &mut rng, &mut chosen));
                assert_eq!(chosen.corruptions(), [expected; 15]);
            }
        };
        check(1.0, 0.0, Corruption::Mask);
        check(0.0, 1.0, Corruption::Random);
        check(0.0, 0.0, Corruption::Keep);
    }
}
