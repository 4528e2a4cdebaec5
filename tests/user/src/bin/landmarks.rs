//! Maps memory at fixed addresses with known rights, then unmaps one of them: what a debugger is shown, and checked against.
//!
//! | address | pages | rights | touched |
//! |---|---|---|---|
//! | `0x1000_0000_0000` | 16 | read, write; pages 8 to 11 read only, by `mprotect` | 0, 1, 8 |
//! | `0x1000_1000_0000` | 4 | none | no |
//! | `0x1000_2000_0000` | 2 | read, write; unmapped at the end | 0 |

use std::process::ExitCode;

const PAGE: usize = 4096;
const FIRST: usize = 0x1000_0000_0000;
const CLOSED: usize = 0x1000_1000_0000;
const DOOMED: usize = 0x1000_2000_0000;

fn map(address: usize, pages: usize, protection: i32) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: nothing of this program lies at these addresses.
    let got = unsafe { libc::mmap(address as *mut libc::c_void, pages * PAGE, protection, flags, -1, 0) };
    got as usize == address
}

fn main() -> ExitCode {
    const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;
    if !map(FIRST, 16, BOTH) || !map(CLOSED, 4, libc::PROT_NONE) || !map(DOOMED, 2, BOTH) {
        return ExitCode::FAILURE;
    }
    for address in [FIRST, FIRST + PAGE, FIRST + 8 * PAGE, DOOMED] {
        // SAFETY: mapped above, for writing.
        unsafe { (address as *mut u8).write_volatile(1) };
    }
    // SAFETY: the range is this program's own, and nobody writes there from now on.
    let protected = unsafe { libc::mprotect((FIRST + 8 * PAGE) as *mut libc::c_void, 4 * PAGE, libc::PROT_READ) };
    // SAFETY: the range is this program's own, and nobody uses it from now on.
    let unmapped = unsafe { libc::munmap(DOOMED as *mut libc::c_void, 2 * PAGE) };
    println!("landmarks: {protected} {unmapped}");
    ExitCode::SUCCESS
}
