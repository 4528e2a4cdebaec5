//! Accesses of the kernel to user memory: good addresses work and fault pages in, bad ones give `EFAULT`, nothing
//! else happens.

use abi::flags::prot;
use abi::{Errno, PAGE_SIZE, USER_END};
use kernel::arch::{paging, uaccess};
use kernel::ktest;
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::sched;
use mm::{AddressSpace, MapRequest};
use sync::{Abort, Counters, UpdateLock, update};

/// Runs `f` inside a new address space.
fn inside(f: impl FnOnce(&AddressSpace<Machine>)) {
    let space = AddressSpace::new(memory(), paging::kernel_root()).expect("memory for an address space");
    sched::with_space(&space, || f(&space));
}

/// All ways of access to one bad address.
fn all_refused(address: u64) {
    assert_eq!(uaccess::copy_in(&mut [0; 16], address), Err(Errno::EFAULT), "copy_in({address:#x})");
    assert_eq!(uaccess::copy_out(address, &[1; 16]), Err(Errno::EFAULT), "copy_out({address:#x})");
    assert_eq!(uaccess::load_u32(address & !3), Err(Errno::EFAULT), "load_u32({address:#x})");
    assert_eq!(uaccess::compare_exchange_u32(address & !3, 0, 1), Err(Errno::EFAULT), "compare_exchange({address:#x})");
}

ktest! {
    pairs fn bad_addresses_give_efault() {
        inside(|space| {
            all_refused(0);
            all_refused(0x1234_5678_9000);
            all_refused(USER_END);
            all_refused(0x0000_8000_0000_0000);
            all_refused(0x8000_0000_0000_0000);
            all_refused(paging::WINDOW);
            all_refused(paging::IMAGE);
            all_refused(u64::MAX - 3);
            let none = space.mmap(MapRequest::anonymous(PAGE_SIZE, prot::NONE)).expect("a mapping");
            all_refused(none);
        });
    }
}

ktest! {
    fn without_an_address_space_everything_is_refused() {
        all_refused(0x40_0000);
    }
}

ktest! {
    pairs fn rights_decide() {
        inside(|space| {
            let page = space.mmap(MapRequest::anonymous(PAGE_SIZE, prot::READ)).expect("a mapping");
            assert_eq!(uaccess::copy_in(&mut [1; 16], page), Ok(()));
            assert_eq!(uaccess::load_u32(page), Ok(0));
            assert_eq!(uaccess::copy_out(page, &[1; 16]), Err(Errno::EFAULT));
            assert_eq!(uaccess::compare_exchange_u32(page, 0, 1), Err(Errno::EFAULT));
        });
    }
}

ktest! {
    /// Copies of every length around a word, across a page boundary, faulting both pages in.
    pairs fn copies_are_exact_at_every_offset() {
        inside(|space| {
            let rights = prot::READ | prot::WRITE;
            let mut pattern = [0u8; 40];
            pattern.iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8 + 1);
            for len in 0..=pattern.len() {
                let pages = space.mmap(MapRequest::anonymous(2 * PAGE_SIZE, rights)).expect("a mapping");
                for back in 0..=len as u64 {
                    let at = pages + PAGE_SIZE - back;
                    assert_eq!(uaccess::copy_out(at, &pattern[..len]), Ok(()));
                    let mut read = [0xffu8; 42];
                    assert_eq!(uaccess::copy_in(&mut read[1..=len], at), Ok(()));
                    assert_eq!(read[1..=len], pattern[..len]);
                    assert_eq!((read[0], read[len + 1]), (0xff, 0xff), "bytes beside the copy changed");
                }
                space.munmap(pages, 2 * PAGE_SIZE).expect("a mapping");
            }
        });
    }
}

ktest! {
    /// A copy that ends in a hole stops there, and says so.
    pairs fn a_copy_into_a_hole_fails() {
        inside(|space| {
            let rights = prot::READ | prot::WRITE;
            let pages = space.mmap(MapRequest::anonymous(2 * PAGE_SIZE, rights)).expect("a mapping");
            space.munmap(pages + PAGE_SIZE, PAGE_SIZE).expect("a mapping");
            let edge = pages + PAGE_SIZE - 8;
            assert_eq!(uaccess::copy_out(edge, &[7; 16]), Err(Errno::EFAULT));
            assert_eq!(uaccess::copy_in(&mut [0; 16], edge), Err(Errno::EFAULT));
            assert_eq!(uaccess::copy_out(edge, &[7; 8]), Ok(()));
            assert_eq!(uaccess::clear(pages, PAGE_SIZE as usize), Ok(()));
            assert_eq!(uaccess::clear(edge, 16), Err(Errno::EFAULT));
        });
    }
}

ktest! {
    pairs fn compare_and_exchange_does_just_that() {
        inside(|space| {
            let page = space.mmap(MapRequest::anonymous(PAGE_SIZE, prot::READ | prot::WRITE)).expect("a mapping");
            assert_eq!(uaccess::compare_exchange_u32(page, 0, u32::MAX), Ok(0));
            assert_eq!(uaccess::compare_exchange_u32(page, 0, 7), Ok(u32::MAX));
            assert_eq!(uaccess::load_u32(page), Ok(u32::MAX));
            assert_eq!(uaccess::compare_exchange_u32(page, u32::MAX, 7), Ok(u32::MAX));
            assert_eq!(uaccess::load_u32(page), Ok(7));
            assert_eq!(uaccess::load_u32(page + 4), Ok(0));
        });
    }
}

ktest! {
    panics fn user_memory_is_not_touched_inside_a_transaction() {
        inside(|space| {
            let page = space.mmap(MapRequest::anonymous(PAGE_SIZE, prot::READ | prot::WRITE)).expect("a mapping");
            let lock = UpdateLock::new();
            let counters = Counters::new().expect("memory");
            let _ = update(&lock, &memory().locks, &counters, |_| {
                uaccess::copy_out(page, &[1]).map_err(Abort::from)
            });
        });
    }
}
