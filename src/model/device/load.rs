//! A batch as the kernels read it: real tokens only, one behind the other, and who reads whom.
//!
//! Made on the host into one column of bytes, so that it goes to the device in one copy.

use super::Address;
use super::arguments::align;
use crate::collate::HostBatch;
use crate::model::{Arch, ModelConfig, Wanted, dropout_coordinate};

/// Queries of an attention kernel's block: `ATTENTION_TILE` of the kernels.
pub const ATTENTION_TILE: usize = 64;

/// Most rows that are added up one after the other: a frequent token's gradients are summed in pieces, whose sums are
/// then added.
const PIECE: usize = 64;

/// Where a batch's columns lie: at first from the beginning of [`Loader::bytes`], then on the device.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// `(tokens)`: rows of the embedding tables.
    pub ids: Address,
    pub positions: Address,
    pub segments: Address,
    /// `(tokens)`, 64 bits: dropout coordinates.
    pub coordinates: Address,
    /// `(tiles, 3)`: the sample's first token, its length, the tile's first query within it.
    pub tiles: Address,
    /// `(selected)`: the tokens that go on behind the last block's attention, ascending, and their dropout coordinates.
    pub selected: Address,
    pub selected_coordinates: Address,
    /// `(masked)`: tokens to predict, by their place among the selected, and their labels.
    pub masked: Address,
    pub labels: Address,
    /// `(samples)`: their first tokens, by their place among the selected, and their pair labels.
    pub firsts: Address,
    pub pairs: Address,
    /// What the tables' gradients are summed from.
    pub token_sums: Sums,
    pub segment_sums: Sums,
    pub position_sums: Sums,
}

/// Rows summed by a key: first pieces of at most [`PIECE`] rows, then the pieces of a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Rows, by key.
    pub order: Address,
    /// `(pieces + 1)`: where in `order` pieces begin.
    pub pieces: Address,
    pub piece_count: usize,
    /// `(keys + 1)`: the pieces with which keys begin.
    pub keys: Address,
    /// `(keys)`: the keys themselves.
    pub targets: Address,
    pub key_count: usize,
}

/// How much there is of everything in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub tokens: usize,
    pub samples: usize,
    /// Tokens that go on behind the last block's attention.
    pub selected: usize,
    pub masked: usize,
    /// Tiles of attention.
    pub tiles: usize,
}

/// A batch's columns as bytes.
pub struct Loader {
    pub bytes: Vec<u8>,
    pub columns: Columns,
    pub counts: Counts,
}

impl Loader {
    /// Takes the batch, whose first sample is row `first_row` of the step.
    pub fn new(batch: &HostBatch, config: &ModelConfig, first_row: usize, wanted: Wanted) -> Self {
        // BERT numbers its segments from 0 and has no row for padding.
        let (first_segment, first_key) = match config.arch {
            Arch::Reference => (0, 1),
            Arch::Bert => (1, 0),
        };
        let (mut ids, mut positions, mut segments) = (vec![], vec![], vec![]);
        let (mut coordinates, mut tiles, mut firsts) = (vec![], vec![], vec![]);
        for sample in 0..batch.samples() {
            let span = batch.span(sample);
            let (first, len) = (ids.len() as u32, span.len());
            firsts.push(first);
            tiles
                .extend((0..len).step_by(ATTENTION_TILE).flat_map(|query| [first, len as u32, query as u32]));
            ids.extend_from_slice(&batch.ids[span.clone()]);
            segments.extend(batch.segments[span].iter().map(|&s| u32::from(s) - first_segment));
            positions.extend(0..len as u32);
            coordinates.extend((0..len).map(|p| dropout_coordinate(first_row + sample, p, 0)));
        }
        let masked: Vec<u32> = (batch.masked.iter())
            .map(|&flat| {
                let sample = batch.sample_at(flat as usize);
                firsts[sample] + flat - batch.start(sample) as u32
            })
            .collect();
        let selected: Vec<u32> = match wanted {
            Wanted::All => (0..ids.len() as u32).collect(),
            Wanted::Predicted => {
                let mut tokens: Vec<u32> = firsts.iter().chain(&masked).copied().collect();
                tokens.sort_unstable();
                tokens.dedup();
                tokens
            }
        };
        let place_of =
            |token: &u32| selected.binary_search(token).expect("what is predicted from is selected") as u32;
        let of_selected: Vec<u64> = selected.iter().map(|&token| coordinates[token as usize]).collect();
        let masked: Vec<u32> = masked.iter().map(place_of).collect();
        let first_places: Vec<u32> = firsts.iter().map(place_of).collect();
        let pairs: Vec<u32> = batch.pairs.iter().map(|&pair| pair as u32).collect();
        let mut bytes = vec![];
        let columns = Columns {
            coordinates: append(&mut bytes, &coordinates, |n: &u64| n.to_le_bytes()),
            selected_coordinates: append(&mut bytes, &of_selected, |n: &u64| n.to_le_bytes()),
            selected: numbers(&mut bytes, &selected),
            ids: numbers(&mut bytes, &ids),
            positions: numbers(&mut bytes, &positions),
            segments: numbers(&mut bytes, &segments),
            tiles: numbers(&mut bytes, &tiles),
            masked: numbers(&mut bytes, &masked),
            labels: numbers(&mut bytes, &batch.labels),
            firsts: numbers(&mut bytes, &first_places),
            pairs: numbers(&mut bytes, &pairs),
            // Row 0 of the token embedding is padding, and of the reference's segments too.
            token_sums: sums(&mut bytes, &ids, 1),
            segment_sums: sums(&mut bytes, &segments, first_key),
            position_sums: match config.arch {
                Arch::Reference => Sums::default(),
                Arch::Bert => sums(&mut bytes, &positions, 0),
            },
        };
        let counts = Counts {
            tokens: ids.len(),
            samples: firsts.len(),
            selected: selected.len(),
            masked: masked.len(),
            tiles: tiles.len() / 3,
        };
        Self { bytes, columns, counts }
    }
}

