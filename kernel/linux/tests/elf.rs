//! The ELF checker against files that a compiler made, files made by hand, and files damaged at random.

mod files;

use files::{Builder, Load, compile};
use linux::elf::{ElfError, Image, MAX_SEGMENTS, Placement};
use proptest::prelude::*;

use abi::flags::prot;
use abi::{PAGE_SIZE, USER_END};

/// Linux's ELF constants that the tests need.
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;

fn text() -> Load {
    Load { kind: PT_LOAD, flags: PF_R | PF_X, offset: 0, vaddr: 0x40_0000, filesz: 0x200, memsz: 0x200, align: 0x1000 }
}

fn data() -> Load {
    Load {
        kind: PT_LOAD,
        flags: PF_R | PF_W,
        offset: 0x1100,
        vaddr: 0x40_2100,
        filesz: 0x80,
        memsz: 0x5000,
        align: 0x1000,
    }
}

fn good() -> Builder {
    Builder { loads: vec![text(), data()], entry: 0x40_0100, ..Builder::default() }
}

fn error(builder: Builder) -> ElfError {
    Image::parse(&builder.bytes()).expect_err("the file must be refused")
}

#[test]
fn a_good_file_is_described_exactly() {
    let image = Image::parse(&good().bytes()).expect("a good file");
    assert_eq!(image.placement, Placement::Fixed);
    assert_eq!(image.entry, 0x40_0100);
    assert_eq!(image.headers, Some(0x40_0040));
    assert_eq!(image.header_count, 2);
    assert_eq!(image.stack_prot, prot::READ | prot::WRITE);
    assert_eq!(image.segments.len(), 2);
    let [text, data] = [image.segments[0], image.segments[1]];
    assert_eq!((text.start, text.len, text.prot), (0x40_0000, 0x200, prot::READ | prot::EXEC));
    assert_eq!(text.pages(), 0x40_0000..0x40_1000);
    assert_eq!((data.start, data.len, data.prot), (0x40_2100, 0x5000, prot::READ | prot::WRITE));
    assert_eq!((data.file_offset, data.file_len), (0x1100, 0x80));
    assert_eq!(data.pages(), 0x40_2000..0x40_8000);
    assert_eq!(image.extent(), 0x40_0000..0x40_8000);
}

#[test]
fn the_stack_is_executable_only_if_the_file_says_so() {
    let stack = |flags| Load { kind: PT_GNU_STACK, flags, offset: 0, vaddr: 0, filesz: 0, memsz: 0, align: 16 };
    for (flags, expected) in
        [(PF_R | PF_W, prot::READ | prot::WRITE), (PF_R | PF_W | PF_X, prot::READ | prot::WRITE | prot::EXEC)]
    {
        let mut file = good();
        file.loads.push(stack(flags));
        assert_eq!(Image::parse(&file.bytes()).expect("a good file").stack_prot, expected);
    }
}

#[test]
fn section_headers_are_not_looked_at() {
    let mut bytes = good().bytes();
    bytes[40..48].copy_from_slice(&u64::MAX.to_le_bytes()); // e_shoff
    bytes[60..62].copy_from_slice(&7u16.to_le_bytes()); // e_shnum
    assert!(Image::parse(&bytes).is_ok());
}

#[test]
fn what_is_no_program_is_refused_by_name() {
    assert_eq!(Image::parse(b"").unwrap_err(), ElfError::NotElf);
    assert_eq!(
        Image::parse(b"#!/bin/sh\necho no elf file at all, but a long one, to get beyond the header\n").unwrap_err(),
        ElfError::NotElf
    );
    assert_eq!(Image::parse(&good().bytes()[..63]).unwrap_err(), ElfError::NotElf);
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = good().bytes();
        bytes[at..at + with.len()].copy_from_slice(with);
        Image::parse(&bytes).expect_err("the file must be refused")
    };
    assert_eq!(patched(4, &[1]), ElfError::WrongFormat); // 32-bit
    assert_eq!(patched(5, &[2]), ElfError::WrongFormat); // big-endian
    assert_eq!(patched(6, &[9]), ElfError::WrongFormat); // version
    assert_eq!(patched(18, &183u16.to_le_bytes()), ElfError::WrongMachine(183)); // AArch64
    assert_eq!(patched(16, &1u16.to_le_bytes()), ElfError::NotExecutable(1)); // relocatable
    assert_eq!(patched(54, &32u16.to_le_bytes()), ElfError::BadHeaders); // e_phentsize
    assert_eq!(patched(32, &u64::MAX.to_le_bytes()), ElfError::BadHeaders); // e_phoff
    assert_eq!(patched(32, &(1u64 << 40).to_le_bytes()), ElfError::BadHeaders);
    assert_eq!(patched(56, &u16::MAX.to_le_bytes()), ElfError::BadHeaders); // e_phnum
}

