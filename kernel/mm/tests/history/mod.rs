//! Is there an order of single steps that explains what several threads saw? A checker of recorded histories.
//!
//! What is promised about concurrency, as a sequential model of a few pages:
//!
//! | call | steps |
//! |---|---|
//! | `mmap`, `munmap` | one, over the whole range |
//! | `mprotect`, `madvise` | one for each page, in any order: a VMA's pages need not be told apart from each other's. What follows the hole at which an `mprotect` ends has none |
//! | load, store | one, on one page |
//!
//! Every step lies between its call's begin and its end. That is also the last promise, that after a call has returned no CPU sees
//! the old state. The search is that of Wing and Gong, depth first, with a memory of where it has been (Lowe).

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages of the model.
pub(crate) const PAGES: usize = 4;

/// What a thread asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// `mmap` in place of whatever is there.
    Map(Range<usize>, Rights),
    /// `mmap` of a hole, or EEXIST.
    Claim(Range<usize>, Rights),
    Unmap(Range<usize>),
    Protect(Range<usize>, Rights),
    /// `madvise(MADV_DONTNEED)`.
    Empty(Range<usize>),
    Load(usize),
    Store(usize, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rights {
    Read,
    ReadWrite,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// What a load found.
    Word(u64),
    /// EEXIST.
    Taken,
    /// ENOMEM: a hole in the range. Of loads and stores: nothing is mapped.
    Hole,
    /// A store without the right.
    Denied,
}

/// One call, from begin to end.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) answer: Answer,
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// What the threads did, each in its order.
pub(crate) type History = Vec<Vec<Call>>;

/// Times of begins and ends.
pub(crate) struct Recorder(AtomicU64);

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder(AtomicU64::new(0))
    }

    /// Does `op` by `body`, and adds it to `calls`.
    pub(crate) fn call(&self, calls: &mut Vec<Call>, op: Op, body: impl FnOnce(&Op) -> Answer) {
        // Sequentially consistent: one time for all threads, also where they are not scheduled one by one.
        let begin = self.0.fetch_add(1, Ordering::SeqCst);
        let answer = body(&op);
        let end = self.0.fetch_add(1, Ordering::SeqCst);
        calls.push(Call { op, answer, begin, end });
    }
}

/// Rights and first word of each page.
pub(crate) type State = [Option<(Rights, u64)>; PAGES];

/// How far a call of several steps has come.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Progress {
    /// Pages that had their step, a bit each.
    visited: u8,
    /// The lowest hole that it met: where an `mprotect` ends.
    hole: Option<usize>,
}

enum Next {
    Further(Progress),
    Ended,
}

/// Where a search stands: calls that have ended, and the progress of the next one, for each thread; and the pages.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    threads: Vec<(usize, Progress)>,
    state: State,
}

/// Whether `history` can be explained, from `state` on.
pub(crate) fn is_explained(history: &History, state: State) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![Place { threads: vec![(0, Progress::default()); history.len()], state }];
    while let Some(place) = open.pop() {
        if !seen.insert(place.clone()) {
            continue;
        }
        let next = |thread: usize| history[thread].get(place.threads[thread].0);
        // Whatever has not ended must take its steps before its end: nothing that begins later goes first.
        let Some(limit) = (0..history.len()).filter_map(next).map(|call| call.end).min() else { return true };
        for thread in 0..history.len() {
            let Some(call) = next(thread).filter(|call| call.begin < limit) else { continue };
            for (next, state) in steps(call, place.threads[thread].1, place.state) {
                let mut place = Place { state, ..place.clone() };
                place.threads[thread] = match next {
                    Next::Further(progress) => (place.threads[thread].0, progress),
                    Next::Ended => (place.threads[thread].0 + 1, Progress::default()),
                };
                open.push(place);
            }
        }
    }
    false
}

/// All steps that `call` may take in `state`, and still give its answer.
fn steps(call: &Call, progress: Progress, mut state: State) -> Vec<(Next, State)> {
    let once = |fits: bool, state: State| if fits { vec![(Next::Ended, state)] } else { Vec::new() };
    let answer = call.answer;
    match &call.op {
        Op::Map(pages, rights) => {
            state[pages.clone()].fill(Some((*rights, 0)));
            once(answer == Answer::Done, state)
        }
        Op::Claim(pages, rights) if answer == Answer::Done => {
            let free = state[pages.clone()].iter().all(Option::is_none);
            state[pages.clone()].fill(Some((*rights, 0)));
            once(free, state)
        }
        Op::Claim(pages, _) => once(answer == Answer::Taken && state[pages.clone()].iter().any(Option::is_some), state),
        Op::Unmap(pages) => {
            state[pages.clone()].fill(None);
            once(answer == Answer::Done, state)
        }
        Op::Load(page) => {
            let found = state[*page].map_or(Answer::Hole, |(_, word)| Answer::Word(word));
            once(answer == found, state)
        }
        Op::Store(page, word) => {
            let found = match &mut state[*page] {
                None => Answer::Hole,
                Some((Rights::Read, _)) => Answer::Denied,
                Some((Rights::ReadWrite, old)) => {
                    *old = *word;
                    Answer::Done
                }
            };
            once(answer == found, state)
        }
        Op::Protect(pages, rights) => {
            let change = |(_, word): (Rights, u64)| (*rights, word);
            visit(answer, pages, Holes::Stop, progress, state, &change)
        }
        Op::Empty(pages) => {
            let change = |(rights, _): (Rights, u64)| (rights, 0);
            visit(answer, pages, Holes::Skip, progress, state, &change)
        }
    }
}

/// What a call that visits pages one by one does at a hole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holes {
    Stop,
    Skip,
}

/// The steps of a call that visits pages one by one.
fn visit(
    answer: Answer,
    pages: &Range<usize>,
    holes: Holes,
    progress: Progress,
    state: State,
    change: &dyn Fn((Rights, u64)) -> (Rights, u64),
) -> Vec<(Next, State)> {
    let wanted = |progress: Progress| match progress.hole {
        Some(hole) if holes == Holes::Stop => pages.start..hole,
        _ => pages.clone(),
    };
    let had = |progress: Progress, page: usize| progress.visited & 1 << page != 0;
    let mut steps = Vec::new();
    for page in wanted(progress).filter(|&page| !had(progress, page)) {
        let (mut state, mut progress) = (state, progress);
        match state[page] {
            Some(old) => state[page] = Some(change(old)),
            None if answer != Answer::Hole => continue,
            // It ends at one hole, and has been nowhere behind.
            None if holes == Holes::Stop && (progress.hole.is_some() || progress.visited >> page != 0) => continue,
            None => progress.hole = Some(page),
        }
        progress.visited |= 1 << page;
        let told = if progress.hole.is_some() { Answer::Hole } else { Answer::Done };
        let ended = answer == told && wanted(progress).all(|page| had(progress, page));
        steps.push((if ended { Next::Ended } else { Next::Further(progress) }, state));
    }
    steps
}
