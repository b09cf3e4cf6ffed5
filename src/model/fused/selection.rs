//! The tokens whose last state anybody looks at: behind the last block's attention, the others are left out.
//!
//! A step predicts from the masked tokens and from each sample's first; the output projection and the
//! feed-forward layer of the last block work row by row, so that rows which nobody reads are not computed
//! and have no gradient. Everything before reaches the others through attention, and stays whole.

/// Some tokens of a chunk, in their order.
#[derive(Default)]
pub struct Selection {
    tokens: Vec<usize>,
    /// Dropout coordinates of the selected tokens.
    pub coordinates: Vec<u64>,
}

impl Selection {
    /// Selects `tokens`, in any order and however often each; `None` selects all. `coordinates` are those of
    /// all tokens of the chunk.
    pub fn select(&mut self, tokens: Option<&[usize]>, coordinates: &[u64]) {
        self.tokens.clear();
        match tokens {
            Some(tokens) => self.tokens.extend_from_slice(tokens),
            None => self.tokens.extend(0..coordinates.len()),
        }
        self.tokens.sort_unstable();
        self.tokens.dedup();
        self.coordinates.clear();
        self.coordinates.extend(self.tokens.iter().map(|&token| coordinates[token]));
    }

    /// Selected tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Where a selected token stands among them.
    pub fn row_of(&self, token: usize) -> usize {
        self.tokens.binary_search(&token).expect("only selected tokens are looked up")
    }

    /// Leaves of rows `(tokens, width)` the selected ones, at the front.
    pub fn compact(&self, rows: &mut [f32], width: usize) {
        for (row, &token) in self.tokens.iter().enumerate() {
            rows.copy_within(token * width..(token + 1) * width, row * width);
        }
    }

    /// Takes the selected ones of rows `(tokens, width)`.
    pub fn gather(&self, out: &mut [f32], rows: &[f32], width: usize) {
        for (out, &token) in out.chunks_exact_mut(width).zip(&self.tokens) {
            out.copy_from_slice(&rows[token * width..][..width]);
        }
    }

    /// The reverse of [`Self::compact`]: moves the rows at the front of `rows (tokens, width)` to their
    /// tokens, and puts zeros elsewhere.
    pub fn spread(&self, rows: &mut [f32], width: usize) {
        let mut behind = rows.len() / width;
        for (row, &token) in self.tokens.iter().enumerate().rev() {
            rows[(token + 1) * width..behind * width].fill(0.0);
            rows.copy_within(row * width..(row + 1) * width, token * width);
            behind = token;
        }
        rows[..behind * width].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_the_front_and_back() {
        let rows: Vec<f32> = (0..12).map(|i| i as f32 + 1.0).collect();
        let coordinates: Vec<u64> = (100..106).collect();
        for (tokens, front) in [
            (Some(&[3, 0, 3, 5][..]), vec![1.0, 2.0, 7.0, 8.0, 11.0, 12.0]),
            (Some(&[][..]), vec![]),
            (None, rows.clone()),
        ] {
            let mut selection = Selection::default();
            selection.select(tokens, &coordinates);
            let mut moved = rows.clone();
            selection.compact(&mut moved, 2);
            assert_eq!(moved[..2 * selection.len()], front);
            let mut gathered = vec![0.0; front.len()];
            selection.gather(&mut gathered, &rows, 2);
            assert_eq!(gathered, front);
            selection.spread(&mut moved, 2);
            let expected: Vec<f32> = rows.iter().map(|&x| if front.contains(&x) { x } else { 0.0 }).collect();
            assert_eq!(moved, expected);
        }
        let mut selection = Selection::default();
        selection.select(Some(&[4, 1]), &coordinates);
        assert_eq!((selection.row_of(1), selection.row_of(4)), (0, 1));
        assert_eq!(selection.coordinates, [101, 104]);
    }
}
