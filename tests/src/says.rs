//! What the console must say in guest tests whose point is the message.

/// Pieces of text that must stand on the console in this order, in the test `name`.
pub fn says(name: &str) -> &'static [&'static str] {
    match name {
        "order::a_wrong_order_is_named" => &[
            "lock order: wrong order: publication section 0x",
            "tests/guest/src/order.rs:",
            "while it holds buddy allocator 0x",
            "tests/guest/src/order.rs:",
            "the thread holds, outermost first:",
            "buddy allocator 0x",
        ],
        "order::a_lock_taken_twice_is_named" => &[
            "lock order: taken twice by one context: random numbers 0x",
            "tests/guest/src/order.rs:",
            "while it holds random numbers 0x",
            "tests/guest/src/order.rs:",
        ],
        "order::a_sleep_with_a_spin_lock_is_named" => &[
            "lock order: sleep where nobody may sleep",
            "tests/guest/src/order.rs:",
            "while it holds process files 0x",
            "tests/guest/src/order.rs:",
        ],
        "order::a_sleeping_lock_in_an_interrupt_is_named" => &[
            "lock order: not for interrupt handlers: update lock 0x",
            "tests/guest/src/order.rs:",
            "the interrupt handler holds, outermost first: nothing",
        ],
        "order::two_threads_that_wait_for_each_other_are_drawn" => &[
            "a wait lasts too long:",
            "sleeps for planted lock 0x",
            "tests/guest/src/order.rs:",
            "is held by thread test@",
            "a cycle: thread test@",
            " -> thread test@",
            " -> thread test@",
            "the deadlock was drawn",
        ],
        "order::a_sleep_for_a_lock_that_lasts_is_drawn" => &[
            "a wait lasts too long:",
            "thread test@",
            "sleeps for planted lock 0x",
            "is held by thread test@",
            "taken at tests/guest/src/order.rs:",
            "waits for nothing that it names",
            "no cycle",
        ],
        _ => &[],
    }
}

/// Whether `console` says all of `pieces`.
///
/// # Errors
/// The first piece that is missing after those before it.
pub fn check(console: &str, pieces: &[&'static str]) -> Result<(), &'static str> {
    let mut rest = console;
    for piece in pieces {
        let at = rest.find(piece).ok_or(*piece)?;
        rest = &rest[at + piece.len()..];
    }
    Ok(())
}
