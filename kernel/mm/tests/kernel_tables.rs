//! The kernel's own page tables: what is mapped is what was asked for, writable or executable and never both.

use mm::{
    KernelRights, MapKernelError, Owner, PAGE_SIZE,
    paging::{map_kernel, new_kernel_root, prepare_kernel_slot, translate, unmap_kernel},
    testing::Machine,
};

const TEXT: u64 = 0xffff_ffff_8000_0000;
const WINDOW: u64 = 0xffff_8000_0000_0000;
const LARGE: u64 = 2 << 20;

#[test]
fn ranges_are_mapped_in_the_largest_pages_that_fit() {
    let machine = Machine::new(1024);
    let frames = &machine.memory.frames;
    let root = new_kernel_root(frames).unwrap();
    let tables = || frames.usage().owned_by(Owner::KernelTables);
    let before = tables();
    // SAFETY: our own root; nothing is ever reached through it.
    unsafe { map_kernel(root, WINDOW, 0, 64 * LARGE, KernelRights::ReadWrite, frames) }.unwrap();
    assert_eq!(tables() - before, 2, "64 large pages need a level 3 and a level 2 table");
    // A piece before, large pages, a piece after.
    let (virt, phys) = (TEXT + LARGE - 2 * PAGE_SIZE, 8 * LARGE - 2 * PAGE_SIZE);
    // SAFETY: as above.
    unsafe { map_kernel(root, virt, phys, LARGE + 3 * PAGE_SIZE, KernelRights::ReadExecute, frames) }.unwrap();
    for offset in [0, 1, PAGE_SIZE, 2 * PAGE_SIZE, 2 * PAGE_SIZE + 12345, LARGE + 3 * PAGE_SIZE - 1] {
        // SAFETY: our own root.
        assert_eq!(unsafe { translate::<sync::testing::Host>(root, virt + offset) }, Some(phys + offset));
    }
    for addr in [virt - 1, virt + LARGE + 3 * PAGE_SIZE, WINDOW + 64 * LARGE, 0] {
        // SAFETY: our own root.
        assert_eq!(unsafe { translate::<sync::testing::Host>(root, addr) }, None, "{addr:#x}");
    }
}

#[test]
fn what_cannot_be_mapped_says_so() {
    let machine = Machine::new(1024);
    let frames = &machine.memory.frames;
    let root = new_kernel_root(frames).unwrap();
    let map = |virt, phys, len| {
        // SAFETY: our own root; nothing is ever reached through it.
        unsafe { map_kernel(root, virt, phys, len, KernelRights::ReadOnly, frames) }
    };
    assert_eq!(map(TEXT + 1, 0, PAGE_SIZE), Err(MapKernelError::Unaligned));
    assert_eq!(map(TEXT, 1, PAGE_SIZE), Err(MapKernelError::Unaligned));
    assert_eq!(map(TEXT, 0, 1), Err(MapKernelError::Unaligned));
    assert_eq!(map(!0xfff, 0, 2 * PAGE_SIZE), Err(MapKernelError::Unaligned));
    assert_eq!(map(!0xfff, 0, PAGE_SIZE), Ok(()), "the last page of all");
    assert_eq!(map(TEXT, 0, 0), Ok(()));
    assert_eq!(map(TEXT, 0, PAGE_SIZE), Ok(()));
    assert_eq!(map(TEXT, PAGE_SIZE, PAGE_SIZE), Err(MapKernelError::Occupied));
    frames.fail_after(0);
    assert_eq!(map(WINDOW, 0, PAGE_SIZE), Err(MapKernelError::OutOfMemory));
    frames.fail_never();
}

#[test]
fn small_pages_can_be_unmapped_and_mapped_again() {
    let machine = Machine::new(1024);
    let frames = &machine.memory.frames;
    let root = new_kernel_root(frames).unwrap();
    // SAFETY: our own root.
    unsafe { prepare_kernel_slot(root, TEXT, frames) }.unwrap();
    for round in 1..4 {
        let phys = round * PAGE_SIZE;
        // SAFETY: our own root; nothing is ever reached through it.
        unsafe { map_kernel(root, TEXT, phys, 3 * PAGE_SIZE, KernelRights::Device, frames) }.unwrap();
        // SAFETY: our own root.
        assert_eq!(unsafe { translate::<sync::testing::Host>(root, TEXT + 2 * PAGE_SIZE) }, Some(phys + 2 * PAGE_SIZE));
        // SAFETY: nobody uses the range.
        unsafe { unmap_kernel::<sync::testing::Host>(root, TEXT, 3 * PAGE_SIZE) };
        // SAFETY: our own root.
        assert_eq!(unsafe { translate::<sync::testing::Host>(root, TEXT) }, None);
    }
}

#[test]
fn programs_share_what_is_mapped_later_in_a_prepared_slot() {
    let machine = Machine::new(1024);
    let frames = &machine.memory.frames;
    // SAFETY: the machine's root; nothing is ever reached through it.
    unsafe { prepare_kernel_slot(machine.kernel_root, TEXT, frames) }.unwrap();
    machine.on_cpu(0, || {
        let space = mm::AddressSpace::new(machine.memory, machine.kernel_root).unwrap();
        // SAFETY: as above.
        unsafe { map_kernel(machine.kernel_root, TEXT, 0, PAGE_SIZE, KernelRights::ReadExecute, frames) }.unwrap();
        // SAFETY: the space's root is alive.
        assert_eq!(unsafe { translate::<sync::testing::Host>(space.root(), TEXT + 5) }, Some(5));
    });
}
