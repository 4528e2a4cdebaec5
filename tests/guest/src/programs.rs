//! Machine code in user mode: what a context switch must keep, and how programs end.
//!
//! The programs are a few dozen instructions each, in one ELF file made by the assembler below. `argv[0]` says what
//! to do: its first byte chooses the program, its second is a number that makes its register contents its own.

use core::arch::global_asm;

use abi::flags::signal;
use kernel::arch::percpu;
use kernel::ktest;
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::{accounts, init};
use linux::ExitStatus;
use sync::alloc::try_box_slice;
use sync::{Arc, CpuId, CpuSet, Platform};

// A static executable: ELF header, one program header (read and execute), code at `entry`.
//
// Registers: the program keeps its number's pattern in ymm0 to ymm15, MXCSR, the x87 control word, the direction of
// its FS base, and all integer registers that a switch must keep, and compares them again and again without a system
// call, so only preemption and page faults come between.
global_asm!(
    ".section .rodata.guest_programs, \"a\"",
    ".balign 4096",
    "guest_elf:",
    ".byte 0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    ".short 2, 62", // ET_EXEC, x86-64
    ".long 1",
    ".quad 0x400000 + (guest_entry - guest_elf)",
    ".quad 64, 0", // program headers, no sections
    ".long 0",
    ".short 64, 56, 1, 64, 0, 0",
    ".long 1, 5", // PT_LOAD, read and execute
    ".quad 0, 0x400000, 0x400000",
    ".quad guest_elf_end - guest_elf, guest_elf_end - guest_elf, 4096",
    "guest_entry:",
    "mov rbx, [rsp + 8]",             // argv[0]
    "movzx r12d, byte ptr [rbx + 1]", // the number
    "movzx eax, byte ptr [rbx]",
    "cmp al, 'r'",
    "je guest_registers",
    "cmp al, 'u'",
    "je guest_undefined",
    "cmp al, 'n'",
    "je guest_null",
    "cmp al, 'k'",
    "je guest_kernel",
    "cmp al, 'p'",
    "je guest_privileged",
    "cmp al, 'd'",
    "je guest_divide",
    "cmp al, 'f'",
    "je guest_flags",
    "cmp al, 'e'",
    "je guest_edge",
    "cmp al, 's'",
    "je guest_spin",
    "mov edi, 99",
    // exit_group(edi)
    "guest_exit:",
    "mov eax, 231",
    "syscall",
    "ud2",
    "guest_undefined:",
    "ud2",
    "guest_null:",
    "mov eax, [0]",
    "guest_kernel:",
    "mov rax, 0xffffffff80000000",
    "mov eax, [rax]",
    "guest_privileged:",
    "cli",
    "guest_divide:",
    "xor ecx, ecx",
    "div ecx",
    // A call in the last two bytes below the programs' end: its return address is no program's any more.
    "guest_edge:",
    "mov rdi, 0x7fffffffe000",
    "mov esi, 4096",
    "mov edx, 7",
    "mov r10d, 0x32", // private, fixed, anonymous: over the top of the stack, which is not needed any more
    "mov r8, -1",
    "xor r9d, r9d",
    "mov eax, 9",
    "syscall",
    "mov word ptr [rax + 4094], 0x050f",
    "lea rcx, [rax + 4094]",
    "mov eax, 39",
    "jmp rcx",
    "guest_spin:",
    "jmp guest_spin",
    // Hostile flags at a call: direction, alignment check, trap. The kernel must not inherit them, and must give them
    // back.
    "guest_flags:",
    "pushfq",
    "or qword ptr [rsp], 0x40400",
    "popfq",
    "mov eax, 39", // getpid
    "syscall",
    "pushfq",
    "pop rax",
    "and eax, 0x40400",
    "cmp eax, 0x40400",
    "mov edi, 0",
    "je guest_exit_flags",
    "mov edi, 1",
    "guest_exit_flags:",
    "cld",
    "jmp guest_exit",
    "guest_registers:",
    // FS base: a word of the own stack that holds the number, at another address in each program.
    "mov rax, r12",
    "shl rax, 4",
    "sub rsp, rax",
    "push r12",
    "mov edi, 0x1002", // ARCH_SET_FS
    "mov rsi, rsp",
    "mov eax, 158",
    "syscall",
    "test eax, eax",
    "mov edi, 2",
    "jnz guest_exit",
    // MXCSR: rounding by the number's low bits; x87: likewise.
    "mov eax, r12d",
    "and eax, 3",
    "mov ecx, eax",
    "shl eax, 13",
    "or eax, 0x1f80",
    "push rax",
    "ldmxcsr [rsp]",
    "shl ecx, 10",
    "or ecx, 0x37f",
    "push rcx",
    "fldcw [rsp]",
    // ymm i: the byte (number + i) in all places. r13: that byte in all places, for i = 0.
    "mov r13, 0x0101010101010101",
    "imul r13, r12",
    "mov r14, 0x0101010101010101",
    "sub rsp, 64",
    "mov rax, r13",
    ".irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "mov [rsp], rax",
    "mov [rsp + 8], rax",
    "mov [rsp + 16], rax",
    "mov [rsp + 24], rax",
    "vmovdqu ymm\\register, [rsp]",
    "add rax, r14",
    ".endr",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov r15, rax", // when it began
    "guest_again:",
    "mov ebp, 20000",
    "guest_check:",
    "mov rax, r13",
    ".irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "vmovdqu [rsp], ymm\\register",
    "cmp [rsp], rax",
    "jne guest_wrong_vector",
    "cmp [rsp + 8], rax",
    "jne guest_wrong_vector",
    "cmp [rsp + 16], rax",
    "jne guest_wrong_vector",
    "cmp [rsp + 24], rax",
    "jne guest_wrong_vector",
    "add rax, r14",
    ".endr",
    "stmxcsr [rsp + 32]",
    "mov eax, [rsp + 32]",
    "cmp eax, [rsp + 72]", // what was pushed: x87 word at 64, MXCSR at 72, the number at 80
    "jne guest_wrong_control",
    "fnstcw [rsp + 32]",
    "movzx eax, word ptr [rsp + 32]",
    "cmp eax, [rsp + 64]",
    "jne guest_wrong_control",
    "mov rax, fs:[0]",
    "cmp rax, r12",
    "jne guest_wrong_base",
    "dec ebp",
    "jnz guest_check",
    // About 2^31 ticks of the time stamp counter: most of a second, dozens of time slices.
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, r15",
    "shr rax, 31",
    "jz guest_again",
    "xor edi, edi",
    "jmp guest_exit",
    "guest_wrong_vector:",
    "mov edi, 3",
    "jmp guest_exit",
    "guest_wrong_control:",
    "mov edi, 4",
    "jmp guest_exit",
    "guest_wrong_base:",
    "mov edi, 5",
    "jmp guest_exit",
    "guest_elf_end:",
    ".text",
);