impl Columns {
    /// Pieces of the sums of the key with most.
    pub fn most_pieces(&self) -> usize {
        let sums = [self.token_sums, self.segment_sums, self.position_sums];
        sums.iter().map(|sums| sums.piece_count).max().unwrap_or(0)
    }

    /// The columns where the bytes begin at `base`.
    pub fn at(&self, base: Address) -> Self {
        let at = |offset: Address| base.plus(offset.0 as usize);
        let sums = |s: Sums| Sums {
            order: at(s.order),
            pieces: at(s.pieces),
            keys: at(s.keys),
            targets: at(s.targets),
            ..s
        };
        Self {
            ids: at(self.ids),
            positions: at(self.positions),
            segments: at(self.segments),
            coordinates: at(self.coordinates),
            tiles: at(self.tiles),
            selected: at(self.selected),
            selected_coordinates: at(self.selected_coordinates),
            masked: at(self.masked),
            labels: at(self.labels),
            firsts: at(self.firsts),
            pairs: at(self.pairs),
            token_sums: sums(self.token_sums),
            segment_sums: sums(self.segment_sums),
            position_sums: sums(self.position_sums),
        }
    }
}

/// Rows with the same key, for keys from `first_key` on: ascending keys, a key's rows in their order. Counted, not
/// sorted: this is done while a device waits.
fn sums(bytes: &mut Vec<u8>, keys_of_rows: &[u32], first_key: u32) -> Sums {
    let all = keys_of_rows.iter().map(|&key| key as usize + 1).max().unwrap_or(0);
    // First how many rows a key has, then where its next row goes.
    let mut places = vec![0u32; all];
    keys_of_rows.iter().for_each(|&key| places[key as usize] += 1);
    let (mut pieces, mut keys, mut targets) = (vec![], vec![], vec![]);
    let mut at = 0;
    for (key, place) in (0..).zip(&mut places) {
        let rows = std::mem::replace(place, at);
        if rows == 0 || key < first_key {
            continue;
        }
        keys.push(pieces.len() as u32);
        targets.push(key);
        pieces.extend((at..at + rows).step_by(PIECE));
        at += rows;
    }
    let mut order = vec![0; at as usize];
    for (row, &key) in (0..).zip(keys_of_rows).filter(|(_, key)| **key >= first_key) {
        let place = &mut places[key as usize];
        order[*place as usize] = row;
        *place += 1;
    }
    let (piece_count, key_count) = (pieces.len(), targets.len());
    pieces.push(at);
    keys.push(piece_count as u32);
    Sums {
        order: numbers(bytes, &order),
        pieces: numbers(bytes, &pieces),
        piece_count,
        keys: numbers(bytes, &keys),
        targets: numbers(bytes, &targets),
        key_count,
    }
}

fn numbers(bytes: &mut Vec<u8>, column: &[u32]) -> Address {
    append(bytes, column, |n| n.to_le_bytes())
}

