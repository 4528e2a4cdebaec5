//! One address space changed and touched by all CPUs at once, allocations that fail, and the heap under churn. That
//! every frame comes back is checked by the runner after each test.

extern crate alloc;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use abi::flags::{madv, prot};
use abi::{Errno, PAGE_SIZE};
use kernel::arch::{paging, uaccess};
use kernel::ktest;
use kernel::ktest::{on_all_cpus, share};
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::sched;
use mm::{AddressSpace, MapRequest};
use sync::Platform;
use sync::alloc::{try_box, try_box_slice, try_vec_with_capacity};

const RIGHTS: u32 = prot::READ | prot::WRITE;

/// The address space of the running test, for its threads.
static SPACE: AtomicPtr<AddressSpace<Machine>> = AtomicPtr::new(core::ptr::null_mut());

/// A new address space in which `f(cpu)` runs on all CPUs.
fn on_all_cpus_inside(f: fn(&AddressSpace<Machine>, u64)) {
    static WORK: AtomicU64 = AtomicU64::new(0);
    let space = AddressSpace::new(memory(), paging::kernel_root()).expect("memory for an address space");
    SPACE.store((&raw const space).cast_mut(), Ordering::Release);
    WORK.store(f as *const () as u64, Ordering::Release);
    on_all_cpus(|cpu| {
        // SAFETY: the test lives until all its threads have ended.
        let space = unsafe { &*SPACE.load(Ordering::Acquire) };
        // SAFETY: the number is `f`.
        let work =
            unsafe { core::mem::transmute::<u64, fn(&AddressSpace<Machine>, u64)>(WORK.load(Ordering::Acquire)) };
        sched::with_space(space, || work(space, cpu));
    });
}

/// A small generator of numbers that look random, from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64: Marsaglia, "Xorshift RNGs", 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn write(address: u64, value: u64) -> Result<(), Errno> {
    uaccess::copy_out(address, &value.to_le_bytes())
}

fn read(address: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    uaccess::copy_in(&mut bytes, address).map(|()| u64::from_le_bytes(bytes))
}

ktest! {
    /// Each CPU in its own mappings: what it writes stays, whatever the others do beside.
    pairs fn private_mappings_on_all_cpus_do_not_disturb_each_other() {
        on_all_cpus_inside(|space, cpu| {
            let mut numbers = Numbers(cpu + 1);
            for round in 0..share(96, 12) {
                let pages = 1 + numbers.below(12);
                let base = space.mmap(MapRequest::anonymous(pages * PAGE_SIZE, RIGHTS)).expect("a mapping");
                for page in 0..pages {
                    write(base + page * PAGE_SIZE, cpu << 32 | round << 8 | page).expect("own memory");
                }
                // A hole in the middle, and one page that cannot be written.
                let hole = numbers.below(pages);
                space.munmap(base + hole * PAGE_SIZE, PAGE_SIZE).expect("own memory");
                for page in (0..pages).filter(|page| *page != hole) {
                    let at = base + page * PAGE_SIZE;
                    assert_eq!(read(at), Ok(cpu << 32 | round << 8 | page));
                    space.mprotect(at, PAGE_SIZE, prot::READ).expect("own memory");
                    assert_eq!(write(at, 0), Err(Errno::EFAULT));
                }
                // Not the hole: somebody else may live there by now.
                for page in (0..pages).filter(|page| *page != hole) {
                    space.munmap(base + page * PAGE_SIZE, PAGE_SIZE).expect("own memory");
                }
            }
        });
    }
}

ktest! {
    /// All CPUs map, unmap, protect, drop and touch the same few pages. Every outcome must be one that some order of
    /// the calls allows, so little can be asserted here but that nothing breaks and no frame is lost.
    pairs fn one_range_fought_for_by_all_cpus() {
        const BASE: u64 = 0x10_0000_0000;
        const PAGES: u64 = 24;
        on_all_cpus_inside(|space, cpu| {
            let mut numbers = Numbers(77 + cpu * 1001);
            for _ in 0..share(1200, 150) {
                let first = numbers.below(PAGES);
                let len = (1 + numbers.below(PAGES - first)) * PAGE_SIZE;
                let at = BASE + first * PAGE_SIZE;
                match numbers.below(8) {
                    0 => space.munmap(at, len).expect("munmap of anything aligned succeeds"),
                    1 | 2 => assert_eq!(space.mmap(MapRequest::fixed(at, len, RIGHTS)), Ok(at)),
                    3 => {
                        let answer = space.mprotect(at, len, if numbers.below(2) == 0 { prot::READ } else { RIGHTS });
                        assert!(matches!(answer, Ok(()) | Err(Errno::ENOMEM)), "{answer:?}");
                    }
                    4 => {
                        let answer = space.madvise(at, len, madv::DONTNEED);
                        assert!(matches!(answer, Ok(()) | Err(Errno::ENOMEM)), "{answer:?}");
                    }
                    _ => {
                        // Only values that name their own page are ever written.
                        if let Err(error) = write(at, at) {
                            assert_eq!(error, Errno::EFAULT);
                        }
                        match read(at) {
                            Ok(value) => assert!(value == 0 || value == at, "{at:#x} holds {value:#x}"),
                            Err(error) => assert_eq!(error, Errno::EFAULT),
                        }
                    }
                }
            }
        });
    }
}

