//! The first stack, read back the way a C library reads it.

use linux::UserFacts;
use linux::stack::{Stack, StackError, Start, USER_ID, at};

const TOP: u64 = 0x7fff_ffff_f000;
const ROOM: usize = 2 << 20;

fn start<'a>(args: &'a [u8], env: &'a [u8]) -> Start<'a> {
    let facts = UserFacts { hwcap: 0x78b_fbff, hwcap2: 2, min_signal_stack: 3632 };
    let random = *b"sixteen bytes!!!";
    Start { args, env, headers: 0x40_0040, header_count: 9, entry: 0x40_1234, facts, random }
}

/// A reader of the stack's memory.
struct Memory<'a>(&'a Stack);

impl Memory<'_> {
    fn word(&self, address: u64) -> u64 {
        let at = (address - self.0.sp) as usize;
        u64::from_le_bytes(self.0.bytes[at..at + 8].try_into().expect("8 bytes"))
    }

    fn string(&self, address: u64) -> &[u8] {
        let rest = &self.0.bytes[(address - self.0.sp) as usize..];
        &rest[..rest.iter().position(|&byte| byte == 0).expect("strings end")]
    }

    /// The pointers from `address` to the next 0, and the address after that.
    fn pointers(&self, mut address: u64) -> (Vec<u64>, u64) {
        let mut found = Vec::new();
        loop {
            let word = self.word(address);
            address += 8;
            match word {
                0 => return (found, address),
                pointer => found.push(pointer),
            }
        }
    }
}

type Strings = Vec<Vec<u8>>;

/// Strings of the arguments and of the environment, and the auxiliary vector.
fn read(stack: &Stack) -> (Strings, Strings, Vec<(u64, u64)>) {
    let memory = Memory(stack);
    let count = memory.word(stack.sp);
    let (args, next) = memory.pointers(stack.sp + 8);
    assert_eq!(args.len() as u64, count);
    let (env, mut next) = memory.pointers(next);
    let mut auxv = Vec::new();
    loop {
        let (key, value) = (memory.word(next), memory.word(next + 8));
        auxv.push((key, value));
        next += 16;
        if key == at::NULL {
            break;
        }
    }
    let strings = |pointers: Vec<u64>| pointers.into_iter().map(|pointer| memory.string(pointer).to_vec()).collect();
    (strings(args), strings(env), auxv)
}

#[test]
fn arguments_environment_and_vector_can_be_read_back() {
    // Lengths that change what has to be padded.
    for extra in 0..40 {
        let args = [b"prog\0--flag\0\0".to_vec(), vec![b'x'; extra], vec![0]].concat();
        let stack = Stack::build(TOP, ROOM, &start(&args, b"HOME=/\0EMPTY=\0")).expect("it fits");
        assert_eq!(stack.sp % 16, 0, "the ABI wants a multiple of 16");
        assert_eq!(stack.sp + stack.bytes.len() as u64, TOP);

        let (args, env, auxv) = read(&stack);
        let extra = "x".repeat(extra);
        assert_eq!(args, [&b"prog"[..], b"--flag", b"", extra.as_bytes()]);
        assert_eq!(env, [&b"HOME=/"[..], b"EMPTY="]);

        let value = |key| auxv.iter().find(|entry| entry.0 == key).unwrap_or_else(|| panic!("no entry {key}")).1;
        let memory = Memory(&stack);
        assert_eq!(value(at::PHDR), 0x40_0040);
        assert_eq!(value(at::PHENT), 56);
        assert_eq!(value(at::PHNUM), 9);
        assert_eq!(value(at::PAGESZ), 4096);
        assert_eq!(value(at::BASE), 0);
        assert_eq!(value(at::ENTRY), 0x40_1234);
        assert_eq!(
            (value(at::UID), value(at::EUID), value(at::GID), value(at::EGID)),
            (USER_ID, USER_ID, USER_ID, USER_ID)
        );
        assert_eq!(value(at::SECURE), 0);
        assert_eq!(value(at::CLKTCK), 100);
        assert_eq!((value(at::HWCAP), value(at::HWCAP2), value(at::MINSIGSTKSZ)), (0x78b_fbff, 2, 3632));
        assert_eq!(memory.string(value(at::PLATFORM)), b"x86_64");
        assert_eq!(memory.string(value(at::EXECFN)), b"prog");
        let random = (value(at::RANDOM) - stack.sp) as usize;
        assert_eq!(&stack.bytes[random..random + 16], b"sixteen bytes!!!");
        let mut keys: Vec<u64> = auxv.iter().map(|entry| entry.0).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), auxv.len(), "no key twice");
    }
}

#[test]
fn no_arguments_at_all_is_a_stack_too() {
    let stack = Stack::build(TOP, ROOM, &start(b"", b"")).expect("it fits");
    let (args, env, auxv) = read(&stack);
    assert!(args.is_empty() && env.is_empty());
    let name = auxv.iter().find(|entry| entry.0 == at::EXECFN).expect("always there").1;
    assert_eq!(Memory(&stack).string(name), b"");
}

#[test]
fn malformed_and_long_arguments_are_refused() {
    assert_eq!(Stack::build(TOP, ROOM, &start(b"no end", b"")).unwrap_err(), StackError::Unterminated);
    assert_eq!(Stack::build(TOP, ROOM, &start(b"a\0", b"A=1\0B")).unwrap_err(), StackError::Unterminated);
    // One string that is too long, and many whose pointers are.
    let long = [vec![b'a'; ROOM], vec![0]].concat();
    assert_eq!(Stack::build(TOP, ROOM, &start(&long, b"")).unwrap_err(), StackError::TooLong);
    let many = vec![0; ROOM / 8];
    assert_eq!(Stack::build(TOP, ROOM, &start(&many, b"")).unwrap_err(), StackError::TooLong);
    // And the longest that fits.
    let stack = Stack::build(TOP, ROOM, &start(&vec![0; ROOM / 9 - 100], b"")).expect("it fits");
    assert!(stack.bytes.len() <= ROOM);
}
