//! Maps whose pages may be lost: what the system tells by SIGBUS when a file was cut off under its map, or when its
//! disk fails. Takes ranges of memory, tells whether anything of them was lost. Knows nothing of files.
//!
//! The handler puts a page of zeros in place of each lost one, from the one that was touched to the end of the map, and
//! marks the map. Whoever was reading goes on, finds the mark, and throws away what was read. A signal about any other
//! address goes to whoever had the signal before, or ends the process as it would have without all this.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use libc::{c_void, siginfo_t};

/// A map that is watched as long as this is.
pub struct Watched(&'static Range);

impl Watched {
    /// Watches the memory of `map`, which must outlive this.
    pub fn new(map: &[u8]) -> Self {
        listen();
        let range = Range::free();
        range.lost.store(false, Ordering::Relaxed);
        range.end.store(map.as_ptr() as usize + map.len(), Ordering::Relaxed);
        range.start.store(map.as_ptr() as usize, Ordering::Release);
        Self(range)
    }

    /// Whether any of it was lost.
    pub fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.start.store(FREE, Ordering::Release);
    }
}

/// Addresses of one map, as the handler finds them: in a list that only grows, whose members are used again.
struct Range {
    /// Or one of the two below.
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicBool,
    next: *const Range,
}

// SAFETY: `next` is written before the range can be found by anybody, and never again; the rest is atomic.
unsafe impl Sync for Range {}

const FREE: usize = 0;
const TAKEN: usize = 1;

static FIRST: AtomicPtr<Range> = AtomicPtr::new(ptr::null_mut());

impl Range {
    /// One that nobody uses.
    fn free() -> &'static Self {
        let unused = |range: &&Range| {
            range.start.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        all().find(unused).unwrap_or_else(Self::add)
    }

    /// A new one, which is never freed: the handler may be looking at it at any time.
    fn add() -> &'static Self {
        let made = Box::into_raw(Box::new(Self {
            start: AtomicUsize::new(TAKEN),
            end: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            next: ptr::null(),
        }));
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            // SAFETY: `made` came from a box just now, and is nobody else's before the exchange below.
            unsafe { (*made).next = first };
            match FIRST.compare_exchange(first, made, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: as above; it is never freed.
                Ok(_) => return unsafe { &*made },
                Err(other) => first = other,
            }
        }
    }
}

/// All ranges there are. Takes no lock and no memory.
fn all() -> impl Iterator<Item = &'static Range> {
    let mut at = FIRST.load(Ordering::Acquire).cast_const();
    std::iter::from_fn(move || {
        // SAFETY: every pointer of the list is null or came from a box that is never freed, and what it points to was
        // written before the pointer was.
        let range = unsafe { at.as_ref() }?;
        at = range.next;
        Some(range)
    })
}

/// Who had the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Bytes of a page.
static PAGE: OnceLock<usize> = OnceLock::new();

/// Takes the signal, once in the life of the process.
fn listen() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // SAFETY: a plain question.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.get_or_init(|| usize::try_from(page).unwrap_or(4096));
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: zeros are a `sigaction` in which nothing is set. The handler does what a handler may: it looks at
        // atomics and memory that is never freed, and makes system calls. On the thread's own signal stack where it
        // has one, as the runtime's handler, which may be called from here, asks for.
        unsafe {
            let set = action.assume_init_mut();
            set.sa_sigaction = on_lost as *const () as usize;
            set.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut set.sa_mask);
            if libc::sigaction(libc::SIGBUS, set, before.as_mut_ptr()) == 0 {
                BEFORE.get_or_init(|| before.assume_init());
            }
        }
    });
}

/// The handler.
extern "C" fn on_lost(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the system gives a valid `info`, in which SIGBUS has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    if !fill(address) {
        pass_on(signal, info, context);
    }
}

/// Fills a watched map with zeros from the page of `address` on, and marks it; tells whether there is one.
fn fill(address: usize) -> bool {
    let is_there = |range: &&Range| {
        let start = range.start.load(Ordering::Acquire);
        start > TAKEN && (start..range.end.load(Ordering::Relaxed)).contains(&address)
    };
    let (Some(range), Some(page)) = (all().find(is_there), PAGE.get()) else { return false };
    range.lost.store(true, Ordering::Release);
    let from = address - address % page;
    let length = range.end.load(Ordering::Relaxed) - from;
    // SAFETY: `from..end` lies within a map that its owner keeps as long as it is watched (maps begin with a page, and
    // end within one that is theirs), is only read, and goes with it when that is unmapped. errno is the interrupted
    // code's, and is put back.
    unsafe {
        let errno = libc::__errno_location();
        let kept = *errno;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let filled = libc::mmap(from as *mut c_void, length, libc::PROT_READ, flags, -1, 0);
        *errno = kept;
        filled != libc::MAP_FAILED
    }
}

/// Leaves the signal to whoever had it before.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let before = BEFORE.get();
    match before.map(|before| (before.sa_sigaction, before.sa_flags & libc::SA_SIGINFO)) {
        None | Some((libc::SIG_DFL | libc::SIG_IGN, _)) => {
            // SAFETY: the default ends the process when the instruction is tried again, which it is on return.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // SAFETY: with this flag it was installed as a handler of three arguments, and these are the system's.
        Some((handler, libc::SA_SIGINFO)) => unsafe {
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = std::mem::transmute(handler);
            handler(signal, info, context);
        },
        // SAFETY: without, as one of the signal's number alone.
        Some((handler, _)) => unsafe {
            let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
            handler(signal);
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_watched_is_filled_and_a_place_is_used_again() {
        let map = memmap2::MmapMut::map_anon(3 * 4096).unwrap();
        let address = map.as_ptr() as usize;
        assert!(!fill(address));
        let watched = Watched::new(&map);
        assert!(!watched.is_lost() && !fill(address - 1) && !fill(address + 3 * 4096));
        assert!(fill(address + 4096) && watched.is_lost());
        let place = ptr::from_ref(watched.0);
        drop(watched);
        assert!(!fill(address));
        // Another test may have been quicker.
        let again: Vec<Watched> = (0..8).map(|_| Watched::new(&map)).collect();
        assert!(again.iter().all(|watched| !watched.is_lost()));
        assert!(again.iter().any(|watched| ptr::from_ref(watched.0) == place) || all().count() > 8);
    }
}
