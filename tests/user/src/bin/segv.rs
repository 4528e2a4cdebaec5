//! Accesses memory wrongly, in the way that its first argument names: killed by SIGSEGV.
//!
//! `thread` does so in a second thread while others sleep, compute and fault: the whole process must die.

use std::sync::Barrier;
use user::region::{Place, Region, Rights};

fn main() {
    let how = std::env::args().nth(1).unwrap_or_default();
    println!("{how}");
    match how.as_str() {
        "null-read" => read(0),
        "null-write" => write(0),
        "read-only" => {
            let region = region(Rights::Read);
            println!("reads {}", region.word(0, 0).load(std::sync::atomic::Ordering::Relaxed));
            write(region.address());
        }
        "no-rights" => read(region(Rights::None).address()),
        "unmapped" => {
            let region = region(Rights::ReadWrite);
            let address = region.address();
            drop(region);
            read(address);
        }
        "execute" => execute(&region(Rights::ReadWrite)),
        "own-code" => write(main as fn() as usize),
        "kernel" => read(0xffff_8000_0000_0000),
        "kernel-image" => write(0xffff_ffff_8000_0000),
        "non-canonical" => read(0x8000_0000_0000),
        "thread" => thread(),
        _ => {
            eprintln!("no such access");
            std::process::exit(2);
        }
    }
    println!("still alive");
}

fn region(rights: Rights) -> Region {
    Region::map(Place::Anywhere, 1, rights).unwrap_or_else(|errno| user::wrong(format_args!("mmap failed: {errno}")))
}

fn read(address: usize) {
    // SAFETY: none: the access is wrong on purpose, and the kernel must end the program here.
    let value = unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() };
    println!("read {value}");
}

fn write(address: usize) {
    // SAFETY: none: the access is wrong on purpose, and the kernel must end the program here.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(1) };
}

fn execute(region: &Region) {
    const RET: u64 = 0xc3;
    region.word(0, 0).store(RET, std::sync::atomic::Ordering::Relaxed);
    let address = std::ptr::with_exposed_provenance::<()>(region.address());
    // SAFETY: a function pointer that is not null. What it points at is a return instruction in a page that must not
    // be executed.
    let code = unsafe { std::mem::transmute::<*const (), extern "C" fn()>(address) };
    code();
}

fn thread() {
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        });
        scope.spawn(|| {
            barrier.wait();
            loop {
                std::hint::spin_loop();
            }
        });
        scope.spawn(|| {
            barrier.wait();
            loop {
                let region = region(Rights::ReadWrite);
                region.word(0, 0).store(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        barrier.wait();
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(8);
    });
}
