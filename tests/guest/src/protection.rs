//! What the kernel must not be able to do, tried with the real MMU. Where the proof is a fault that the kernel does not
//! survive, the test should panic and has a boot of its own.

use core::arch::asm;

use abi::flags::prot;
use kernel::arch::cpu::Features;
use kernel::arch::paging;
use kernel::ktest;
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::sched;
use kernel::stack::Stack;
use mm::{AddressSpace, MapRequest, Owner};

fn space() -> AddressSpace<Machine> {
    AddressSpace::new(memory(), paging::kernel_root()).expect("memory for an address space")
}

ktest! {
    fn nothing_is_writable_and_executable() {
        let counts = paging::check(paging::kernel_root()).expect("a kernel page is writable and executable");
        assert!(counts.execute > 0 && counts.write > 0);
        // The upper half of an address space is the same, and open to the kernel only.
        let space = space();
        paging::check(space.root()).expect("an address space opens a kernel page");
    }
}

ktest! {
    fn the_cpu_has_all_protections() {
        assert_eq!(Features::read().missing(), None);
        use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
        kernel::ktest::on_all_cpus(|_| {
            use Cr4Flags as Flags;
            let wanted = Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION | Flags::SUPERVISOR_MODE_ACCESS_PREVENTION;
            assert!(Cr4::read().contains(wanted));
            assert!(Cr0::read().contains(Cr0Flags::WRITE_PROTECT));
        });
    }
}

ktest! {
    fn stacks_have_unmapped_guard_pages() {
        let stack = Stack::try_new().expect("memory for a stack");
        assert_eq!(paging::translate(stack.guard()), None);
        assert!(paging::is_stack_guard(stack.guard()));
        for page in (stack.guard() + abi::PAGE_SIZE..stack.top()).step_by(abi::PAGE_SIZE as usize) {
            assert!(paging::translate(page).is_some());
            assert!(!paging::is_stack_guard(page));
        }
    }
}

/// Uses up the stack; each frame is smaller than the guard page, so none can step over it.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let mut room = [depth; 32];
    core::hint::black_box(&mut room);
    if depth == 0 { 0 } else { recurse(depth - 1) + room[0] }
}

ktest! {
    panics fn stack_overflow_is_reported() {
        core::hint::black_box(recurse(u64::MAX));
    }
}

ktest! {
    panics fn kernel_data_cannot_run() {
        let frame = memory().frames.alloc(Owner::Test).expect("a frame");
        let code = frame.as_ptr();
        // SAFETY: our own frame. The instruction is RET, so without NX the call would come back.
        unsafe { code.write(0xc3) };
        // SAFETY: this is the fault under test; were the page executable, RET would be harmless.
        unsafe { asm!("call {}", in(reg) code, clobber_abi("C")) };
    }
}

ktest! {
    panics fn kernel_constants_cannot_change() {
        static CONSTANT: u64 = 1;
        // SAFETY: this is the fault under test; were the page writable, nobody else reads the constant.
        unsafe { (&raw const CONSTANT).cast_mut().write_volatile(2) };
    }
}

/// An address space with one page that is present, and its address.
fn one_page(rights: u32) -> (AddressSpace<Machine>, u64) {
    let space = space();
    let address = space.mmap(MapRequest::anonymous(abi::PAGE_SIZE, rights)).expect("a mapping");
    space.write_initial(address, &[0xc3]).expect("a frame");
    (space, address)
}

ktest! {
    panics fn the_kernel_cannot_read_user_memory_by_mistake() {
        let (space, address) = one_page(prot::READ | prot::WRITE);
        sched::with_space(&space, || {
            // Through the gate it works, ...
            let mut byte = [0];
            kernel::arch::uaccess::copy_in(&mut byte, address).expect("a mapped page");
            assert_eq!(byte, [0xc3]);
            // ... and past it this is the fault under test (SMAP).
            // SAFETY: the page is present; were it open, the value would be read and dropped.
            core::hint::black_box(unsafe { (address as *const u8).read_volatile() });
        });
    }
}

ktest! {
    panics fn the_kernel_cannot_run_user_memory() {
        let (space, address) = one_page(prot::READ | prot::EXEC);
        sched::with_space(&space, || {
            // SAFETY: this is the fault under test (SMEP); the page holds RET.
            unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) };
        });
    }
}
