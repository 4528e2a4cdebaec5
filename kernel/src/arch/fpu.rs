//! x87, SSE and AVX state of user threads. The kernel itself uses none of these registers (soft-float target), so the state
//! of the running user thread stays in the CPU until the scheduler switches threads: [`XsaveArea::save`] the old one's,
//! [`XsaveArea::restore`] the new one's.

use core::alloc::Layout;
use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _xsetbv};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use sync::AllocError;

/// State components (SDM vol. 1, 13.1).
const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const AVX512: u64 = 0b111 << 5;

/// Bytes of the legacy region and the header: the least that an area has.
const MIN_SIZE: usize = 576;

/// The components that XCR0 enables; the same on every CPU.
static COMPONENTS: AtomicU64 = AtomicU64::new(X87 | SSE);
/// Size of an area for them.
static SIZE: AtomicUsize = AtomicUsize::new(MIN_SIZE);

/// Enables this CPU's state components: x87, SSE, and AVX and AVX-512 where the CPU has them. `cpu::init` has set
/// CR4.OSXSAVE.
pub(super) fn init_cpu() {
    let supported = {
        let leaf = __cpuid_count(0xd, 0);
        u64::from(leaf.eax) | u64::from(leaf.edx) << 32
    };
    let mut components = supported & (X87 | SSE | AVX);
    // AVX-512 needs AVX, and its three parts only come together (SDM vol. 1, 13.3).
    if components & AVX != 0 && supported & AVX512 == AVX512 {
        components |= AVX512;
    }
    set_components(components);
    // What the enabled components need, in the standard (not compacted) format.
    let size = __cpuid_count(0xd, 0).ebx as usize;
    COMPONENTS.store(components, Ordering::Relaxed);
    SIZE.store(size.max(MIN_SIZE), Ordering::Relaxed);
}

#[target_feature(enable = "xsave")]
fn xsetbv(components: u64) {
    // SAFETY: ring 0, CR4.OSXSAVE set, and the components are a valid combination (see `init_cpu`).
    unsafe { _xsetbv(0, components) };
}

fn set_components(components: u64) {
    // SAFETY: `cpu::init` has checked that the CPU has XSAVE.
    unsafe { xsetbv(components) };
}

/// Memory for one thread's state.
pub struct XsaveArea {
    memory: NonNull<u8>,
}

// SAFETY: plain memory, owned; methods that write take `&mut self`.
unsafe impl Send for XsaveArea {}
// SAFETY: as above.
unsafe impl Sync for XsaveArea {}

impl XsaveArea {
    fn layout() -> Layout {
        // XSAVE wants 64 bytes of alignment. The size is fixed before the first area is made.
        Layout::from_size_align(SIZE.load(Ordering::Relaxed), 64).unwrap_or(Layout::new::<[u64; MIN_SIZE / 8]>())
    }

    /// An area that holds the state with which Linux programs begin: everything initial, exceptions masked.
    ///
    /// # Errors
    /// [`AllocError`] if there is no memory.
    pub fn try_new() -> Result<XsaveArea, AllocError> {
        // SAFETY: the layout's size is not 0.
        let memory = unsafe { alloc::alloc::alloc_zeroed(Self::layout()) };
        let memory = NonNull::new(memory).ok_or(AllocError)?;
        // XSTATE_BV is 0: every component is taken to be initial. Only MXCSR is loaded from memory all the same.
        // SAFETY: MXCSR lies at byte 24 of the legacy region.
        let mxcsr = unsafe { memory.add(24) };
        // SAFETY: inside the area, aligned, not shared yet.
        unsafe { mxcsr.cast::<u32>().write(0x1f80) };
        Ok(XsaveArea { memory })
    }

    /// Writes the CPU's state into the area: the thread that owns it leaves this CPU. Interrupts are off.
    pub fn save(&mut self) {
        let components = COMPONENTS.load(Ordering::Relaxed);
        // SAFETY: the area is large enough for all enabled components, 64-byte aligned, and ours.
        unsafe {
            asm!("xsave64 [{area}]", area = in(reg) self.memory.as_ptr(),
                in("eax") components as u32, in("edx") (components >> 32) as u32, options(nostack, preserves_flags));
        }
    }

    /// Loads the CPU's state from the area: the thread that owns it comes to this CPU. Interrupts are off.
    pub fn restore(&self) {
        let components = COMPONENTS.load(Ordering::Relaxed);
        // SAFETY: the area was written by `try_new` or `save`, so its header and MXCSR are valid; the kernel keeps
        // nothing of its own in the registers that this overwrites.
        unsafe {
            asm!("xrstor64 [{area}]", area = in(reg) self.memory.as_ptr(),
                in("eax") components as u32, in("edx") (components >> 32) as u32, options(nostack, preserves_flags));
        }
    }
}

impl Drop for XsaveArea {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, which has not changed since.
        unsafe { alloc::alloc::dealloc(self.memory.as_ptr(), Self::layout()) };
    }
}
