//! Computes for ever, in as many threads as its first argument says: only the launcher's time limit ends it.

fn main() {
    println!("spinning");
    for _ in 1..user::number(1, 1) {
        std::thread::spawn(spin);
    }
    spin();
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}