ktest! {
    /// All CPUs fault in the same fresh page at the same time: one frame, and everybody sees it.
    pairs fn all_cpus_fault_in_one_page() {
        const BASE: u64 = 0x20_0000_0000;
        static ARRIVED: AtomicU64 = AtomicU64::new(0);
        ARRIVED.store(0, Ordering::Relaxed);
        on_all_cpus_inside(|space, cpu| {
            let cpus = Machine::cpu_count() as u64;
            // At every barrier each CPU waits for its turn on the host.
            let pages = share(400, 50);
            // EEXIST for all but the first.
            let mut request = MapRequest::fixed(BASE, pages * PAGE_SIZE, RIGHTS);
            request.flags |= abi::flags::map::FIXED_NOREPLACE;
            let answer = space.mmap(request);
            assert!(matches!(answer, Ok(BASE) | Err(Errno::EEXIST)), "{answer:?}");
            for page in 0..pages {
                // A barrier, so that they all arrive at once.
                ARRIVED.fetch_add(1, Ordering::AcqRel);
                while ARRIVED.load(Ordering::Acquire) < (page + 1) * cpus {
                    Machine::relax();
                }
                let own = BASE + page * PAGE_SIZE + cpu * 8;
                write(own, cpu + 1).expect("a mapped page");
            }
            ARRIVED.fetch_add(1, Ordering::AcqRel);
            while ARRIVED.load(Ordering::Acquire) < (pages + 1) * cpus {
                Machine::relax();
            }
            for page in 0..pages {
                for other in 0..cpus {
                    assert_eq!(read(BASE + page * PAGE_SIZE + other * 8), Ok(other + 1));
                }
            }
        });
    }
}

ktest! {
    /// Each frame allocation of a series of calls fails once: every call answers `ENOMEM` (a touched page: `EFAULT`)
    /// or works, and nothing is half done.
    pairs fn failing_frame_allocations_are_errors() {
        let frames = &memory().frames;
        let mut failures = 0;
        for successes in 0..60 {
            frames.fail_after(successes);
            let answer = AddressSpace::new(memory(), paging::kernel_root()).and_then(|space| {
                sched::with_space(&space, || {
                    let base = space.mmap(MapRequest::anonymous(64 * PAGE_SIZE, RIGHTS))?;
                    (0..32).try_for_each(|page| write(base + 2 * page * PAGE_SIZE, page))?;
                    space.mprotect(base, 8 * PAGE_SIZE, prot::READ)?;
                    space.munmap(base + 16 * PAGE_SIZE, 16 * PAGE_SIZE)
                })
            });
            frames.fail_never();
            match answer {
                Ok(()) => {}
                Err(Errno::ENOMEM | Errno::EFAULT) => failures += 1,
                Err(error) => panic!("{error:?} after {successes} allocations"),
            }
        }
        assert!(failures >= 30, "only {failures} of the allocations failed");
    }
}

/// A small block of the heap that holds the next one.
struct Link {
    next: Option<Box<Link>>,
    room: [u64; 30],
}

ktest! {
    /// With the kernel heap used up, calls answer `ENOMEM`; when it is back, they work.
    pairs fn an_empty_heap_is_an_error() {
        let space = AddressSpace::new(memory(), paging::kernel_root()).expect("memory for an address space");
        // The largest block that can be had, again and again, then small ones, until nothing at all is left.
        let mut blocks = [const { None }; 128];
        let (mut count, mut size) = (0, 1 << 30);
        while size >= 4096 && count < blocks.len() {
            match try_vec_with_capacity::<u8>(size) {
                Ok(block) => {
                    blocks[count] = Some(block);
                    count += 1;
                }
                Err(_) => size /= 2,
            }
        }
        let mut chain: Option<Box<Link>> = None;
        while let Ok(mut link) = try_box(Link { next: None, room: [0; 30] }) {
            link.next = chain.take();
            chain = Some(link);
        }
        let answers = [
            space.mmap(MapRequest::anonymous(PAGE_SIZE, RIGHTS)).map(|_| ()),
            space.mmap(MapRequest::fixed(0x30_0000_0000, PAGE_SIZE, RIGHTS)).map(|_| ()),
        ];
        assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(Errno::ENOMEM))), "{answers:?}");
        // Link by link: a chain of thousands would drop recursively, on a small stack.
        while let Some(mut link) = chain {
            core::hint::black_box(&link.room);
            chain = link.next.take();
        }
        drop(blocks);
        let base = space.mmap(MapRequest::anonymous(PAGE_SIZE, RIGHTS)).expect("the heap is back");
        sched::with_space(&space, || write(base, 1)).expect("a mapped page");
    }
}

ktest! {
    /// All CPUs allocate and free blocks of all sizes, checking that nobody else writes into theirs.
    fn heap_churn_on_all_cpus() {
        on_all_cpus(|cpu| {
            let mut numbers = Numbers(cpu + 12345);
            let mut held = [const { None }; 32];
            for step in 0..4000u64 {
                let place = numbers.below(held.len() as u64) as usize;
                let len = 1 + numbers.below(if step % 16 == 0 { 9000 } else { 700 }) as usize;
                let mark = (cpu * 31 + place as u64) as u8;
                let new = try_box_slice(len, |_| mark).expect("heap");
                if let Some(old) = held[place].replace(new) {
                    assert!(old.iter().all(|byte| *byte == mark), "a block of CPU {cpu} was overwritten");
                }
            }
        });
    }
}
