//! A GPU of NVIDIA's, through its driver, NVRTC and cuBLAS.
//!
//! All three are looked for when a device is opened, never when the program is built or started: building needs no
//! toolkit, and the program runs where there is no GPU. Everything goes through one stream, so that work is done in
//! the order in which it is asked for.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::cublas::{result as cublas, sys as cublas_sys};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result as driver, sys as driver_sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use super::{Address, Device, Grid, Kind, Product, Source};
use crate::{Error, ErrorKind, Result};

/// A device with its stream, its compiled kernels and cuBLAS.
pub struct Cuda {
    stream: Arc<CudaStream>,
    products: cublas_sys::cublasHandle_t,
    module: Option<driver_sys::CUmodule>,
    kernels: HashMap<&'static str, driver_sys::CUfunction>,
    /// Where copies to the device start from, and where those from it end.
    going: Locked,
    coming: Locked,
    /// Bytes of the last fetch.
    fetching: usize,
}

/// Page-locked memory of the host: a copy from or to it need not be waited for.
struct Locked {
    at: *mut c_void,
    bytes: usize,
    /// Reached when the last copy is done.
    copied: driver_sys::CUevent,
}

impl Locked {
    /// No memory so far.
    fn new() -> Result<Self> {
        let flags = driver_sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let copied = driver::event::create(flags).map_err(|e| failed("cannot make an event", e))?;
        Ok(Self { at: std::ptr::null_mut(), bytes: 0, copied })
    }

    /// Waits for the last copy.
    fn wait(&self) -> Result<()> {
        // SAFETY: the event was made by `new` and lives as long as `self`.
        unsafe { driver::event::synchronize(self.copied) }.map_err(|e| failed("failed", e))
    }

    /// At least so many bytes that no copy uses any more.
    fn reserve(&mut self, bytes: usize) -> Result<*mut u8> {
        self.wait()?;
        if self.bytes < bytes {
            let grown = bytes.next_power_of_two();
            // SAFETY: no copy uses the old memory, which is forgotten before it is given back.
            unsafe {
                if !self.at.is_null() {
                    let old = std::mem::replace(&mut self.at, std::ptr::null_mut());
                    self.bytes = 0;
                    driver::free_host(old).map_err(|e| failed("cannot unlock memory of the host", e))?;
                }
                self.at =
                    driver::malloc_host(grown, 0).map_err(|e| failed("cannot lock memory of the host", e))?;
            }
            self.bytes = grown;
        }
        Ok(self.at.cast())
    }

    /// Says that a copy was just asked for.
    fn mark(&self, stream: &CudaStream) -> Result<(), DriverError> {
        // SAFETY: both live as long as the device.
        unsafe { driver::event::record(self.copied, stream.cu_stream()) }
    }

    fn release(&mut self) {
        // SAFETY: the stream is idle, so that nobody uses the memory or waits for the event.
        unsafe {
            let _ = driver::event::destroy(self.copied);
            if !self.at.is_null() {
                let _ = driver::free_host(self.at);
            }
        }
    }
}

/// The libraries, and what is asked of each.
fn missing_library() -> Option<&'static str> {
    // SAFETY: loading these libraries runs their initialisers, which is what every user of them does.
    unsafe {
        if !driver_sys::is_culib_present() {
            Some("libcuda.so.1 (NVIDIA's driver)")
        } else if !nvrtc_sys::is_culib_present() {
            Some("libnvrtc.so.13 or .12")
        } else if !cublas_sys::is_culib_present() {
            Some("libcublas.so.13 or .12")
        } else {
            None
        }
    }
}

/// Whether a device of this number can be opened, as far as can be told without opening it.
pub fn is_available(number: usize) -> bool {
    missing_library().is_none()
        && driver::init().is_ok()
        && driver::device::get_count().is_ok_and(|count| number < count as usize)
}

impl Cuda {
    /// Opens the device of this number.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where there is none, or where a library is not found; the error names it.
    pub fn open(number: usize) -> Result<Self> {
        let refused = |what: String| Error::usage(format!("--device cuda:{number}: {what}"));
        if let Some(library) = missing_library() {
            return Err(refused(format!(
                "{library} was not found; install it (scripts/setup_cuda.sh does, but for the driver) and name its \
                 folder in LD_LIBRARY_PATH, or use --device cpu"
            )));
        }
        let context = CudaContext::new(number)
            .map_err(|e| refused("no such device; nvidia-smi lists them".to_owned()).caused_by(named(e)))?;
        let stream = context.new_stream().map_err(|e| failed("cannot make a stream", e))?;
        let products = cublas::create_handle().map_err(|e| failed_product("cannot start cuBLAS", e))?;
        // SAFETY: both handles were made above and live as long as `Self`; the runtime's streams are the driver's.
        unsafe { cublas::set_stream(products, stream.cu_stream().cast()) }
            .map_err(|e| failed_product("cannot start cuBLAS", e))?;
        let (going, coming) = (Locked::new()?, Locked::new()?);
        Ok(Self { stream, products, module: None, kernels: HashMap::new(), going, coming, fetching: 0 })
    }

