//! Unmaps everything that it has, itself included: killed by SIGSEGV at the next instruction.

fn main() {
    println!("unmapping all");
    // SAFETY: none: the program ends here, by a fault on its own next instruction.
    let _ = unsafe { user::raw::call(libc::SYS_munmap, [0, 0x7fff_ffff_f000, 0, 0, 0, 0]) };
    println!("still alive");
}
