//! A process to make calls from.

use core::ops::Deref;
use std::sync::{LazyLock, Mutex, MutexGuard};

use abi::flags::{map, prot};
use abi::{PAGE_SIZE, nr};
use sync::alloc::Arc;
use sync::testing::Host;

use super::World;
use super::files::{Builder, Load};
use super::machine::{lock, machine, run};
use crate::{Control, Process, System, Thread, UserRegs, call, thread_exit};

/// One test at a time has the machine, so that no two host threads play one CPU and frames can be counted.
static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// A loaded process. Dropped, it checks that nothing of the process is left in the machine.
pub(crate) struct Program {
    pub(crate) world: std::sync::Arc<World>,
    process: Option<Arc<Process<Host>>>,
    first: Option<(Arc<Thread<Host>>, UserRegs)>,
    frames_before: u64,
    _turn: MutexGuard<'static, ()>,
}

/// An ELF file with one page of code and one of data; nobody runs it.
pub(crate) fn tiny() -> Vec<u8> {
    let code = Load { kind: 1, flags: 5, offset: 0, vaddr: 0x40_0000, filesz: 0x200, memsz: 0x200, align: 0x1000 };
    let data = Load { flags: 6, offset: 0x1000, vaddr: 0x40_1000, filesz: 0x10, memsz: 0x1000, ..code };
    Builder { entry: 0x40_0100, loads: vec![code, data], ..Builder::default() }.bytes()
}

impl Program {
    /// A process with one thread, which no host thread runs yet.
    pub(crate) fn new() -> Program {
        Program::load(&tiny(), b"/bin/tiny-program\0one\0", b"HOME=/\0")
    }

    pub(crate) fn load(file: &[u8], args: &[u8], env: &[u8]) -> Program {
        let turn = lock(&TURN);
        let frames_before = frames();
        let loaded = machine().on_cpu(0, || crate::load::<Host>(file, args, env, machine().kernel_root));
        let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
        Program {
            world: World::of(loaded.process.id()),
            process: Some(loaded.process),
            first: Some((loaded.thread, loaded.regs)),
            frames_before,
            _turn: turn,
        }
    }

    /// Runs `body` as the first thread, on CPU 0. The thread lives on afterwards, unless it was told to die.
    pub(crate) fn run<R>(&self, body: impl FnOnce(&User) -> R) -> R {
        let (thread, regs) = self.first.as_ref().expect("until the drop");
        self.run_thread(thread, *regs, 0, body)
    }

    /// Runs `body` as `thread` on `cpu`.
    pub(crate) fn run_thread<R>(
        &self,
        thread: &Arc<Thread<Host>>,
        regs: UserRegs,
        cpu: u32,
        body: impl FnOnce(&User) -> R,
    ) -> R {
        run(thread, cpu, || {
            let user = User { thread: thread.clone(), regs, world: self.world.clone() };
            let result = body(&user);
            if thread.killed() {
                thread_exit(thread);
            }
            result
        })
    }

    /// Runs several threads at once, each on a host thread and a CPU of its own; a body that never comes back to user
    /// mode is one that was told to die. Ends when all have.
    pub(crate) fn run_all(&self, bodies: Vec<Body<'_>>) {
        std::thread::scope(|scope| {
            let mut spawned = self.spawned();
            for (cpu, body) in (1..).zip(bodies) {
                let (thread, regs) = spawned.remove(0);
                scope.spawn(move || self.run_thread(&thread, regs, cpu, body));
            }
        });
    }

    /// The threads that the program has asked for.
    pub(crate) fn spawned(&self) -> Vec<(Arc<Thread<Host>>, UserRegs)> {
        core::mem::take(&mut *lock(&self.world.spawned))
    }

    pub(crate) fn first_regs(&self) -> UserRegs {
        self.first.as_ref().expect("until the drop").1
    }

    pub(crate) fn reports(&self) -> Vec<String> {
        lock(&self.world.reports).clone()
    }
}

/// What one thread does in [`Program::run_all`].
pub(crate) type Body<'a> = Box<dyn FnOnce(&User) + Send + 'a>;

