//! Whether the emulated device computes what a GPU would, and finds what a GPU would not tell.

use bertstream::model::device::{Address, Device, Grid, Kind, Product, Source};

use crate::emulator::{Emulated, rounded};

/// Kernels for these tests, behind the primitives of all kernels.
const KERNELS: &str = r#"
typedef struct { float *to; const float *from; u32 count; u32 wrong; } Columns;

KERNEL(double_all, 64, Columns) {
    u32 i = block_x() * 64 + thread();
    if (i < a.count) a.to[i + a.wrong] = 2.0f * a.from[i];
}

KERNEL(sum_of_warps, 64, Columns) {
    float sum = warp_sum(a.from[thread()]);
    if (lane() == 0) a.to[warp()] = sum;
}

KERNEL(reverse, 128, Columns) {
    SHARED float tile[128];
    for (u32 round = 0; round < 3; round++) {
        tile[thread()] = round == 0 ? a.from[block_x() * 128 + thread()] : a.to[block_x() * 128 + thread()];
        if (!a.wrong) barrier();
        a.to[block_x() * 128 + thread()] = tile[127 - thread()];
        barrier();
    }
}

KERNEL(shuffle_apart, 64, Columns) {
    if (thread() != 40) a.to[thread()] = shuffle_xor(a.from[thread()], 1);
}

KERNEL(shuffle_differently, 32, Columns) {
    a.to[thread()] = shuffle_xor(a.from[thread()], thread() < 16 ? 1 : 2);
}

KERNEL(barrier_apart, 64, Columns) {
    if (warp() == 0) barrier();
}

KERNEL(index_outside, 32, Columns) {
    SHARED float tile[32];
    tile[thread() + a.wrong] = 1.0f;
    a.to[thread()] = tile[thread()];
}

KERNEL(address_askew, 32, Columns) {
    F4 four = *(const F4 *)(a.from + a.wrong);
    a.to[thread()] = four.v[1];
}

// c (16, 8) = a (16, 16) b (8, 16) transposed, then b again by way of its transposed matrices.
typedef struct { float *c; const u16 *a; const u16 *b; const u16 *b_transposed; } Matrices;

KERNEL(multiply_twice, 32, Matrices) {
    SHARED u16 tile[16][24];
    SHARED u16 other[16][24];
    for (u32 i = thread(); i < 256; i += 32) tile[i / 16][i % 16] = a.a[i];
    barrier();
    u32 of_a[4], of_b[4], of_other[4];
    load_matrices(of_a, &tile[lane() % 16][lane() / 16 * 8]);
    barrier();
    for (u32 i = thread(); i < 128; i += 32) {
        tile[i / 16][i % 16] = a.b[i];
        other[i / 8][i % 8] = a.b_transposed[i];
    }
    barrier();
    load_matrices(of_b, &tile[lane() % 8][lane() / 8 % 2 * 8]);
    load_matrices_transposed(of_other, &other[lane() % 16][0]);
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    multiply_add(c, of_a, of_b);
    multiply_add(c, of_a, of_other);
    for (u32 i = 0; i < 4; i++) a.c[(lane() / 4 + i / 2 * 8) * 8 + lane() % 4 * 2 + i % 2] = c[i];
}
"#;

fn device() -> Emulated {
    let text = format!("{}\n{KERNELS}", include_str!("../../src/model/device/kernels/common.h"));
    let mut device = Emulated::new();
    device.compile(&Source { text, constants: vec![("HIDDEN", 4), ("STORE_BF16", 0)] }).unwrap();
    device
}

fn column(device: &mut Emulated, values: &[f32]) -> Address {
    let at = device.allocate(4 * values.len()).unwrap();
    device.upload(at, &values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>()).unwrap();
    at
}

fn halves(device: &mut Emulated, values: &[f32]) -> Address {
    let at = device.allocate(2 * values.len()).unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|&value| rounded(value).to_ne_bytes()).collect();
    device.upload(at, &bytes).unwrap();
    at
}

