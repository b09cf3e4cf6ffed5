//! Matrix products by themselves, as a step computes them: what the speed of whole steps is compared with.

use rayon::prelude::*;

use super::matmul::{Kernel, Mat, MatMut, Packed, Write, product};
use super::thread_pool;
use crate::Result;
use crate::model::Precision;
use crate::rng::{Domain, SampleRng};

/// `out (rows, columns) = lhs (rows, depth) · rhs (depth, columns)` of made-up numbers, one for each thread.
pub struct Products {
    pool: rayon::ThreadPool,
    kernel: Kernel,
    shape: [usize; 3],
    of_thread: Vec<OfThread>,
}

struct OfThread {
    lhs: Vec<f32>,
    rhs: Vec<f32>,
    packed: Packed,
    out: Vec<f32>,
}

impl Products {
    /// Products of `[rows, columns, depth]` on `threads` threads.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] for too many threads, [`crate::ErrorKind::Internal`] where they cannot be started.
    pub fn new(shape: [usize; 3], precision: Precision, threads: usize) -> Result<Self> {
        let [rows, columns, depth] = shape;
        let mut rng = SampleRng::new(Domain::Survey, 1, &[]);
        let mut draw = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>();
        let mut of_thread = || OfThread {
            lhs: draw(rows * depth),
            rhs: draw(depth * columns),
            packed: Packed::default(),
            out: vec![0.0; rows * columns],
        };
        let of_thread = (0..threads.max(1)).map(|_| of_thread()).collect();
        Ok(Self { pool: thread_pool(threads)?, kernel: Kernel::of(precision), shape, of_thread })
    }

    /// Computes each thread's product once; the right operand is packed anew where the kernel wants it packed.
    pub fn run(&mut self) {
        let ([rows, columns, depth], kernel) = (self.shape, self.kernel);
        self.pool.install(|| {
            self.of_thread.par_iter_mut().with_max_len(1).for_each(|OfThread { lhs, rhs, packed, out }| {
                let rhs = kernel.rhs(Mat::new(rhs, depth, columns), packed);
                let out = MatMut::new(out, rows, columns);
                product(out, Write::Store, Mat::new(lhs, rows, depth), rhs, 1.0);
            });
        });
    }

    /// Floating-point operations of one [`Self::run`].
    pub fn operations(&self) -> f64 {
        2.0 * self.shape.iter().map(|&n| n as f64).product::<f64>() * self.of_thread.len() as f64
    }
}