    /// What the device is called, and its compute capability.
    pub fn describe(&self) -> Result<String> {
        let context = self.stream.context();
        let name = context.name().map_err(|e| failed("cannot be asked its name", e))?;
        let (major, minor) = self.capability()?;
        Ok(format!("{name}, compute capability {major}.{minor}"))
    }

    fn capability(&self) -> Result<(i32, i32)> {
        self.stream.context().compute_capability().map_err(|e| failed("cannot be asked what it is", e))
    }

    /// Makes this device the calling thread's.
    fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|e| failed("cannot be used", e))
    }

    /// Machine code of the kernels for this device.
    fn machine_code(&self, source: &Source) -> Result<Vec<u8>> {
        let (major, minor) = self.capability()?;
        if major < 8 {
            return Err(Error::usage(format!(
                "--device cuda: compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or later"
            )));
        }
        let mut options = vec![format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".to_owned()];
        options.extend(source.constants.iter().map(|(name, value)| format!("-D{name}={value}")));
        let text = CString::new(source.text.as_str())
            .map_err(|e| Error::internal("kernels: a zero byte in the source").caused_by(e))?;
        let program =
            nvrtc::create_program(&text, Some(c"bertstream.cu")).map_err(|e| failed_compiler("", e))?;
        // SAFETY: `program` was made above and is destroyed below, once; `text` outlives it; the code's size is what
        // NVRTC says it is.
        unsafe {
            let compiled = nvrtc::compile_program(program, &options).map_err(|e| {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log.into_iter().map(|c| c as u8).collect();
                failed_compiler(String::from_utf8_lossy(&log).trim_end_matches('\0'), e)
            });
            let code = compiled.and_then(|()| {
                let mut size = 0;
                nvrtc_sys::nvrtcGetCUBINSize(program, &mut size)
                    .result()
                    .map_err(|e| failed_compiler("", e))?;
                let mut code = vec![0u8; size];
                nvrtc_sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast())
                    .result()
                    .map_err(|e| failed_compiler("", e))?;
                Ok(code)
            });
            nvrtc::destroy_program(program).map_err(|e| failed_compiler("", e))?;
            code
        }
    }

    fn kernel(&mut self, name: &'static str) -> Result<driver_sys::CUfunction> {
        if let Some(&kernel) = self.kernels.get(name) {
            return Ok(kernel);
        }
        let module = self.module.ok_or_else(|| Error::internal("device: no kernels were compiled"))?;
        let c_name = CString::new(name).map_err(|e| Error::internal("kernel's name").caused_by(e))?;
        // SAFETY: the module is loaded and stays so until `compile` or the end of `self`, which both forget the
        // kernels.
        let kernel = unsafe { driver::module::get_function(module, c_name) }
            .map_err(|e| failed(&format!("has no kernel {name}"), e))?;
        self.kernels.insert(name, kernel);
        Ok(kernel)
    }

    fn unload(&mut self) -> Result<()> {
        self.kernels.clear();
        let Some(module) = self.module.take() else { return Ok(()) };
        // SAFETY: the module was loaded by `compile`, and no kernel of it is known any more.
        unsafe { driver::module::unload(module) }.map_err(|e| failed("cannot unload kernels", e))
    }
}

impl Device for Cuda {
    fn compile(&mut self, source: &Source) -> Result<()> {
        self.bind()?;
        let code = self.machine_code(source)?;
        self.unload()?;
        // SAFETY: NVRTC made the code for this device; the driver copies it.
        let module = unsafe { driver::module::load_data(code.as_ptr().cast()) }
            .map_err(|e| failed("refuses the kernels", e))?;
        self.module = Some(module);
        Ok(())
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        self.bind()?;
        // SAFETY: any size may be asked for; the driver refuses 0, which one byte more avoids.
        let at = unsafe { driver::malloc_sync(bytes.max(1)) }.map_err(|error| {
            let free = driver::mem_get_info().map_or(0, |(free, _)| free);
            failed(&format!("cannot give {bytes} bytes, of which it has {free} free"), error)
        })?;
        Ok(Address(at))
    }

    fn free(&mut self, at: Address) -> Result<()> {
        self.bind()?;
        // SAFETY: the address came from `allocate` and is given back once: its owner forgets it. The driver waits for
        // the work that uses it.
        unsafe { driver::free_sync(at.0) }.map_err(|e| failed("cannot take memory back", e))
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        let staging = self.going.reserve(bytes.len())?;
        // SAFETY: no copy uses the staging memory, which is at least as large as what is written and lives until the
        // copy is done. `to` is memory of `allocate` with room for the bytes, which its owner sees to.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), staging, bytes.len());
            let source = std::slice::from_raw_parts(staging.cast_const(), bytes.len());
            driver::memcpy_htod_async(to.0, source, self.stream.cu_stream())
        }
        .and_then(|()| self.going.mark(&self.stream))
        .map_err(|e| failed("failed at a copy", e))
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: `from` is memory of `allocate` that holds the bytes, which its owner sees to; they are borrowed until
        // the copy is done, for which the stream is waited.
        unsafe { driver::memcpy_dtoh_async(bytes, from.0, self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
            .map_err(|e| failed("failed", e))
    }

    fn fetch(&mut self, from: Address, bytes: usize) -> Result<()> {
        self.bind()?;
        self.fetching = bytes;
        let to = self.coming.reserve(bytes)?;
        // SAFETY: no copy uses the locked memory, which is large enough and is looked at only when this copy is done.
        // `from` is memory of `allocate` that holds the bytes, which its owner sees to.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to, bytes);
            driver::memcpy_dtoh_async(to, from.0, self.stream.cu_stream())
        }
        .and_then(|()| self.coming.mark(&self.stream))
        .map_err(|e| failed("failed at a copy", e))
    }

