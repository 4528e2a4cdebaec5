//! The calls of programs: registers in, one value or one error number out.
//!
//! [`call`] looks the number up in one table that is put together from the families' lists at compile time, and turns
//! the outcome into the program's `rax`. A family is a file; each call is a function that decodes and checks all its
//! arguments first, in Linux's order, and then acts. A call that Linux has but this kernel has not yet fails with
//! `ENOSYS` like an unknown one, and is counted and logged with it.

mod file;
mod file_names;
mod file_stream;
mod futex;
mod info;
mod memory;
mod poll;
mod sched;
mod signal;
mod thread;
mod time;

use core::marker::PhantomData;

use abi::{Counter, Errno};
use sync::alloc::Arc;

use crate::process::Process;
use crate::system::{System, UserRegs};
use crate::thread::Thread;

/// What the caller of [`call`] does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go back to user mode; `rax` holds the result.
    Return,
    /// The thread was told to die (perhaps by this very call): go to [`crate::thread_exit`] instead.
    ExitThread,
}

/// Who calls, and with what.
pub(crate) struct Caller<'a, S: System> {
    pub(crate) thread: &'a Arc<Thread<S>>,
    pub(crate) regs: &'a UserRegs,
}

impl<S: System> Caller<'_, S> {
    pub(crate) fn process(&self) -> &Arc<Process<S>> {
        self.thread.process()
    }
}

/// The six arguments, as they came.
pub(crate) type Args = [u64; 6];

/// One call: everything from decoding its arguments on.
pub(crate) type Handler<S> = fn(&Caller<'_, S>, Args) -> Result<u64, Errno>;

/// One entry of a family's list.
pub(crate) type Entry<S> = (u64, Handler<S>);

/// Numbers below this have a place in the table.
const NUMBERS: usize = 512;

/// The dispatch table for one system.
struct Table<S>(PhantomData<S>);

impl<S: System> Table<S> {
    const HANDLERS: [Option<Handler<S>>; NUMBERS] = {
        let families: [&[Entry<S>]; 11] = [
            memory::Calls::<S>::LIST,
            thread::Calls::<S>::LIST,
            sched::Calls::<S>::LIST,
            futex::Calls::<S>::LIST,
            time::Calls::<S>::LIST,
            file::Calls::<S>::LIST,
            signal::Calls::<S>::LIST,
            info::Calls::<S>::LIST,
            file_names::Calls::<S>::LIST,
            file_stream::Calls::<S>::LIST,
            poll::Calls::<S>::LIST,
        ];
        let mut table: [Option<Handler<S>>; NUMBERS] = [None; NUMBERS];
        let mut family = 0;
        while family < families.len() {
            let mut entry = 0;
            while entry < families[family].len() {
                let (number, handler) = families[family][entry];
                assert!(table[number as usize].is_none(), "two families serve one number");
                table[number as usize] = Some(handler);
                entry += 1;
            }
            family += 1;
        }
        table
    };

    /// The table's one copy.
    const REF: &'static [Option<Handler<S>>; NUMBERS] = &Self::HANDLERS;
}

/// Serves one call: number in `rax`, arguments in `rdi rsi rdx r10 r8 r9`; writes the result, or the negated error
/// number, to `rax` and changes nothing else in `regs`. Interrupts on, on the thread's own kernel stack.
pub fn call<S: System>(thread: &Arc<Thread<S>>, regs: &mut UserRegs) -> Control {
    let number = regs.rax;
    let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    let handler = usize::try_from(number).ok().and_then(|number| *Table::<S>::REF.get(number)?);
    let outcome = match handler {
        Some(handler) => handler(&Caller { thread, regs }, args),
        None => {
            S::memory().counters.bump(Counter::CallUnknown);
            S::log_call_unknown(number, thread);
            Err(Errno::ENOSYS)
        }
    };
    regs.rax = outcome.unwrap_or_else(Errno::to_return);
    if thread.killed() { Control::ExitThread } else { Control::Return }
}
