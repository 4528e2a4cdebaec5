//! Says hello, with its arguments and one environment variable; the exit status is the number of arguments.

fn main() {
    println!("hello from Rust");
    let mut count = 0;
    for (index, argument) in std::env::args().enumerate().skip(1) {
        println!("argument {index}: {argument}");
        count = index;
    }
    if let Ok(value) = std::env::var("TESSERA_HELLO") {
        println!("environment: {value}");
    }
    std::process::exit(count as i32);
}
