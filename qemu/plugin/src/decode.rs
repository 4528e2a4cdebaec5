//! What the bytes of an instruction say about it: does it lock, does it repeat itself, is it a marker?
//!
//! QEMU knows where instructions begin and end, so no lengths are decoded: prefixes are skipped, and the opcode and the
//! ModRM byte behind them are looked at. Source: Intel SDM vol. 2, chapter 2 (formats) and the pages of LOCK, XCHG, REP,
//! IRET and SYSRET.

use abi::marker::{Marker, OPCODE};

/// What an instruction is to the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing special.
    Plain,
    /// It locks its memory operand: by a LOCK prefix, or because it is an XCHG with memory.
    Locked,
    /// A string instruction with a repeat prefix: QEMU runs it as many times as it repeats.
    Repeated,
    /// It leaves the kernel's entry code: IRET or SYSRET.
    Returns,
    /// A marker: counted as nothing.
    Marker(Marker),
}

const LOCK: u8 = 0xf0;
const REPNE: u8 = 0xf2;
const REP: u8 = 0xf3;

/// Prefixes of which any number, in any order, may stand before an opcode (SDM vol. 2, 2.1.1).
fn is_legacy_prefix(byte: u8) -> bool {
    // Segments (26 2e 36 3e 64 65), operand size, address size, LOCK, REPNE, REP.
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | LOCK | REPNE | REP)
}

/// Looks at one instruction of 64-bit code.
pub(crate) fn decode(bytes: &[u8]) -> Kind {
    if let Some(displacement) = bytes.strip_prefix(&OPCODE)
        && let Ok(displacement) = displacement.try_into()
        && let Some(marker) = Marker::of_displacement(u32::from_le_bytes(displacement))
    {
        return Kind::Marker(marker);
    }
    let legacy = bytes.iter().position(|&byte| !is_legacy_prefix(byte)).unwrap_or(bytes.len());
    let (prefixes, rest) = bytes.split_at(legacy);
    // One REX prefix at most counts: the one right before the opcode.
    let opcode = match rest.first() {
        Some(0x40..=0x4f) => &rest[1..],
        _ => rest,
    };
    if prefixes.contains(&LOCK) {
        return Kind::Locked;
    }
    match *opcode {
        // XCHG r/m, r: with a memory operand it locks, whatever its prefixes.
        [0x86 | 0x87, modrm, ..] if modrm >> 6 != 0b11 => Kind::Locked,
        // INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS.
        [0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf, ..] if prefixes.contains(&REP) || prefixes.contains(&REPNE) => {
            Kind::Repeated
        }
        [0xcf, ..] | [0x0f, 0x07, ..] => Kind::Returns,
        _ => Kind::Plain,
    }
}

#[cfg(test)]
mod tests {
    use abi::marker;

    use super::*;

    #[test]
    fn a_lock_prefix_is_found_among_others() {
        for bytes in [
            &[0xf0, 0x48, 0x0f, 0xc1, 0x07][..],         // lock xadd [rdi], rax
            &[0xf0, 0x83, 0x0c, 0x24, 0x00],             // lock or dword ptr [rsp], 0
            &[0x66, 0xf0, 0x0f, 0xb1, 0x0f],             // lock cmpxchg [rdi], cx
            &[0x65, 0xf0, 0xff, 0x04, 0x25, 0, 0, 0, 0], // lock inc dword ptr gs:[0]
            &[0xf2, 0xf0, 0x48, 0x0f, 0xc7, 0x0f],       // xacquire lock cmpxchg16b [rdi]
            &[0xf0, 0x49, 0x87, 0x00],                   // lock xchg [r8], rax
        ] {
            assert_eq!(decode(bytes), Kind::Locked, "{bytes:02x?}");
        }
    }

