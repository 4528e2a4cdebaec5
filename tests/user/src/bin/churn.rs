//! `churn apart|merged|placed [ROUNDS] [THREADS] [PAGES]`: the loop of `user::churn`, and the count of its touches on one
//! line that a machine can read.

use user::churn::{Layout, Plan, Probes, run};

fn main() {
    let layout = match std::env::args().nth(1).as_deref() {
        Some("apart") => Layout::Apart,
        Some("merged") => Layout::Merged,
        Some("placed") => Layout::Placed,
        _ => {
            eprintln!("apart, merged or placed?");
            std::process::exit(2);
        }
    };
    let plan = Plan {
        layout,
        rounds: user::number(2, 1000),
        threads: user::number(3, 8) as usize,
        pages: user::number(4, 8) as usize,
        stride: 16,
        probes: Probes::None,
    };
    let done = run(plan);
    println!("touches={} checked={}", done.touches, done.checked);
}