fn read(device: &mut Emulated, at: Address, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * count];
    device.download(at, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|four| f32::from_ne_bytes(four.try_into().unwrap())).collect()
}

fn addresses(of: &[Address]) -> Vec<u8> {
    of.iter().flat_map(|at| at.0.to_ne_bytes()).collect()
}

/// What a kernel over `Columns` makes of 0, 1, 2 .. for `blocks * threads`.
fn run(kernel: &'static str, blocks: usize, threads: usize, wrong: u32) -> bertstream::Result<Vec<f32>> {
    let mut device = device();
    let count = blocks * threads;
    let from = column(&mut device, &(0..count).map(|i| i as f32).collect::<Vec<_>>());
    let to = device.allocate(4 * count)?;
    let mut arguments = addresses(&[to, from]);
    arguments.extend([count as u32, wrong].iter().flat_map(|word| word.to_ne_bytes()));
    device.launch(kernel, Grid { x: blocks, y: 1, threads }, &arguments)?;
    Ok(read(&mut device, to, count))
}

fn check_error(kernel: &'static str, threads: usize, wrong: u32, expected: &str) {
    let error = run(kernel, 1, threads, wrong).unwrap_err().to_string();
    assert!(error.contains(expected), "{kernel}: {error}");
}

#[test]
fn threads_compute_and_meet() {
    assert_eq!(run("double_all", 3, 64, 0).unwrap(), (0..192).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
    assert_eq!(run("sum_of_warps", 1, 64, 0).unwrap()[..2], [496.0, 1520.0]);
    let reversed = run("reverse", 2, 128, 0).unwrap();
    assert_eq!(reversed, (0..128).rev().chain((128..256).rev()).map(|i| i as f32).collect::<Vec<_>>());
}

#[test]
fn what_was_never_written_is_nan() {
    assert!(run("sum_of_warps", 1, 64, 0).unwrap()[2..].iter().all(|value| value.is_nan()));
}

#[test]
fn a_barrier_that_is_missing_is_missed() {
    // A thread reads what another has not written yet.
    assert_ne!(run("reverse", 2, 128, 1).unwrap(), run("reverse", 2, 128, 0).unwrap());
}

#[test]
fn what_a_gpu_would_not_tell_is_an_error() {
    check_error(
        "shuffle_apart",
        64,
        0,
        "kernel shuffle_apart, block (0, 0): warp 1 diverges: lane 0 waits in shuffle_xor, lane 8 is done",
    );
    check_error(
        "shuffle_differently",
        32,
        0,
        "warp 0 diverges: lane 0 waits in shuffle_xor, lane 16 waits in shuffle_xor",
    );
    check_error(
        "barrier_apart",
        64,
        0,
        "a barrier is not reached by all: warp 0 waits in barrier, warp 1 is done",
    );
    check_error("double_all", 64, 1, "kernel double_all wrote outside of an allocation of 256 bytes");
    check_error("index_outside", 32, 1, "index 32 outside its array");
    check_error("address_askew", 32, 1, "nothing of this type can lie at");
    check_error("double_all", 32, 0, "kernel double_all is of 64 threads a block, not 32");
    check_error("nowhere", 32, 0, "kernel nowhere is not among the compiled kernels");
    let error = device().launch("double_all", Grid { x: 1, y: 1, threads: 64 }, &[0; 16]).unwrap_err();
    assert_eq!(error.to_string(), "kernel double_all takes 24 bytes of arguments, not 16");
}

#[test]
fn a_device_works_on_after_a_launch_that_failed() {
    let mut device = device();
    let (from, to) = (column(&mut device, &[1.0; 128]), column(&mut device, &[0.0; 128]));
    let mut arguments = addresses(&[to, from]);
    arguments.extend([0; 8]);
    for _ in 0..3 {
        device.launch("shuffle_apart", Grid { x: 1, y: 1, threads: 64 }, &arguments).unwrap_err();
        device.launch("reverse", Grid { x: 1, y: 1, threads: 128 }, &arguments).unwrap();
    }
    assert_eq!(read(&mut device, to, 128), [1.0; 128]);
}

#[test]
fn memory_is_what_was_allocated() {
    let mut device = Emulated::new();
    let at = device.allocate(100).unwrap();
    assert_eq!(at.0 % 256, 0);
    device.upload(Address(at.0 + 96), &[1; 4]).unwrap();
    device.zero(at, 100).unwrap();
    let fails = |result: bertstream::Result<()>, expected: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    fails(device.upload(Address(at.0 + 97), &[1; 4]), "outside of every allocation");
    fails(device.download(Address(at.0 - 1), &mut [1]), "a");
    fails(device.zero(Address::NONE, 1), "not allocated");
    fails(device.free(Address(at.0 + 1)), "nothing allocated begins");
    device.free(at).unwrap();
    fails(device.free(at), "nothing allocated begins");
    fails(device.download(at, &mut [1]), "freed before");
}

#[test]
fn a_warp_multiplies_its_fragments() {
    let a: Vec<f32> = (0..256).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    let b: Vec<f32> = (0..128).map(|i| (i * 53 % 97) as f32 - 48.0).collect();
    let mut device = device();
    let transposed: Vec<f32> = (0..128).map(|i| b[i % 8 * 16 + i / 8]).collect();
    let c = device.allocate(4 * 128).unwrap();
    let [of_a, of_b, of_transposed] = [&a, &b, &transposed].map(|values| halves(&mut device, values));
    let arguments = addresses(&[c, of_a, of_b, of_transposed]);
    device.launch("multiply_twice", Grid { x: 1, y: 1, threads: 32 }, &arguments).unwrap();
    let expected: Vec<f32> =
        (0..128).map(|i| 2.0 * (0..16).map(|k| a[i / 8 * 16 + k] * b[i % 8 * 16 + k]).sum::<f32>()).collect();
    assert_eq!(read(&mut device, c, 128), expected);
}

#[test]
fn matrices_multiply_in_every_layout() {
    let (m, n, k) = (3, 4, 5);
    let a: Vec<f32> = (0..m * k).map(|i| i as f32 - 6.0).collect();
    let b: Vec<f32> = (0..k * n).map(|i| 3.0 - i as f32).collect();
    let plain = |i: usize, j: usize| (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum::<f32>();
    let turned = |rows: usize, columns: usize, of: &[f32]| -> Vec<f32> {
        (0..rows * columns).map(|i| of[i % rows * columns + i / rows]).collect()
    };
    for case in 0..16 {
        let [a_transposed, b_transposed, add, narrow] = [1, 2, 4, 8].map(|bit| case & bit != 0);
        let mut device = Emulated::new();
        let a = if a_transposed { turned(m, k, &a) } else { a.clone() };
        let b = if b_transposed { turned(k, n, &b) } else { b.clone() };
        let store = if narrow { halves } else { column };
        let (a, b) = (store(&mut device, &a), store(&mut device, &b));
        let c = column(&mut device, &vec![1.0; m * n]);
        let operands = if narrow { Kind::Bf16 } else { Kind::F32 };
        let result = Kind::F32;
        device
            .multiply(&Product { m, n, k, a, a_transposed, b, b_transposed, operands, c, result, add })
            .unwrap();
        let offset = if add { 1.0 } else { 0.0 };
        let expected: Vec<f32> = (0..m * n).map(|i| plain(i / n, i % n) + offset).collect();
        assert_eq!(read(&mut device, c, m * n), expected, "case {case}");
    }
}

#[test]
fn bfloat16_rounds_to_nearest_even() {
    let check = |value: f32, expected: u16| assert_eq!(rounded(value), expected, "{value}");
    check(1.0, 0x3f80);
    check(f32::from_bits(0x3f80_8000), 0x3f80);
    check(f32::from_bits(0x3f81_8000), 0x3f82);
    check(f32::from_bits(0x3f80_8001), 0x3f81);
    check(f32::MAX, 0x7f80);
    check(f32::NAN, 0x7fff);
}
