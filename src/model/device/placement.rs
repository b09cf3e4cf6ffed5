//! Where parameters lie on the device: in the layout's order, each at a boundary that wide loads can start from.
//!
//! What is one matrix to a product stays together, such as a block's query, key and value projections.

use std::ops::Range;

use crate::model::Layout;

/// Elements to whose multiples parameters are moved: 256 bytes in single precision, 128 in bfloat16.
const BOUNDARY: usize = 64;

/// Most weights that one block of the optimizer's kernel changes.
const PIECE: usize = 4096;

/// The places of all parameters in a column on the device.
#[derive(Debug)]
pub struct Placement {
    /// Ranges of the layout's column, in its order, and where each begins on the device.
    groups: Vec<(Range<usize>, usize)>,
    len: usize,
}

impl Placement {
    pub fn new(layout: &Layout, layers: usize) -> Self {
        let matrices: Vec<Range<usize>> = (0..layers)
            .flat_map(|layer| {
                let block = layout.block(layer);
                [block.qkv_weight, block.qkv_bias]
            })
            .collect();
        let mut placement = Self { groups: vec![], len: 0 };
        for parameter in layout.parameters() {
            let range = &parameter.range;
            match placement.groups.last_mut() {
                // Within the group before it.
                Some((group, _)) if range.end <= group.end => continue,
                _ => {}
            }
            let group = matrices.iter().find(|m| m.start == range.start).unwrap_or(range).clone();
            let start = placement.len;
            placement.len = (start + group.len()).next_multiple_of(BOUNDARY);
            placement.groups.push((group, start));
        }
        placement
    }

    /// Elements of a column on the device.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where a place of the layout's column lies on the device.
    pub fn of(&self, place: usize) -> usize {
        let group = self.groups.partition_point(|(range, _)| range.end <= place);
        let (range, start) = &self.groups[group];
        start + place - range.start
    }

    /// A column in the layout's order as the device has it; gaps are zero.
    pub fn spread(&self, column: &[f32]) -> Vec<f32> {
        let mut spread = vec![0.0; self.len];
        for (range, start) in &self.groups {
            spread[*start..start + range.len()].copy_from_slice(&column[range.clone()]);
        }
        spread
    }

    /// The way back from [`Self::spread`].
    pub fn collect(&self, spread: &[f32]) -> Vec<f32> {
        self.groups.iter().flat_map(|(range, start)| &spread[*start..start + range.len()]).copied().collect()
    }

    /// What the optimizer may change, in pieces of one parameter each: start on the device, elements, whether decay
    /// applies. Frozen rows are left out.
    pub fn pieces(&self, layout: &Layout) -> Vec<(u64, u32, u32)> {
        let trained = layout.parameters().iter().map(|parameter| {
            let frozen = if parameter.frozen_row() { parameter.shape[1] } else { 0 };
            (parameter.range.start + frozen..parameter.range.end, parameter.decays)
        });
        trained
            .flat_map(|(range, decays)| {
                let start = self.of(range.start);
                (0..range.len()).step_by(PIECE).map(move |at| {
                    let len = PIECE.min(range.len() - at);
                    ((start + at) as u64, len as u32, u32::from(decays))
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Arch, Init, ModelConfig};

    fn config(arch: Arch) -> ModelConfig {
        ModelConfig {
            arch,
            vocab_size: 11,
            hidden: 6,
            layers: 2,
            heads: 3,
            dropout: 0.0,
            init: Init::Torch,
            max_positions: 9,
        }
    }

    #[test]
    fn a_column_comes_back_and_matrices_stay_together() {
        for arch in [Arch::Reference, Arch::Bert] {
            let config = config(arch);
            let layout = Layout::new(&config);
            let placement = Placement::new(&layout, config.layers);
            let column: Vec<f32> = (0..layout.len()).map(|i| i as f32).collect();
            let spread = placement.spread(&column);
            assert_eq!(placement.collect(&spread), column);
            for parameter in layout.parameters() {
                let start = placement.of(parameter.range.start);
                assert_eq!(spread[start..][..parameter.range.len()], column[parameter.range.clone()]);
                let inner = [".linear_layers.1", ".linear_layers.2", ".key", ".value"];
                assert!(inner.iter().any(|n| parameter.name.contains(n)) || start.is_multiple_of(BOUNDARY));
            }
            let qkv = layout.block(1).qkv_weight;
            assert_eq!(placement.of(qkv.end - 1) - placement.of(qkv.start), qkv.len() - 1);
        }
    }

    #[test]
    fn pieces_cover_what_is_trained_once() {
        for arch in [Arch::Reference, Arch::Bert] {
            let config = ModelConfig { hidden: 48, ..config(arch) };
            let layout = Layout::new(&config);
            let placement = Placement::new(&layout, config.layers);
            let mut times = vec![0.0; placement.len()];
            for (start, len, _) in placement.pieces(&layout) {
                times[start as usize..][..len as usize].iter_mut().for_each(|n| *n += 1.0);
            }
            let times = placement.collect(&times);
            for parameter in layout.parameters() {
                let frozen = if parameter.frozen_row() { config.hidden } else { 0 };
                let (row0, rest) = times[parameter.range.clone()].split_at(frozen);
                assert!(
                    row0.iter().all(|&n| n == 0.0) && rest.iter().all(|&n| n == 1.0),
                    "{}",
                    parameter.name
                );
            }
        }
    }
}
