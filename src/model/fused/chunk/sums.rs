//! Gradients that are sums over a chunk's tokens.

/// Places of one block's biases and norms in a chunk's sums.
pub(super) struct Sums<'s> {
    pub qkv_bias: &'s mut [f32],
    pub out_bias: &'s mut [f32],
    pub w1_bias: &'s mut [f32],
    pub w2_bias: &'s mut [f32],
    pub norm1_gain: &'s mut [f32],
    pub norm1_shift: &'s mut [f32],
    pub norm2_gain: &'s mut [f32],
    pub norm2_shift: &'s mut [f32],
}

impl<'s> Sums<'s> {
    /// Numbers that all sums of a block take.
    pub fn len(h: usize) -> usize {
        13 * h
    }

    pub fn split(sums: &'s mut [f32], h: usize) -> Self {
        let (qkv_bias, rest) = sums.split_at_mut(3 * h);
        let (out_bias, rest) = rest.split_at_mut(h);
        let (w1_bias, rest) = rest.split_at_mut(4 * h);
        let (w2_bias, rest) = rest.split_at_mut(h);
        let (norm1_gain, rest) = rest.split_at_mut(h);
        let (norm1_shift, rest) = rest.split_at_mut(h);
        let (norm2_gain, rest) = rest.split_at_mut(h);
        let norm2_shift = &mut rest[..h];
        Self { qkv_bias, out_bias, w1_bias, w2_bias, norm1_gain, norm1_shift, norm2_gain, norm2_shift }
    }
}
