//! Random bytes for programs: the ChaCha20 block function (RFC 8439, 2.3) in counter mode over a 32-byte seed.
//!
//! With a seed from the launcher a boot's random bytes are the same each time, which is what a test wants to repeat;
//! without one the time stamp counter at the first use is the seed. This is **not** a source of secrets.

use sync::{Class, Platform, SpinLock};

use crate::arch::cpu;
use crate::fw_cfg;
use crate::platform::Machine;

struct Generator {
    /// `None` until the first use.
    key: Option<[u32; 8]>,
    /// The next block.
    counter: u64,
}

static GENERATOR: SpinLock<Machine, Generator> = sync::spin_lock(Class::Random, Generator { key: None, counter: 0 });

/// Fills `buffer`.
pub fn fill(buffer: &mut [u8]) {
    for part in buffer.chunks_mut(64) {
        let block = next_block();
        part.copy_from_slice(&block[..part.len()]);
    }
}

fn next_block() -> [u8; 64] {
    let mut generator = GENERATOR.lock();
    let key = *generator.key.get_or_insert_with(seed);
    let counter = generator.counter;
    generator.counter += 1;
    drop(generator);
    block(&key, counter)
}

fn seed() -> [u32; 8] {
    let mut bytes = [0; 32];
    let given = fw_cfg::read_small(abi::fw_cfg::SEED, &mut bytes).map(<[u8]>::len);
    if given != Some(32) {
        bytes[..8].copy_from_slice(&cpu::time_stamp().to_le_bytes());
        bytes[8..16].copy_from_slice(&Machine::now_ns().to_le_bytes());
    }
    let mut key = [0; 8];
    for (word, four) in key.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    }
    key
}

/// The `counter`-th block of the key stream.
fn block(key: &[u32; 8], counter: u64) -> [u8; 64] {
    let mut start = [0u32; 16];
    start[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    start[4..12].copy_from_slice(key);
    start[12] = counter as u32;
    start[13] = (counter >> 32) as u32;
    let mut state = start;
    for _ in 0..10 {
        for column in 0..4 {
            quarter_round(&mut state, column, column + 4, column + 8, column + 12);
        }
        for diagonal in 0..4 {
            let turn = |row: usize| 4 * row + (diagonal + row) % 4;
            quarter_round(&mut state, turn(0), turn(1), turn(2), turn(3));
        }
    }
    let mut bytes = [0; 64];
    for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
        four.copy_from_slice(&state[index].wrapping_add(start[index]).to_le_bytes());
    }
    bytes
}

fn quarter_round(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (x, y, z, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
        state[x] = state[x].wrapping_add(state[y]);
        state[z] = (state[z] ^ state[x]).rotate_left(turn);
    }
}
