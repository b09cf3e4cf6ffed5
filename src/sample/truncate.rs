//! How a pair of segments is cut to the room it has. Pure functions of lengths.

/// How many tokens of segments of `a` and `b` tokens are kept where together they may have `budget`: the
/// longer one loses its last token, the second where both are equally long, until they fit (Google's
/// `truncate_seq_pair`, in closed form).
pub fn longest_first(a: usize, b: usize, budget: usize) -> (usize, usize) {
    let (half_a, half_b) = (budget.div_ceil(2), budget / 2);
    if a + b <= budget {
        (a, b)
    } else if a <= half_a {
        (a, budget - a)
    } else if b <= half_b {
        (budget - b, b)
    } else {
        (half_a, half_b)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, a token at a time.
    fn step_by_step(mut a: usize, mut b: usize, budget: usize) -> (usize, usize) {
        while a + b > budget {
            if a > b {
                a -= 1;
            } else {
                b -= 1;
            }
        }
        (a, b)
    }

    #[test]
    fn cases() {
        let check = |a, b, budget, expected| assert_eq!(longest_first(a, b, budget), expected);
        check(3, 4, 7, (3, 4));
        check(10, 2, 8, (6, 2));
        check(2, 10, 8, (2, 6));
        check(10, 10, 7, (4, 3));
        check(0, 10, 4, (0, 4));
        check(5, 5, 0, (0, 0));
    }

    proptest! {
        #[test]
        fn the_closed_form_is_the_loop(a in 0usize..300, b in 0usize..300, budget in 0usize..300) {
            prop_assert_eq!(longest_first(a, b, budget), step_by_step(a, b, budget));
        }
    }
}