fn append<T, const N: usize>(bytes: &mut Vec<u8>, column: &[T], of: impl Fn(&T) -> [u8; N]) -> Address {
    align(bytes, 16);
    let at = Address(bytes.len() as u64);
    bytes.extend(column.iter().flat_map(of));
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(bytes: &[u8], at: Address, len: usize) -> Vec<u32> {
        bytes[at.0 as usize..][..4 * len]
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }

    #[test]
    fn rows_are_summed_by_key_in_pieces() {
        let check = |keys: &[u32], first, expected: [&[u32]; 4]| {
            let mut bytes = vec![0; 5];
            let s = sums(&mut bytes, keys, first);
            let rows = keys.iter().filter(|&&key| key >= first).count();
            assert_eq!(column(&bytes, s.order, rows), expected[0]);
            assert_eq!(column(&bytes, s.pieces, s.piece_count + 1), expected[1]);
            assert_eq!(column(&bytes, s.keys, s.key_count + 1), expected[2]);
            assert_eq!(column(&bytes, s.targets, s.key_count), expected[3]);
        };
        check(&[3, 0, 1, 3], 0, [&[1, 2, 0, 3], &[0, 1, 2, 4], &[0, 1, 2, 3], &[0, 1, 3]]);
        check(&[3, 0, 1, 3], 1, [&[2, 0, 3], &[0, 1, 3], &[0, 1, 2], &[1, 3]]);
        check(&[0, 0], 1, [&[], &[0], &[0], &[]]);
        let many = [7; 2 * PIECE + 1];
        let order: Vec<u32> = (0..many.len() as u32).collect();
        let piece = PIECE as u32;
        check(&many, 0, [&order, &[0, piece, 2 * piece, 2 * piece + 1], &[0, 3], &[7]]);
    }

    #[test]
    fn tokens_lie_one_behind_the_other() {
        let config = ModelConfig {
            arch: Arch::Bert,
            vocab_size: 20,
            hidden: 4,
            layers: 1,
            heads: 1,
            dropout: 0.1,
            init: crate::model::Init::Bert,
            max_positions: 80,
        };
        let batch = HostBatch {
            rows: 2,
            seq_len: 70,
            ids: (0..140).map(|i| i % 20).collect(),
            segments: vec![1; 140],
            lengths: vec![66, 2],
            masked: vec![3, 71],
            labels: vec![5, 6],
            pairs: vec![crate::sample::PairLabel::IsNext, crate::sample::PairLabel::None],
            ..HostBatch::default()
        };
        let loader = Loader::new(&batch, &config, 4, Wanted::All);
        let (bytes, columns) = (&loader.bytes, &loader.columns);
        assert_eq!(column(bytes, columns.selected, 68), (0..68).collect::<Vec<u32>>());
        let counts = Counts { tokens: 68, samples: 2, selected: 68, masked: 2, tiles: 3 };
        assert_eq!(loader.counts, counts);
        assert_eq!(column(bytes, columns.tiles, 9), [0, 66, 0, 0, 66, 64, 66, 2, 0]);
        assert_eq!(column(bytes, columns.masked, 2), [3, 67]);
        assert_eq!(column(bytes, columns.firsts, 2), [0, 66]);
        assert_eq!(column(bytes, columns.pairs, 2), [1, 2]);
        assert_eq!(column(bytes, columns.ids, 68)[64..], [4, 5, 10, 11]);
        assert_eq!(column(bytes, columns.segments, 68), [0; 68]);
        assert_eq!(column(bytes, columns.positions, 68)[64..], [64, 65, 0, 1]);
        let last = column(bytes, columns.coordinates, 2 * 68)[2 * 67..].to_vec();
        let expected = dropout_coordinate(5, 1, 0);
        assert_eq!(last, [expected as u32, (expected >> 32) as u32]);

        let loader = Loader::new(&batch, &config, 4, Wanted::Predicted);
        let (bytes, columns) = (&loader.bytes, &loader.columns);
        assert_eq!(loader.counts, Counts { selected: 4, ..counts });
        assert_eq!(column(bytes, columns.selected, 4), [0, 3, 66, 67]);
        assert_eq!(column(bytes, columns.masked, 2), [1, 3]);
        assert_eq!(column(bytes, columns.firsts, 2), [0, 2]);
        let last = column(bytes, columns.selected_coordinates, 8)[6..].to_vec();
        assert_eq!(last, [expected as u32, (expected >> 32) as u32]);
    }
}
