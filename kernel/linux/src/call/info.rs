//! Calls that tell a program about itself and the machine.

use core::marker::PhantomData;

use abi::{Errno, PAGE_SIZE, nr};

use super::time::timespec_words;
use super::{Args, Caller, Entry};
use crate::limits::{Limit, RESOURCES};
use crate::process::Process;
use crate::stack::USER_ID;
use crate::system::System;
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[
        (nr::uname, uname),
        (nr::sysinfo, sysinfo),
        (nr::getuid, user_id),
        (nr::getgid, user_id),
        (nr::geteuid, user_id),
        (nr::getegid, user_id),
        (nr::getrandom, getrandom),
        (nr::prlimit64, prlimit64),
        (nr::getrlimit, getrlimit),
        (nr::setrlimit, setrlimit),
        (nr::getrusage, getrusage),
    ];
}

/// Bytes of each field of `struct utsname`.
const UTS_FIELD: usize = 65;

/// `struct utsname`: programs and C libraries ask which Linux they are on, and refuse ones that are too old.
const UTS: [&str; 6] = ["Linux", "tessera", "6.18.0-tessera", "#1 SMP Tessera", "x86_64", "(none)"];

fn uname<S: System>(_: &Caller<'_, S>, [address, ..]: Args) -> Result<u64, Errno> {
    for (index, text) in UTS.iter().enumerate() {
        let mut field = [0; UTS_FIELD];
        field[..text.len()].copy_from_slice(text.as_bytes());
        S::copy_out(address.wrapping_add((index * UTS_FIELD) as u64), &field)?;
    }
    Ok(0)
}

/// `sysinfo(info)`, in pages' worth of bytes.
fn sysinfo<S: System>(caller: &Caller<'_, S>, [address, ..]: Args) -> Result<u64, Errno> {
    let usage = S::memory().frames.usage();
    // struct sysinfo: seconds up, three loads, total, free, shared and buffer memory, swap and free swap, processes,
    // high memory and free high memory, unit.
    let mut words = [0; 14];
    words[0] = S::now_ns() / 1_000_000_000;
    words[4] = usage.total * PAGE_SIZE;
    words[5] = (usage.free + usage.cached) * PAGE_SIZE;
    words[10] = caller.process().thread_count() as u64 & 0xffff;
    words[13] = 1;
    usercopy::write_words::<S>(address, &words).map(|()| 0)
}

fn user_id<S: System>(_: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    Ok(USER_ID)
}

const GRND_NONBLOCK: u32 = 1;
const GRND_RANDOM: u32 = 2;
const GRND_INSECURE: u32 = 4;

/// `getrandom(buffer, len, flags)`: never waits.
fn getrandom<S: System>(_: &Caller<'_, S>, [address, len, flags, ..]: Args) -> Result<u64, Errno> {
    let flags = flags as u32;
    let both = GRND_RANDOM | GRND_INSECURE;
    if flags & !(GRND_NONBLOCK | both) != 0 || flags & both == both {
        return Err(Errno::EINVAL);
    }
    let len = len.min(i32::MAX as u64);
    usercopy::check_range(address, len)?;
    let mut done = 0;
    while done < len {
        let mut chunk = [0; 256];
        let at = address + done;
        let size = (usercopy::in_page(at).min(chunk.len()) as u64).min(len - done) as usize;
        S::random(&mut chunk[..size]);
        match S::copy_out(at, &chunk[..size]) {
            Ok(()) => done += size as u64,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `prlimit64(pid, resource, new, old)`: the caller's process only.
fn prlimit64<S: System>(caller: &Caller<'_, S>, [pid, resource, new, old, ..]: Args) -> Result<u64, Errno> {
    let resource = u64::from(resource as u32);
    if resource >= RESOURCES {
        return Err(Errno::EINVAL);
    }
    let new = match new {
        0 => None,
        _ => {
            let [soft, hard] = usercopy::read_words::<S, 2>(new)?;
            Some(Limit { soft, hard })
        }
    };
    if pid as u32 != 0 && caller.process().thread(pid as u32).is_none() {
        return Err(Errno::ESRCH);
    }
    let before = change_limit(caller.process(), resource, new)?;
    if old != 0 {
        usercopy::write_words::<S>(old, &[before.soft, before.hard])?;
    }
    Ok(0)
}

/// Sets a limit, if there is a new one, and returns what it was.
fn change_limit<S: System>(process: &Process<S>, resource: u64, new: Option<Limit>) -> Result<Limit, Errno> {
    let mut limits = process.limits.lock();
    let before = limits.get(resource);
    if let Some(new) = new {
        limits.set(resource, new)?;
    }
    Ok(before)
}

fn getrlimit<S: System>(caller: &Caller<'_, S>, [resource, old, ..]: Args) -> Result<u64, Errno> {
    let resource = u64::from(resource as u32);
    if resource >= RESOURCES {
        return Err(Errno::EINVAL);
    }
    let limit = change_limit(caller.process(), resource, None)?;
    usercopy::write_words::<S>(old, &[limit.soft, limit.hard]).map(|()| 0)
}

fn setrlimit<S: System>(caller: &Caller<'_, S>, [resource, new, ..]: Args) -> Result<u64, Errno> {
    let [soft, hard] = usercopy::read_words::<S, 2>(new)?;
    let resource = u64::from(resource as u32);
    if resource >= RESOURCES {
        return Err(Errno::EINVAL);
    }
    change_limit(caller.process(), resource, Some(Limit { soft, hard }))?;
    Ok(0)
}

const RUSAGE_SELF: i32 = 0;
const RUSAGE_CHILDREN: i32 = -1;
const RUSAGE_THREAD: i32 = 1;

/// `getrusage(who, usage)`: the CPU time, where the scheduler counts it, as user time; the rest is zero.
fn getrusage<S: System>(caller: &Caller<'_, S>, [who, address, ..]: Args) -> Result<u64, Errno> {
    let time = match who as i32 {
        RUSAGE_SELF => caller.process().cpu_time_ns(),
        RUSAGE_THREAD => S::cpu_time_ns(caller.thread),
        RUSAGE_CHILDREN => None,
        _ => return Err(Errno::EINVAL),
    };
    let [sec, nsec] = timespec_words(time.unwrap_or(0));
    let mut words = [0; 18];
    words[0] = sec;
    words[1] = nsec / 1000;
    usercopy::write_words::<S>(address, &words).map(|()| 0)
}
