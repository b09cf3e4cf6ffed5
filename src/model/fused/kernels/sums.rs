//! Sums and maxima of rows, in lanes.

/// Lanes of every sum, fixed so that the order of additions is too. More than a register holds: loops over so many
/// are compiled as loops over vectors, where those over one register's lanes come apart into single numbers.
pub(super) const LANES: usize = 64;

/// Sum of the lanes, two by two.
#[inline(always)]
pub(super) fn join(lanes: [f32; LANES]) -> f32 {
    let lanes: [f32; 32] = halved(&lanes);
    let lanes: [f32; 16] = halved(&lanes);
    let lanes: [f32; 8] = halved(&lanes);
    let [a, b, c, d]: [f32; 4] = halved(&lanes);
    (a + c) + (b + d)
}

#[inline(always)]
fn halved<const N: usize, const HALF: usize>(lanes: &[f32; N]) -> [f32; HALF] {
    let mut sums = [0.0; HALF];
    let (low, high) = lanes.split_at(HALF);
    for ((sum, low), high) in sums.iter_mut().zip(low).zip(high) {
        *sum = low + high;
    }
    sums
}

/// Sums of the two `values` over three columns of equal length; who needs fewer columns gives one again.
#[inline(always)]
pub(super) fn sums_of([a, b, c]: [&[f32]; 3], values: impl Fn(f32, f32, f32) -> [f32; 2]) -> [f32; 2] {
    let (mut firsts, mut seconds) = ([0.0f32; LANES], [0.0f32; LANES]);
    for ((a, b), c) in a.chunks(LANES).zip(b.chunks(LANES)).zip(c.chunks(LANES)) {
        for ((((first, second), a), b), c) in firsts.iter_mut().zip(&mut seconds).zip(a).zip(b).zip(c) {
            let values = values(*a, *b, *c);
            *first += values[0];
            *second += values[1];
        }
    }
    [join(firsts), join(seconds)]
}

/// Sum of `value` over a row.
#[inline(always)]
pub(super) fn sum_of(row: &[f32], value: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for row in row.chunks(LANES) {
        for (lane, &x) in lanes.iter_mut().zip(row) {
            *lane += value(x);
        }
    }
    join(lanes)
}

/// Replaces each of a row by its `value`; their sum.
#[inline(always)]
pub(super) fn replace_and_sum(row: &mut [f32], value: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for row in row.chunks_mut(LANES) {
        for (lane, x) in lanes.iter_mut().zip(row) {
            *x = value(*x);
            *lane += *x;
        }
    }
    join(lanes)
}

/// The largest; what is no number is larger than all. Compared as integers of the same order, whose largest the compiler
/// may look for in any order.
#[inline(always)]
pub(super) fn max_of(values: &[f32]) -> f32 {
    let mut max = i32::MIN;
    for value in values {
        max = max.max(in_order(value.to_bits() as i32));
    }
    f32::from_bits(in_order(max) as u32)
}

/// Bits of numbers as integers of the same order, and back.
#[inline(always)]
fn in_order(bits: i32) -> i32 {
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::super::tests::draws;
    use super::*;

    /// Sums have more lanes than some rows, and fewer than others.
    #[test]
    fn sums_and_maxima_are_those_of_whole_rows() {
        for width in [1, 2, 63, 64, 65, 128, 200] {
            let (a, b) = (draws(5, width), draws(6, width));
            let exact =
                |value: fn(f32, f32) -> f32| -> f32 { a.iter().zip(&b).map(|(&a, &b)| value(a, b)).sum() };
            let close = |x: f32, y: f32| assert!((x - y).abs() < 1e-4, "{width}: {x}, not {y}");
            close(sum_of(&a, |a| a * a), exact(|a, _| a * a));
            let [first, second] = sums_of([&a, &b, &a], |a, b, c| [a + b, b * c]);
            close(first, exact(|a, b| a + b));
            close(second, exact(|a, b| a * b));
            let mut doubled = a.clone();
            close(replace_and_sum(&mut doubled, |a| 2.0 * a), 2.0 * exact(|a, _| a));
            assert!(doubled.iter().zip(&a).all(|(d, a)| *d == 2.0 * a));
            assert_eq!(max_of(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            doubled[width / 2] = f32::NAN;
            assert!(max_of(&doubled).is_nan());
        }
        assert_eq!(max_of(&[-3.0, -2.0, -5.0]), -2.0);
        assert_eq!(max_of(&[f32::NEG_INFINITY, -1e30]), -1e30);
    }
}
