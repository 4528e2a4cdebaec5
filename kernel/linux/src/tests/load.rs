//! Loading: what lies in memory afterwards, and that a load that fails leaves nothing.

use abi::flags::prot;
use abi::{Errno, PAGE_SIZE, USER_END};
use mm::{Rights, VmaInfo};
use sync::testing::{Host, fail_allocation_after};

use super::files::{Builder, Load, compile};
use super::machine::machine;
use super::program::tiny;
use super::{Program, User};
use crate::elf::{ElfError, Image, Placement};
use crate::{LoadError, System, load};

fn mappings(program: &Program) -> Vec<VmaInfo> {
    let mut all = Vec::new();
    program.space().vmas(&mut |vma| all.push(*vma));
    all
}

fn at(mappings: &[VmaInfo], address: u64) -> &VmaInfo {
    let found = mappings.iter().find(|vma| (vma.start..vma.end).contains(&address));
    found.unwrap_or_else(|| panic!("{address:#x} is mapped"))
}

/// Compares the memory of a loaded program with its file.
fn check(program: &Program, user: &User, file: &[u8]) {
    let image = Image::parse(file).expect("it was loaded");
    let bias = program.first_regs().rip - image.entry;
    match image.placement {
        Placement::Fixed => assert_eq!(bias, 0),
        Placement::Movable { .. } => assert_eq!(bias, 0x5555_5555_4000),
    }
    let mappings = mappings(program);
    for segment in &image.segments {
        for page in segment.pages().step_by(PAGE_SIZE as usize) {
            let rights = at(&mappings, page + bias).rights;
            assert_eq!(rights, Rights::from_prot(segment.prot), "{:#x}", page + bias);
        }
        if segment.prot & prot::READ == 0 {
            continue;
        }
        let bytes = user.get(segment.start + bias, segment.len as usize);
        let (from_file, zeros) = bytes.split_at(segment.file_len);
        assert!(from_file == &file[segment.file_offset..segment.file_offset + segment.file_len], "{segment:?}");
        assert!(zeros.iter().all(|&byte| byte == 0), "{segment:?}");
    }
    let stack = at(&mappings, user.regs.rsp);
    assert_eq!((stack.start, stack.end, stack.rights), (USER_END - (8 << 20), USER_END, Rights::READ | Rights::WRITE));
    assert_eq!(stack.name, "[stack]");
    assert_eq!(user.call(abi::nr::brk, &[0]) as u64, image.extent().end + bias);
}

#[test]
fn a_hand_made_program_lies_where_it_should() {
    let file = tiny();
    let program = Program::load(&file, b"prog\0arg\0", b"A=b\0");
    program.run(|user| {
        check(&program, user, &file);
        assert_eq!(user.regs.rsp % 16, 0);
        assert_eq!((user.word(user.regs.rsp), user.regs.rflags), (2, 0x202));
        let first = user.word(user.regs.rsp + 8);
        assert_eq!(user.get(first, 5), b"prog\0");
    });
}

#[test]
fn compiled_programs_lie_where_they_should() {
    let source = "#include <stdio.h>\nint zeros[5000]; int main(void) { return puts(\"hello\") + zeros[17]; }";
    for flags in [&["-static"][..], &["-static-pie"]] {
        let Some(file) = compile("loaded", source, flags) else { return };
        let program = Program::load(&file, b"prog\0", b"");
        program.run(|user| check(&program, user, &file));
    }
}

#[test]
fn movable_programs_are_aligned_as_they_ask() {
    let code = Load { kind: 1, flags: 5, offset: 0, vaddr: 0x20_0000, filesz: 0x200, memsz: 0x200, align: 0x20_0000 };
    let file = Builder { movable: true, entry: 0x20_0100, loads: vec![code], ..Builder::default() }.bytes();
    let program = Program::load(&file, b"", b"");
    let entry = program.first_regs().rip;
    assert_eq!(entry & 0x1f_ffff, 0x100);
    assert!((0x5555_5540_0000..0x5555_5580_0000).contains(&entry), "{entry:#x}");
}

#[test]
fn programs_that_do_not_fit_are_refused() {
    let refusal = |change: fn(&mut Builder)| {
        let code = Load { kind: 1, flags: 5, offset: 0, vaddr: 0x40_0000, filesz: 0x200, memsz: 0x200, align: 0x1000 };
        let mut file = Builder { entry: 0x40_0100, loads: vec![code], ..Builder::default() };
        change(&mut file);
        let result = machine().on_cpu(0, || load::<Host>(&file.bytes(), b"", b"", machine().kernel_root));
        result.err().expect("the program must be refused")
    };
    let _program = Program::new(); // holds the machine
    assert_eq!(refusal(|file| file.entry = 0), LoadError::Elf(ElfError::Entry));
    // Into the stack, by address or by size.
    assert_eq!(
        refusal(|file| {
            file.loads[0].vaddr = USER_END - 0x1000;
            file.entry = USER_END - 0x1000;
        }),
        LoadError::NoRoom
    );
    assert_eq!(refusal(|file| file.loads[0].memsz = USER_END - 0x40_0000), LoadError::NoRoom);
    // Movable, but by steps that leave no room.
    assert_eq!(
        refusal(|file| {
            file.movable = true;
            file.entry = 0x100;
            file.loads[0].vaddr = 0;
            file.loads[0].align = 1 << 62;
        }),
        LoadError::NoRoom
    );
    assert_eq!(
        refusal(|file| {
            file.movable = true;
            file.loads[0].memsz = 1 << 46;
        }),
        LoadError::NoRoom
    );
    // Writable memory that the machine does not have.
    let huge = refusal(|file| {
        file.loads[0].flags = 7;
        file.loads[0].memsz = 1 << 40;
    });
    assert_eq!(huge, LoadError::Refused(Errno::ENOMEM));
    assert!(huge.to_string().contains("ENOMEM"), "{huge}");
}

#[test]
fn a_load_without_memory_leaves_nothing() {
    let file = tiny();
    let (mut failures, mut id_before) = (0, None);
    for successes in 0.. {
        // Each round's frames, and its process number, are checked by the next program's making and end.
        let before = Program::new();
        let outcome = machine().on_cpu(1, || {
            let load = || load::<Host>(&file, b"prog\0", b"A=b\0", machine().kernel_root);
            let (outcome, failed) = fail_allocation_after(successes, load);
            assert_eq!(outcome.is_err(), failed, "after {successes} allocations");
            outcome.map(|loaded| loaded.thread).map_err(|error| error.to_string())
        });
        let taken = Host::ids().in_use();
        match outcome {
            Err(_) => failures += 1,
            Ok(thread) => {
                machine().on_cpu(1, || {
                    crate::thread_exit(&thread);
                    drop(thread);
                });
                break;
            }
        }
        assert_eq!(*id_before.get_or_insert(taken), taken, "a process number was lost");
        drop(before);
    }
    assert!(failures > 5, "{failures} places to fail");
}
