//! Through which calls, and over which traps, did a stopped CPU come to where it is?
//!
//! Kernel code keeps frame pointers: RBP points at the caller's RBP, and the return address lies above it. A trap's entry
//! keeps no frame; where a return address leads into one, the interrupted registers lie right above
//! (`abi::report::trap`), and the walk goes on in what was interrupted. It ends at user mode, at a thread's first
//! function, and at whatever does not look like a frame.

use abi::report::trap;

use crate::peek::{Memory, is_kernel};
use crate::symbols::Symbols;

/// Most steps: deep enough for any true chain, short enough for one in a circle.
const LONGEST: usize = 64;

/// `push rbp`, the first instruction of a function with a frame.
const PUSH_RBP: u8 = 0x55;

/// One step of the way, innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The CPU is, or was interrupted, at this instruction.
    At(u64),
    /// A call that returns here.
    Call(u64),
    /// An interrupt or exception with this vector struck the next step's code.
    Trap(u64),
    /// User mode, at this instruction.
    User(u64),
    /// The frame at this address cannot be read: what came before is unknown.
    Lost(u64),
}

/// The way to `rip`, with the CPU's `rbp` and `rsp` there.
pub fn walk(memory: &mut impl Memory, symbols: &Symbols, rip: u64, rbp: u64, rsp: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    if !is_kernel(rip) {
        steps.push(Step::User(rip));
        return steps;
    }
    let (mut frame, mut floor) = (rbp, 0);
    enter(memory, symbols, rip, rsp, &mut steps);
    while frame != 0 && steps.len() < LONGEST {
        let words = memory.read(frame, 16).filter(|_| frame.is_multiple_of(8) && frame > floor);
        let Some(words) = words else {
            steps.push(Step::Lost(frame));
            break;
        };
        let [next, caller] = [word(&words, 0), word(&words, 8)];
        if !is_kernel(caller) {
            break;
        }
        if symbols.resolve(caller - 1).is_some_and(|name| is_trap_entry(&name)) {
            let Some(registers) = memory.read(frame + 16, trap::BYTES) else {
                steps.push(Step::Lost(frame + 16));
                break;
            };
            let register = |offset: u64| word(&registers, offset as usize);
            steps.push(Step::Trap(register(trap::VECTOR)));
            if register(trap::CS) & 3 != 0 {
                steps.push(Step::User(register(trap::RIP)));
                break;
            }
            enter(memory, symbols, register(trap::RIP), register(trap::RSP), &mut steps);
            // Another stack, perhaps: nothing orders the two.
            (frame, floor) = (register(trap::RBP), 0);
            continue;
        }
        steps.push(Step::Call(caller));
        (frame, floor) = (next, frame);
    }
    steps
}

/// The step at `rip`, and its caller if the function has not made its frame yet.
fn enter(memory: &mut impl Memory, symbols: &Symbols, rip: u64, rsp: u64, steps: &mut Vec<Step>) {
    steps.push(Step::At(rip));
    let Some(offset) = symbols.offset(rip) else { return };
    if offset <= 1 && memory.read(rip - offset, 1).is_some_and(|first| first == [PUSH_RBP]) {
        // Before `push rbp` the return address is on top, after it one word down.
        if let Some(caller) = memory.word(rsp.wrapping_add(8 * offset)).filter(|&caller| is_kernel(caller)) {
            steps.push(Step::Call(caller));
        }
    }
}

fn is_trap_entry(name: &str) -> bool {
    let function = name.rsplit_once('+').map_or(name, |(function, _)| function);
    trap::ENTRIES.iter().any(|entry| function.ends_with(entry))
}

/// The word at `at` of `bytes`, which are long enough.
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peek::fake::Fake;

    const CODE: u64 = 0xffff_ffff_8000_0000;
    const STACK: u64 = 0xffff_c000_0000_0000;

    fn symbols() -> Symbols {
        Symbols::of(&[(CODE, 0x100, "kernel::first"), (CODE + 0x1000, 0x100, "kernel::arch::idt::trap_entry")])
    }

    fn frame(memory: &mut Fake, at: u64, next: u64, caller: u64) {
        memory.put_word(at, next);
        memory.put_word(at + 8, caller);
    }

    fn walked(memory: &mut Fake, rbp: u64) -> Vec<Step> {
        walk(memory, &symbols(), CODE + 0x50, rbp, STACK)
    }

    #[test]
    fn frames_lead_to_the_first_function() {
        let mut memory = Fake::default();
        frame(&mut memory, STACK + 0x10, STACK + 0x40, CODE + 0x60);
        frame(&mut memory, STACK + 0x40, 0, CODE + 0x70);
        let steps = walked(&mut memory, STACK + 0x10);
        assert_eq!(steps, [Step::At(CODE + 0x50), Step::Call(CODE + 0x60), Step::Call(CODE + 0x70)]);
    }

    #[test]
    fn traps_are_walked_over() {
        for (cs, last) in [(8, Step::At(CODE + 0x20)), (0x2b, Step::User(0x40_1000))] {
            let mut memory = Fake::default();
            frame(&mut memory, STACK + 0x10, 0, CODE + 0x1010);
            let registers = STACK + 0x20;
            memory.put(registers, &[0; trap::BYTES]);
            memory.put_word(registers + trap::VECTOR, 14);
            memory.put_word(registers + trap::CS, cs);
            memory.put_word(registers + trap::RIP, if cs == 8 { CODE + 0x20 } else { 0x40_1000 });
            assert_eq!(walked(&mut memory, STACK + 0x10), [Step::At(CODE + 0x50), Step::Trap(14), last]);
        }
    }

    #[test]
    fn broken_chains_end() {
        let mut memory = Fake::default();
        // In a circle.
        frame(&mut memory, STACK + 0x10, STACK + 0x10, CODE + 0x60);
        assert_eq!(walked(&mut memory, STACK + 0x10).last(), Some(&Step::Lost(STACK + 0x10)));
        // A byte of the frame is missing.
        memory.forget(STACK + 0x1f);
        assert_eq!(walked(&mut memory, STACK + 0x10), [Step::At(CODE + 0x50), Step::Lost(STACK + 0x10)]);
        // Not aligned, and the last address of all.
        assert_eq!(walked(&mut memory, STACK + 0x11).last(), Some(&Step::Lost(STACK + 0x11)));
        assert_eq!(walked(&mut memory, u64::MAX - 7).last(), Some(&Step::Lost(u64::MAX - 7)));
    }

    #[test]
    fn a_function_that_has_just_begun_has_a_caller() {
        for offset in [0, 1] {
            let mut memory = Fake::default();
            memory.put(CODE, &[PUSH_RBP]);
            memory.put_word(STACK + 8 * offset, CODE + 0x80);
            let steps = walk(&mut memory, &symbols(), CODE + offset, 0, STACK);
            assert_eq!(steps, [Step::At(CODE + offset), Step::Call(CODE + 0x80)]);
        }
    }

    #[test]
    fn user_mode_has_no_frames_of_ours() {
        assert_eq!(walk(&mut Fake::default(), &symbols(), 0x40_1000, 0, 0), [Step::User(0x40_1000)]);
    }
}