unsafe extern "C" {
    static guest_elf: u8;
    static guest_elf_end: u8;
}

fn elf() -> &'static [u8] {
    let start = &raw const guest_elf;
    let len = (&raw const guest_elf_end).addr() - start.addr();
    // SAFETY: the bytes between the assembler's labels, never written.
    unsafe { core::slice::from_raw_parts(start, len) }
}

type Process = Arc<linux::Process<Machine>>;

/// Starts the program that `argument` says.
fn start(argument: &[u8]) -> Process {
    start_file(elf(), argument, percpu::online()).expect("a program that loads")
}

fn start_file(file: &[u8], argument: &[u8], cpus: CpuSet) -> Result<Process, linux::LoadError> {
    let loaded = linux::load(file, argument, b"", kernel::arch::paging::kernel_root())?;
    loaded.thread.set_affinity(cpus);
    init::start_thread(loaded.thread, &loaded.regs).expect("memory for a thread");
    Ok(loaded.process)
}

fn ends_by(argument: &[u8], status: ExitStatus) {
    assert_eq!(start(argument).wait_exit(), status, "program {}", argument[0] as char);
}

ktest! {
    /// Three programs on each CPU, each with its own contents of all extended registers, preempt each other. On a few
    /// CPUs of many: programs on all of 64 would get no time on the host to be preempted in.
    fn extended_registers_survive_preemption() {
        let begin_ns = Machine::now_ns();
        let before = memory().counters.total(abi::Counter::Switch);
        // Each program comes and goes; two switches more for each, and it was preempted.
        let mut ordinary = 0;
        loop {
            let count = preempt_each_other();
            ordinary += 2 * count;
            let switches = memory().counters.total(abi::Counter::Switch) - before;
            if switches >= ordinary + 2 * count {
                return;
            }
            // The host had no time for all the CPUs, and each program for a slice or less: once more, then.
            let waited = Machine::now_ns() - begin_ns;
            assert!(waited < 200_000_000_000, "only {switches} switches of {ordinary}: nothing was tested");
        }
    }
}