#[test]
fn a_dynamic_program_is_refused_with_advice() {
    let mut file = good();
    file.loads.push(Load { kind: PT_INTERP, flags: PF_R, offset: 0, vaddr: 0, filesz: 4, memsz: 4, align: 1 });
    let refusal = error(file);
    assert_eq!(refusal, ElfError::Dynamic);
    assert!(refusal.to_string().contains("-static"), "{refusal}");
}

#[test]
fn malformed_segments_are_refused_each_for_its_own_reason() {
    let with = |change: fn(&mut Load)| {
        let mut file = good();
        change(&mut file.loads[1]);
        error(file)
    };
    assert_eq!(with(|load| load.filesz = load.memsz + 1), ElfError::SegmentData(1));
    assert_eq!(with(|load| load.offset = 0x10_0100), ElfError::SegmentData(1));
    assert_eq!(with(|load| load.offset = u64::MAX - 0xeff), ElfError::SegmentData(1));
    assert_eq!(with(|load| load.offset += 8), ElfError::SegmentAlignment(1));
    assert_eq!(with(|load| load.align = 0x1800), ElfError::SegmentAlignment(1));
    assert_eq!(with(|load| load.vaddr = 0xffff_8000_0000_0100), ElfError::SegmentAddress(1));
    assert_eq!(with(|load| load.vaddr = USER_END - 0xf00), ElfError::SegmentAddress(1));
    assert_eq!(with(|load| load.memsz = u64::MAX - 0x1000), ElfError::SegmentAddress(1));
    assert_eq!(with(|load| load.vaddr = 0x100), ElfError::SegmentAddress(1));
    assert_eq!(with(|load| load.vaddr = 0x40_0100), ElfError::SegmentOrder(1)); // the same page as the first
    assert_eq!(with(|load| load.vaddr = 0x3f_0100), ElfError::SegmentOrder(1)); // below it
}

#[test]
fn the_top_of_the_programs_half_can_be_used_to_its_last_byte() {
    let mut file = good();
    file.loads[1].vaddr = USER_END - 0x2000 + 0x100;
    file.loads[1].memsz = 0x2000 - 0x100;
    let image = Image::parse(&file.bytes()).expect("just fits");
    assert_eq!(image.extent().end, USER_END);
}

#[test]
fn entry_and_number_of_segments_are_checked() {
    assert_eq!(error(Builder { entry: 0x40_2100, ..good() }), ElfError::Entry); // not executable
    assert_eq!(error(Builder { entry: 0x40_0200, ..good() }), ElfError::Entry); // one past
    assert_eq!(error(Builder { loads: vec![], ..good() }), ElfError::NoSegments);
    let mut file = good();
    let page = |index: u64| Load { vaddr: 0x50_0000 + index * PAGE_SIZE, filesz: 0, memsz: 0x100, offset: 0, ..data() };
    file.loads = (0..=MAX_SEGMENTS as u64).map(page).collect();
    assert_eq!(error(file), ElfError::TooManySegments);
}

#[test]
fn a_movable_file_keeps_the_largest_alignment() {
    let mut file = Builder { movable: true, ..good() };
    file.loads[0].align = 0x20_0000;
    let image = Image::parse(&file.bytes()).expect("a good file");
    assert_eq!(image.placement, Placement::Movable { align: 0x20_0000 });
}

