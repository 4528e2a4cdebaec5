//! Makes calls that no kernel has: ENOSYS, several times, and the program lives on.

use user::raw;

fn main() {
    for number in [400, 400, 999, 1_000_000, -1, i64::MAX] {
        // SAFETY: there is no such call.
        let answer = unsafe { raw::call(number, [0; 6]) };
        match answer {
            Ok(value) => println!("call {number}: {value}"),
            Err(errno) => println!("call {number}: {errno}"),
        }
    }
}