/// Runs a program on `cpu` that computes in user mode for a while.
pub(crate) fn compute_on(cpu: CpuId) {
    let program = start_file(elf(), b"r\x01\0", cpu.bit()).expect("a program that loads");
    assert_eq!(program.wait_exit(), ExitStatus::Exited(0));
}

/// Runs three programs on each of a few CPUs, and returns how many they were.
fn preempt_each_other() -> u64 {
    const BUSY: usize = 8;
    let cpus = Machine::cpu_count();
    let busy = cpus.min(BUSY);
    let count = 3 * busy;
    let mut programs = [const { None }; 3 * BUSY];
    for (number, place) in programs.iter_mut().enumerate().take(count) {
        // From the first CPU to the last.
        let cpu = CpuId(((number % busy) * (cpus - 1) / (busy - 1).max(1)) as u32);
        let program = start_file(elf(), &[b'r', number as u8 + 1, 0], cpu.bit());
        *place = Some(program.expect("a program that loads"));
    }
    for program in programs.into_iter().flatten() {
        // 3: a vector register, 4: MXCSR or the x87 control word, 5: the FS base.
        assert_eq!(program.wait_exit(), ExitStatus::Exited(0));
    }
    count as u64
}

ktest! {
    fn hostile_flags_stay_in_user_mode() {
        ends_by(b"f0\0", ExitStatus::Exited(0));
    }
}

ktest! {
    pairs fn exceptions_become_signals() {
        ends_by(b"u0\0", ExitStatus::Signalled(signal::SIGILL));
        ends_by(b"n0\0", ExitStatus::Signalled(signal::SIGSEGV));
        ends_by(b"k0\0", ExitStatus::Signalled(signal::SIGSEGV));
        ends_by(b"p0\0", ExitStatus::Signalled(signal::SIGSEGV));
        ends_by(b"d0\0", ExitStatus::Signalled(signal::SIGFPE));
        ends_by(b"e0\0", ExitStatus::Signalled(signal::SIGSEGV));
        ends_by(b"?0\0", ExitStatus::Exited(99));
    }
}

ktest! {
    /// The way into user mode faults in ring 0 on an instruction pointer that is no address: it must not be taken.
    fn an_entry_that_is_no_address_kills_the_program_only() {
        for entry in [0u64, abi::USER_END - 1, abi::USER_END, 1 << 47, 1 << 63, 0xffff_ffff_8000_0000, u64::MAX] {
            let mut file = try_box_slice(elf().len(), |place| elf()[place]).expect("memory for a file");
            // `e_entry` of the ELF header.
            file[24..32].copy_from_slice(&entry.to_le_bytes());
            if let Ok(process) = start_file(&file, b"?0\0", percpu::online()) {
                assert_eq!(process.wait_exit(), ExitStatus::Signalled(signal::SIGSEGV), "entry {entry:#x}");
            }
        }
    }
}

ktest! {
    /// Starting a program with each allocation failing in turn: it is refused, or it runs; nothing is lost.
    pairs fn failing_allocations_refuse_programs() {
        let frames = &memory().frames;
        let (mut refused, mut ran) = (0, 0);
        // An address space begins with a root table for each CPU.
        let roots = kernel::arch::percpu::online().iter().count();
        for successes in (0..40).map(|more| if more < 10 { more } else { roots as u64 + more }) {
            // New stacks each time: their frames are among those that fail.
            kernel::stack::drain(kernel::arch::percpu::online());
            frames.fail_after(successes);
            let loaded = linux::load::<Machine>(elf(), b"?0\0", b"", kernel::arch::paging::kernel_root());
            let status = loaded.map_err(|_| ()).and_then(|loaded| {
                init::start_thread(loaded.thread, &loaded.regs).map_err(|_| ()).map(|()| loaded.process.wait_exit())
            });
            frames.fail_never();
            match status {
                Ok(ExitStatus::Exited(99)) => ran += 1,
                // A page fault without a frame kills.
                Ok(ExitStatus::Signalled(signal::SIGKILL)) | Err(()) => refused += 1,
                Ok(other) => panic!("{other:?} after {successes} allocations"),
            }
            accounts::settle();
        }
        assert!(refused > 5 && ran > 5, "{refused} refused, {ran} ran");
    }
}