    fn fetched(&mut self) -> Result<Vec<u8>> {
        self.bind()?;
        self.coming.wait()?;
        // SAFETY: the copy is done, and was of so many bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.coming.at.cast::<u8>().cast_const(), self.fetching) }
            .to_vec())
    }

    fn zero(&mut self, at: Address, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: `at` is memory of `allocate` with room for the bytes, which its owner sees to.
        unsafe { driver::memset_d8_async(at.0, 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| failed("cannot zero memory", e))
    }

    fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &[u8]) -> Result<()> {
        self.bind()?;
        let function = self.kernel(kernel)?;
        // Aligned as the structure is.
        let mut words: Vec<u64> = (arguments.chunks(8))
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            })
            .collect();
        let mut parameters = [words.as_mut_ptr().cast::<c_void>()];
        let (blocks, threads) = ((grid.x as u32, grid.y as u32, 1), (grid.threads as u32, 1, 1));
        // SAFETY: a kernel takes one structure, whose bytes these are: the tests hold their number and order to the
        // kernels' source. What the structure points to is the caller's memory on this device. The driver copies the
        // parameters before it returns.
        unsafe {
            driver::launch_kernel(function, blocks, threads, 0, self.stream.cu_stream(), &mut parameters)
        }
        .map_err(|e| failed(&format!("cannot run {kernel} with {grid:?}"), e))
    }

    fn multiply(&mut self, product: &Product) -> Result<()> {
        use cublas_sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        self.bind()?;
        let &Product { m, n, k, .. } = product;
        // cuBLAS counts columns first, which makes of a row-major matrix its transpose: cᵀ (n, m) = bᵀ aᵀ.
        let of_b = if product.b_transposed { (CUBLAS_OP_T, k) } else { (CUBLAS_OP_N, n) };
        let of_a = if product.a_transposed { (CUBLAS_OP_T, m) } else { (CUBLAS_OP_N, k) };
        let (alpha, beta) = (1.0f32, if product.add { 1.0f32 } else { 0.0 });
        let kind = |kind| match kind {
            Kind::F32 => cublas_sys::cudaDataType_t::CUDA_R_32F,
            Kind::Bf16 => cublas_sys::cudaDataType_t::CUDA_R_16BF,
        };
        // SAFETY: the handle is open; the matrices are the caller's memory on this device, of the shapes that he
        // says; the factors are read before the call returns.
        unsafe {
            cublas::gemm_ex(
                self.products,
                of_b.0,
                of_a.0,
                n as i32,
                m as i32,
                k as i32,
                (&raw const alpha).cast(),
                product.b.0 as *const c_void,
                kind(product.operands),
                of_b.1 as i32,
                product.a.0 as *const c_void,
                kind(product.operands),
                of_a.1 as i32,
                (&raw const beta).cast(),
                product.c.0 as *mut c_void,
                kind(product.result),
                n as i32,
                cublas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT,
            )
        }
        .map_err(|e| failed_product(&format!("cannot multiply ({m}, {k}) by ({k}, {n})"), e))
    }
}

impl Drop for Cuda {
    /// Errors are not looked at: there is nobody left to tell, and the context's end frees everything.
    fn drop(&mut self) {
        let _ = self.bind();
        let _ = self.stream.synchronize();
        let _ = self.unload();
        // SAFETY: the handle was made by `open` and is used by nobody any more.
        let _ = unsafe { cublas::destroy_handle(self.products) };
        self.going.release();
        self.coming.release();
    }
}

/// The driver's error in words: its name and what it says.
fn named(error: DriverError) -> Error {
    Error::internal(format!("CUDA: {error}"))
}

fn failed(what: &str, error: DriverError) -> Error {
    let kind = match error.0 {
        driver_sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::OutOfMemory,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("device: {what}")).caused_by(named(error))
}

fn failed_product(what: &str, error: cublas::CublasError) -> Error {
    let kind = match error.0 {
        cublas_sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => ErrorKind::OutOfMemory,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("device: {what}")).caused_by(error)
}

fn failed_compiler(log: &str, error: nvrtc::NvrtcError) -> Error {
    Error::internal(format!("device: NVRTC cannot compile the kernels: {error:?}\n{log}"))
}
