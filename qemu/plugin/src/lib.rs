//! Counts from outside what a virtual machine does: a plugin for QEMU's TCG.
//!
//! A program opens and closes windows with marker instructions ([`abi::marker`]). In a window, for each CPU and each
//! instruction: how often it began, whether it locks, and how many lines it read or wrote that another CPU had written
//! since. It works the same under Tessera and under Linux, and the kernel cannot tell that it is watched.
//!
//! | module | its one question |
//! |---|---|
//! | `api` | what does QEMU offer? |
//! | `hooks` | what is to be done when QEMU translates, runs, accesses memory, ends? |
//! | `decode` | what is this instruction? |
//! | `sites` | which instructions are there? |
//! | `watched` | what is remembered of an instruction that QEMU has translated? |
//! | `count` | what did each CPU do? |
//! | `lines` | who has the latest content of a line? |
//! | `trace` | in which order did it happen? |
//! | `report` | how does the launcher learn of it? |
//! | `options` | what was asked for? |
//!
//! **What is counted.** An instruction counts when it begins: one that faults and runs again counts twice. A string
//! instruction with a repeat prefix counts once, however often it repeats, and once more after each interruption. Markers
//! count as nothing. A locked read-modify-write counts as one write. What the CPU itself does to memory (page walks, stack
//! frames of interrupts) is not seen. Interrupts can be left out, up to the
//! next return. Lines are compared from the arming on.

mod api;
mod count;
mod decode;
mod hooks;
mod lines;
mod options;
mod report;
mod sites;
mod trace;
mod watched;

use std::ffi::{CStr, c_char, c_int};

use api::{Info, PluginId};

/// The version of QEMU's interface that this plugin speaks. QEMU reads it before it calls anything, and refuses to load
/// what is too old or too new for it.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = api::VERSION;

/// QEMU calls this once, after it has loaded the plugin and before the machine runs. Not 0: QEMU gives up.
///
/// # Safety
/// Only QEMU may call it, with its own description of the machine and `count` strings, all of them valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    info: *const Info,
    count: c_int,
    words: *const *const c_char,
) -> c_int {
    // SAFETY: the caller is QEMU.
    let info = unsafe { &*info };
    let words = (0..usize::try_from(count).unwrap_or(0)).map(|index| {
        // SAFETY: `words` has `count` elements.
        let word = unsafe { words.add(index) };
        // SAFETY: as above.
        let word = unsafe { *word };
        // SAFETY: each is a C string that lives as long as the plugin.
        unsafe { CStr::from_ptr(word) }.to_string_lossy().into_owned()
    });
    let words: Vec<String> = words.collect();
    match hooks::install(id, info, &words) {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("the counter cannot start: {why}");
            1
        }
    }
}