#[test]
fn what_a_compiler_makes_is_accepted() {
    for (kind, flags) in
        [("static", &["-static"][..]), ("static-pie", &["-static-pie"]), ("fixed", &["-static", "-no-pie"])]
    {
        let Some(file) = compile("hello", "int main(void) { return 0; }", flags) else { return };
        let image = Image::parse(&file).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(matches!(image.placement, Placement::Movable { .. }), kind == "static-pie", "{kind}");
        assert!(image.headers.is_some(), "{kind}: a C library finds its TLS through the headers");
        assert!(
            image.segments.iter().all(|segment| segment.prot & (prot::WRITE | prot::EXEC) != prot::WRITE | prot::EXEC)
        );
    }
    let Some(file) = compile("dynamic", "int main(void) { return 0; }", &[]) else { return };
    assert_eq!(Image::parse(&file).unwrap_err(), ElfError::Dynamic);
}

/// What must hold for every file that is accepted, because the loader relies on it.
fn check_promises(image: &Image, file: &[u8]) {
    assert!(!image.segments.is_empty());
    let mut free_from = 0;
    for segment in &image.segments {
        let pages = segment.pages();
        assert!(pages.start >= free_from && pages.start < pages.end && pages.end <= USER_END, "{segment:?}");
        assert!(pages.contains(&segment.start) && segment.start + segment.len <= pages.end, "{segment:?}");
        assert!(
            segment.file_len as u64 <= segment.len && segment.file_offset + segment.file_len <= file.len(),
            "{segment:?}"
        );
        assert_eq!(segment.prot & !(prot::READ | prot::WRITE | prot::EXEC), 0);
        free_from = pages.end;
    }
    assert!(
        image.segments.iter().any(|segment| segment.prot & prot::EXEC != 0 && segment.pages().contains(&image.entry))
    );
    if let Some(headers) = image.headers {
        assert!(image.extent().contains(&headers));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Headers with random fields, mostly near what is legal.
    #[test]
    fn no_header_makes_the_checker_panic_or_break_its_promises(
        movable in any::<bool>(),
        entry in interesting(),
        loads in proptest::collection::vec(random_load(), 0..6),
    ) {
        let file = Builder { movable, entry, loads, ..Builder::default() }.bytes();
        if let Ok(image) = Image::parse(&file) {
            check_promises(&image, &file);
        }
    }

    /// A good file with a few bytes of its headers changed, and perhaps cut off.
    #[test]
    fn no_damage_makes_the_checker_panic_or_break_its_promises(
        damage in proptest::collection::vec((0usize..0xb0, any::<u8>()), 0..8),
        len in prop_oneof![3 => Just(usize::MAX), 1 => 0usize..0x1200],
    ) {
        let mut file = good().bytes();
        for (at, byte) in damage {
            file[at] = byte;
        }
        file.truncate(len);
        if let Ok(image) = Image::parse(&file) {
            check_promises(&image, &file);
        }
    }
}

/// Numbers at the edges of what the checker compares.
fn interesting() -> impl Strategy<Value = u64> {
    let edges = [0, 1, PAGE_SIZE, 0x1_0000, 0x40_0000, 0x40_1000, 0x40_2000, USER_END, 1 << 47, 1 << 63, u64::MAX];
    let near = (proptest::sample::select(edges.to_vec()), -0x2000i64..0x2000)
        .prop_map(|(edge, by)| edge.wrapping_add_signed(by));
    prop_oneof![6 => near, 1 => any::<u64>(), 3 => 0x40_0000u64..0x40_8000]
}

fn random_load() -> impl Strategy<Value = Load> {
    let size = || prop_oneof![3 => 0u64..0x3000, 1 => interesting()];
    let align = prop_oneof![4 => Just(0x1000u64), 1 => interesting()];
    let kind = prop_oneof![8 => Just(PT_LOAD), 1 => Just(PT_GNU_STACK), 1 => any::<u32>()];
    (kind, 0u32..8, size(), interesting(), size(), size(), align, any::<bool>()).prop_map(
        |(kind, flags, offset, vaddr, filesz, memsz, align, agree)| {
            // Most segments should get past the check that address and offset agree.
            let vaddr = if agree { (vaddr & !(PAGE_SIZE - 1)) | (offset % PAGE_SIZE) } else { vaddr };
            Load { kind, flags, offset, vaddr, filesz, memsz, align }
        },
    )
}