impl Deref for Program {
    type Target = Process<Host>;

    fn deref(&self) -> &Process<Host> {
        self.process.as_ref().expect("until the drop")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let id = self.id();
        let (first, _) = self.first.take().expect("dropped once");
        if std::thread::panicking() {
            return;
        }
        for (thread, _) in self.spawned() {
            run(&thread, 0, || thread_exit(&thread));
        }
        if self.thread_count() > 0 {
            assert_eq!(self.thread_count(), 1, "threads that nobody ended");
            run(&first, 0, || thread_exit(&first));
        }
        // An address space can only be taken apart on a CPU.
        machine().on_cpu(0, || drop((first, self.process.take())));
        World::forget(id);
        assert_eq!(frames(), self.frames_before, "frames of a process that has ended");
    }
}

/// Frames in programs' hands, after all deferred frees.
fn frames() -> u64 {
    machine().on_cpu(0, || machine().drain());
    machine().program_frames()
}

/// A thread of a program, making calls.
pub(crate) struct User {
    pub(crate) thread: Arc<Thread<Host>>,
    pub(crate) regs: UserRegs,
    pub(crate) world: std::sync::Arc<World>,
}

impl User {
    /// Makes a call; returns `rax` and what comes next.
    pub(crate) fn call_control(&self, number: u64, args: &[u64]) -> (i64, Control) {
        let mut six = [0; 6];
        six[..args.len()].copy_from_slice(args);
        let [rdi, rsi, rdx, r10, r8, r9] = six;
        let before = UserRegs { rax: number, rdi, rsi, rdx, r10, r8, r9, ..self.regs };
        let mut regs = before;
        let control = call(&self.thread, &mut regs);
        assert_eq!(UserRegs { rax: number, ..regs }, before, "a call changes rax only");
        (regs.rax as i64, control)
    }

    /// Makes a call from which the thread comes back to user mode.
    pub(crate) fn call(&self, number: u64, args: &[u64]) -> i64 {
        let (value, control) = self.call_control(number, args);
        assert_eq!(control, Control::Return, "the thread was told to die");
        value
    }

    /// Makes a call that the thread does not survive.
    pub(crate) fn last_call(&self, number: u64, args: &[u64]) {
        assert_eq!(self.call_control(number, args).1, Control::ExitThread, "the thread should have been told to die");
    }

    /// Maps fresh pages between two unmapped ones.
    pub(crate) fn pages(&self, count: u64) -> u64 {
        let flags = map::PRIVATE | map::ANONYMOUS;
        let len = (count + 2) * PAGE_SIZE;
        let rights = prot::READ | prot::WRITE;
        let at = self.call(nr::mmap, &[0, len, u64::from(rights), u64::from(flags), u64::MAX, 0]);
        assert!(at > 0, "mmap says {at}");
        let at = at as u64;
        assert_eq!(self.call(nr::munmap, &[at, PAGE_SIZE]), 0);
        assert_eq!(self.call(nr::munmap, &[at + (count + 1) * PAGE_SIZE, PAGE_SIZE]), 0);
        at + PAGE_SIZE
    }

    /// Writes bytes as the program would.
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        Host::copy_out(at, bytes).expect("the program's own memory");
    }

    pub(crate) fn put_words(&self, at: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(at, &bytes);
    }

    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Host::copy_in(&mut bytes, at).expect("the program's own memory");
        bytes
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.get(at, 8).try_into().expect("8 bytes"))
    }

    pub(crate) fn half(&self, at: u64) -> u32 {
        Host::load_u32(at).expect("the program's own memory")
    }

    /// Asks for a thread as `pthread_create` does: its number is stored at `tid` and cleared there at its end.
    pub(crate) fn clone_thread(&self, tid: u64) -> i64 {
        self.call(nr::clone, &[PTHREAD_FLAGS, 0x7000_0000, tid, tid, 0x1234_5000])
    }
}

/// What C libraries pass to `clone` for a new thread.
pub(crate) const PTHREAD_FLAGS: u64 = 0x3d_0f00;
