//! Aborts: killed by SIGABRT.

fn main() {
    println!("about to abort");
    std::process::abort();
}
