//! Ends the process by `exit` in one thread while others compute, fault, sleep and wait for a lock: nobody may hang.

use std::sync::{Barrier, Mutex};
use std::time::Duration;
use user::region::{Place, Region, Rights};

fn main() {
    let kinds = 4;
    let barrier = Barrier::new(2 * kinds + 1);
    let taken = Mutex::new(());
    let _guard = taken.lock();
    std::thread::scope(|scope| {
        for index in 0..2 * kinds {
            let (barrier, taken) = (&barrier, &taken);
            scope.spawn(move || {
                barrier.wait();
                loop {
                    match index % kinds {
                        0 => std::hint::spin_loop(),
                        1 => fault(),
                        2 => std::thread::sleep(Duration::from_secs(100)),
                        _ => drop(taken.lock()),
                    }
                }
            });
        }
        barrier.wait();
        std::thread::sleep(Duration::from_millis(30));
        println!("leaving");
        std::process::exit(7);
    });
}

fn fault() {
    if let Ok(region) = Region::map(Place::Anywhere, 8, Rights::ReadWrite) {
        for page in 0..region.pages() {
            region.word(page, 0).store(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
