//! How the numbers of a column are distributed, in buckets a few per cent wide whatever their size.

/// A distribution. What is not finite is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub min: f64,
    pub max: f64,
    /// How many numbers there are.
    pub count: f64,
    pub sum: f64,
    pub sum_of_squares: f64,
    /// Upper ends of the buckets, ascending.
    pub limits: Vec<f64>,
    /// How many numbers lie in each, above the limit before it.
    pub counts: Vec<f64>,
}

/// Bits of a number below its sign, exponent and the first three bits of its fraction: eight buckets an octave,
/// and so none wider than an eighth of its numbers.
const BELOW: u32 = 20;

/// Buckets of one sign.
const HALF: usize = 1 << (31 - BELOW);

impl Histogram {
    /// Of these numbers; `None` where none is finite. A shift finds a number's bucket: a pass over a hundred
    /// million weights takes a fraction of a second.
    pub fn of(values: &[f32]) -> Option<Self> {
        // Negative numbers first, the largest of them in front, so that buckets ascend.
        let mut buckets = vec![0u64; 2 * HALF];
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        let (mut sum, mut squares) = (0.0, 0.0);
        for &value in values.iter().filter(|value| value.is_finite()) {
            let size = (value.abs().to_bits() >> BELOW) as usize;
            buckets[if value < 0.0 { HALF - 1 - size } else { HALF + size }] += 1;
            (min, max) = (min.min(value), max.max(value));
            sum += f64::from(value);
            squares += f64::from(value) * f64::from(value);
        }
        let count: u64 = buckets.iter().sum();
        if count == 0 {
            return None;
        }
        let (mut limits, mut counts) = (Vec::new(), Vec::new());
        for (at, &count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (low, high) = ends(at);
            // A gap is a bucket with nothing in it.
            if limits.last().is_some_and(|&last| last < low) {
                limits.push(low);
                counts.push(0.0);
            }
            limits.push(high);
            counts.push(count as f64);
        }
        Some(Self {
            min: f64::from(min),
            max: f64::from(max),
            count: count as f64,
            sum,
            sum_of_squares: squares,
            limits,
            counts,
        })
    }
}

/// Where the bucket at this place begins and ends.
fn ends(at: usize) -> (f64, f64) {
    let size = |bucket: usize| {
        let bits = (bucket as u32) << BELOW;
        // The bucket behind the largest numbers would begin at infinity.
        f64::from(f32::from_bits(bits).min(f32::MAX))
    };
    match at.checked_sub(HALF) {
        Some(bucket) => (size(bucket), size(bucket + 1)),
        None => (-size(HALF - at), -size(HALF - 1 - at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_lies_in_its_bucket_and_the_sums_are_theirs() {
        let values = [1.0, 1.1, -2.0, 0.0, 1e-30, f32::NAN, f32::INFINITY, -2.1, 3.2e38, f32::MIN_POSITIVE];
        let finite: Vec<f64> = values.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v)).collect();
        let histogram = Histogram::of(&values).unwrap();
        assert!(histogram.limits.is_sorted_by(|a, b| a < b), "{histogram:?}");
        assert_eq!((histogram.count, histogram.counts.iter().sum::<f64>()), (8.0, 8.0));
        assert_eq!((histogram.min, histogram.max), (f64::from(-2.1f32), f64::from(3.2e38f32)));
        assert_eq!(histogram.sum, finite.iter().sum::<f64>());
        let mut low = f64::NEG_INFINITY;
        for (&high, &count) in histogram.limits.iter().zip(&histogram.counts) {
            // Ends belong to the bucket further from zero.
            let inside =
                finite.iter().filter(|&&v| if v < 0.0 { low < v && v <= high } else { low <= v && v < high });
            assert_eq!(inside.count() as f64, count, "{low}..{high}");
            low = high;
        }
    }

    #[test]
    fn of_nothing_there_is_none() {
        assert_eq!(Histogram::of(&[]), None);
        assert_eq!(Histogram::of(&[f32::NAN]), None);
        let one = Histogram::of(&[0.0, 0.0]).unwrap();
        assert_eq!((one.limits.len(), one.counts), (1, vec![2.0]));
    }
}
