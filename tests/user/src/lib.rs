//! What the user programs share. They are ordinary static Linux executables: the same file runs on the host's Linux and
//! on Tessera, and whatever it prints must be the same there. That is what makes Linux the judge.
//!
//! | module | what it holds |
//! |---|---|
//! | [`raw`] | system calls without the C library's help, and the names of errors |
//! | [`region`] | one anonymous mapping: map, touch, re-protect, drop contents, unmap |
//! | [`pattern`] | what a page holds in a given round, so that any other content is noticed |
//! | [`marker`] | where a stretch begins and ends that somebody outside the machine counts |
//! | [`churn`] | the loop of `churn` and `demo`: everything a mapping can live through, checked after every step |

pub mod churn;
pub mod marker;
pub mod pattern;
pub mod raw;
pub mod region;

/// Ends the program with status 1 and one line on standard error: something is not as it must be.
///
/// Ends the whole process, whichever thread calls it: a wrong byte seen by one thread is the program's verdict.
pub fn wrong(what: std::fmt::Arguments<'_>) -> ! {
    eprintln!("wrong: {what}");
    std::process::exit(1);
}

/// Ends the program with status 1 unless `condition` holds. Arguments as for `format!`.
#[macro_export]
macro_rules! must {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            $crate::wrong(format_args!($($what)+));
        }
    };
}

/// The program's argument number `index` (1 is the first after the program's name), or `default` where there is none.
///
/// Ends the program with status 2 where the argument is no number.
pub fn number(index: usize, default: u64) -> u64 {
    match std::env::args().nth(index) {
        None => default,
        Some(text) => text.parse().unwrap_or_else(|_| {
            eprintln!("argument {index} must be a number, not {text:?}");
            std::process::exit(2);
        }),
    }
}