    #[test]
    fn an_exchange_locks_with_memory_and_not_between_registers() {
        for bytes in [
            &[0x87, 0x07][..],                           // xchg [rdi], eax
            &[0x86, 0x07],                               // xchg [rdi], al
            &[0x48, 0x87, 0x47, 0x08],                   // xchg [rdi + 8], rax
            &[0x4d, 0x87, 0x84, 0x24, 0, 1, 0, 0],       // xchg [r12 + 256], r8
            &[0x66, 0x87, 0x07],                         // xchg [rdi], ax
            &[0x65, 0x48, 0x87, 0x04, 0x25, 0, 0, 0, 0], // xchg gs:[0], rax
            &[0xf3, 0x87, 0x07],                         // xrelease xchg [rdi], eax
        ] {
            assert_eq!(decode(bytes), Kind::Locked, "{bytes:02x?}");
        }
        for bytes in [
            &[0x87, 0xc1][..],   // xchg ecx, eax
            &[0x48, 0x87, 0xd8], // xchg rax, rbx
            &[0x86, 0xe0],       // xchg al, ah
            &[0x48, 0x93],       // xchg rbx, rax (short form)
            &[0x90],             // nop
            &[0xf3, 0x90],       // pause
        ] {
            assert_eq!(decode(bytes), Kind::Plain, "{bytes:02x?}");
        }
    }

    #[test]
    fn bytes_behind_the_opcode_are_no_prefixes() {
        for bytes in [
            &[0xb0, 0xf0][..],                           // mov al, 0xf0
            &[0x48, 0xb8, 0xf0, 0x87, 0, 0, 0, 0, 0, 0], // movabs rax, 0x87f0
            &[0x0f, 0xae, 0xf0],                         // mfence
            &[0x0f, 0x87, 0, 0, 0, 0],                   // ja: 87 in the second map
            &[0x40, 0xf0],                               // a REX that nothing follows
            &[0xc5, 0xf8, 0x77],                         // vzeroupper
            &[],
            &[0x66],
            &[0x48],
            &[0x87],
        ] {
            assert_eq!(decode(bytes), Kind::Plain, "{bytes:02x?}");
        }
    }

    #[test]
    fn string_instructions_repeat_with_a_prefix() {
        assert_eq!(decode(&[0xf3, 0x48, 0xab]), Kind::Repeated); // rep stosq
        assert_eq!(decode(&[0xf3, 0xa4]), Kind::Repeated); // rep movsb
        assert_eq!(decode(&[0xf2, 0xae]), Kind::Repeated); // repne scasb
        assert_eq!(decode(&[0x48, 0xab]), Kind::Plain); // stosq
        assert_eq!(decode(&[0xa8, 0x01]), Kind::Plain); // test al, 1
        assert_eq!(decode(&[0xf3, 0xa8, 0x01]), Kind::Plain);
        assert_eq!(decode(&[0xf3, 0x0f, 0x1e, 0xfa]), Kind::Plain); // endbr64
    }

    #[test]
    fn returns_of_either_kind_are_known() {
        assert_eq!(decode(&[0x48, 0xcf]), Kind::Returns); // iretq
        assert_eq!(decode(&[0xcf]), Kind::Returns); // iretd
        assert_eq!(decode(&[0x48, 0x0f, 0x07]), Kind::Returns); // sysretq
        assert_eq!(decode(&[0xc3]), Kind::Plain); // ret
        assert_eq!(decode(&[0x0f, 0x05]), Kind::Plain); // syscall
    }

    #[test]
    fn markers_are_long_nops_with_the_magic_displacement() {
        for kind in
            [marker::Kind::Begin, marker::Kind::End, marker::Kind::BeginAll, marker::Kind::EndAll, marker::Kind::Arm]
        {
            for window in 0..marker::WINDOWS as u32 {
                let marker = Marker { kind, window };
                let bytes = [&OPCODE[..], &marker.displacement().to_le_bytes()].concat();
                assert_eq!(decode(&bytes), Kind::Marker(marker));
            }
        }
        for bytes in [
            &[0x0f, 0x1f, 0x80, 0, 0, 0, 0][..],         // the assembler's padding
            &[0x0f, 0x1f, 0x80, 0x10, 0, 0x55, 0x7e],    // window 16
            &[0x0f, 0x1f, 0x80, 0, 0x50, 0x55, 0x7e],    // kind 5
            &[0x0f, 0x1f, 0x84, 0, 0, 0, 0x55, 0x7e],    // with an index byte
            &[0x66, 0x0f, 0x1f, 0x80, 0, 0, 0x55, 0x7e], // with a prefix
        ] {
            assert_eq!(decode(bytes), Kind::Plain, "{bytes:02x?}");
        }
    }
}
