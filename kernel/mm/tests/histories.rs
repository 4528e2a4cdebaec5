//! The checker of histories: does it accept what may be, and nothing else?

mod history;

use history::{Answer, Call, History, Op, PAGES, Recorder, Rights, State, is_explained};

const NOTHING: State = [None; PAGES];

/// All pages there, with the words 10, 11, 12, 13.
fn full() -> State {
    core::array::from_fn(|page| Some((Rights::ReadWrite, 10 + page as u64)))
}

fn call(begin: u64, end: u64, op: Op, answer: Answer) -> Call {
    Call { op, answer, begin, end }
}

fn accepts(state: State, history: History) {
    assert!(is_explained(&history, state), "a right history is refused: {history:#?}");
}

fn refuses(state: State, history: History) {
    assert!(!is_explained(&history, state), "a wrong history is accepted: {history:#?}");
}

#[test]
fn a_load_beside_an_unmapping_sees_either_and_one_after_it_the_hole() {
    let unmap = || vec![call(0, 10, Op::Unmap(0..2), Answer::Done)];
    accepts(full(), vec![unmap(), vec![call(1, 2, Op::Load(1), Answer::Word(11))]]);
    accepts(full(), vec![unmap(), vec![call(1, 2, Op::Load(1), Answer::Hole)]]);
    accepts(full(), vec![unmap(), vec![call(11, 12, Op::Load(1), Answer::Hole)]]);
    refuses(full(), vec![unmap(), vec![call(11, 12, Op::Load(1), Answer::Word(11))]]);
    refuses(full(), vec![unmap(), vec![call(11, 12, Op::Load(1), Answer::Word(0))]]);
}

#[test]
fn half_an_unmapping_is_none() {
    let seen = |first, second| {
        let loads = vec![call(1, 2, Op::Load(0), first), call(3, 4, Op::Load(1), second)];
        vec![vec![call(0, 10, Op::Unmap(0..2), Answer::Done)], loads]
    };
    accepts(full(), seen(Answer::Word(10), Answer::Hole));
    refuses(full(), seen(Answer::Hole, Answer::Word(11)));
}

#[test]
fn what_one_thread_has_seen_the_next_one_sees() {
    let seen = |second| {
        let unmap = vec![call(0, 10, Op::Unmap(0..2), Answer::Done)];
        vec![unmap, vec![call(1, 2, Op::Load(0), Answer::Hole)], vec![call(3, 4, Op::Load(1), second)]]
    };
    accepts(full(), seen(Answer::Hole));
    refuses(full(), seen(Answer::Word(11)));
}

#[test]
fn a_store_is_not_lost_and_not_early() {
    let store = || vec![call(0, 10, Op::Store(0, 7), Answer::Done)];
    accepts(full(), vec![store(), vec![call(5, 6, Op::Load(0), Answer::Word(10))]]);
    accepts(full(), vec![store(), vec![call(5, 6, Op::Load(0), Answer::Word(7))]]);
    refuses(full(), vec![store(), vec![call(11, 12, Op::Load(0), Answer::Word(10))]]);
    refuses(full(), vec![store(), vec![call(5, 6, Op::Load(1), Answer::Word(7))]]);
}

#[test]
fn a_right_is_gone_when_its_taking_has_returned() {
    let protect = || vec![call(0, 10, Op::Protect(0..2, Rights::Read), Answer::Done)];
    accepts(full(), vec![protect(), vec![call(5, 6, Op::Store(1, 7), Answer::Done)]]);
    accepts(full(), vec![protect(), vec![call(11, 12, Op::Store(1, 7), Answer::Denied)]]);
    refuses(full(), vec![protect(), vec![call(11, 12, Op::Store(1, 7), Answer::Done)]]);
    refuses(full(), vec![protect(), vec![call(11, 12, Op::Store(2, 7), Answer::Denied)]]);
}

#[test]
fn rights_change_page_by_page_up_to_a_hole() {
    let mut state = full();
    let stores = |first, second| {
        let stores = vec![call(1, 2, Op::Store(0, 7), first), call(3, 4, Op::Store(1, 8), second)];
        vec![vec![call(0, 10, Op::Protect(0..4, Rights::Read), Answer::Hole)], stores]
    };
    // Half of it is a state that may be seen, and a hole must be somewhere.
    refuses(state, stores(Answer::Denied, Answer::Done));
    state[2] = None;
    accepts(state, stores(Answer::Denied, Answer::Done));
    accepts(state, stores(Answer::Done, Answer::Denied));
    let behind = |answer| {
        let protect = vec![call(0, 1, Op::Protect(0..4, Rights::Read), Answer::Hole)];
        vec![protect, vec![call(2, 3, Op::Store(3, 7), answer)]]
    };
    accepts(state, behind(Answer::Done));
    refuses(state, behind(Answer::Denied));
}

#[test]
fn emptying_goes_on_behind_a_hole() {
    let mut state = full();
    state[1] = None;
    let emptied =
        |answer, word| vec![vec![call(0, 1, Op::Empty(0..4), answer), call(2, 3, Op::Load(3), Answer::Word(word))]];
    accepts(state, emptied(Answer::Hole, 0));
    refuses(state, emptied(Answer::Hole, 13));
    refuses(state, emptied(Answer::Done, 0));
    accepts(full(), emptied(Answer::Done, 0));
}

#[test]
fn of_two_claims_one_wins() {
    let claims = |first, second| {
        let claim = |pages, answer| vec![call(0, 10, Op::Claim(pages, Rights::ReadWrite), answer)];
        vec![claim(0..2, first), claim(1..3, second)]
    };
    accepts(NOTHING, claims(Answer::Done, Answer::Taken));
    accepts(NOTHING, claims(Answer::Taken, Answer::Done));
    refuses(NOTHING, claims(Answer::Done, Answer::Done));
    refuses(NOTHING, claims(Answer::Taken, Answer::Taken));
}

#[test]
fn a_replaced_mapping_is_never_a_hole_nor_half() {
    let loads = |first, second| {
        let loads = vec![call(1, 2, Op::Load(0), first), call(3, 4, Op::Load(1), second)];
        vec![vec![call(0, 10, Op::Map(0..2, Rights::Read), Answer::Done)], loads]
    };
    accepts(full(), loads(Answer::Word(10), Answer::Word(0)));
    refuses(full(), loads(Answer::Word(0), Answer::Word(11)));
    refuses(full(), loads(Answer::Hole, Answer::Word(0)));
}

#[test]
fn the_recorder_tells_the_times_and_the_answers() {
    let recorder = Recorder::new();
    let (mut one, mut other) = (Vec::new(), Vec::new());
    recorder.call(&mut one, Op::Store(0, 7), |_| Answer::Done);
    recorder.call(&mut other, Op::Load(0), |_| Answer::Word(10));
    assert!(one[0].begin < one[0].end && one[0].end < other[0].begin);
    refuses(full(), vec![one, other]);
}
