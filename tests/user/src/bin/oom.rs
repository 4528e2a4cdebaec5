//! Wants more memory than there is: `touch MIB` maps and writes that much, `maps COUNT` makes that many mappings that
//! cannot merge, and takes a refusal (ENOMEM) for an answer.

use std::sync::atomic::Ordering::Relaxed;
use user::raw::{self, Errno};
use user::region::{PAGE, Place, Region, Rights};

fn main() {
    let amount = user::number(2, 64) as usize;
    match std::env::args().nth(1).as_deref() {
        Some("touch") => touch(amount),
        Some("maps") => maps(amount),
        _ => {
            eprintln!("touch MIB or maps COUNT");
            std::process::exit(2);
        }
    }
}

/// Writes one word in every page of `mib` MiB.
fn touch(mib: usize) {
    let pages = mib * 256;
    let region = map(pages, Rights::ReadWrite);
    println!("mapped");
    for page in 0..pages {
        region.word(page, 0).store(page as u64, Relaxed);
    }
    println!("touched everything");
}

/// Cuts a large mapping into `count` VMAs by changing the rights of every second page.
fn maps(count: usize) {
    let region = map(2 * count, Rights::None);
    let mut refused = None;
    for index in 0..count {
        match region.protect(2 * index..2 * index + 1, Rights::ReadWrite) {
            Ok(()) => region.word(2 * index, 0).store(1, Relaxed),
            Err(errno) => {
                refused = Some((index, errno));
                break;
            }
        }
    }
    match refused {
        Some((_, Errno(libc::ENOMEM))) => println!("refused: ENOMEM"),
        Some((index, errno)) => user::wrong(format_args!("mprotect number {index} failed: {errno}")),
        None => println!("all made"),
    }
    give_back(region, count);
    let again = map(1, Rights::ReadWrite);
    again.word(0, 0).store(1, Relaxed);
    println!("everything given back, and mapping works");
}

/// Unmaps everything. A kernel that lists what it will remove before it changes anything may not have the room for a long list
/// when its memory is full; but for a few mappings there must be room, or a full memory could never be emptied.
fn give_back(region: Region, count: usize) {
    let (start, end) = (region.address(), region.address() + 2 * count * PAGE);
    match region.unmap() {
        Ok(()) => return,
        Err(Errno(libc::ENOMEM)) => {}
        Err(errno) => user::wrong(format_args!("munmap of {count} mappings failed: {errno}")),
    }
    // A quarter of a page of list, at most.
    const PIECE: usize = 32;
    for piece in (start..end).step_by(PIECE * PAGE) {
        unmap_in_pieces(piece, (end - piece).min(PIECE * PAGE));
    }
}

/// Unmaps `len` bytes, a page a mapping, at once or in ever smaller pieces.
fn unmap_in_pieces(start: usize, len: usize) {
    const FEW: usize = 4;
    // SAFETY: the region has given its pages up, and nothing else is there.
    match unsafe { raw::call(libc::SYS_munmap, [start, len, 0, 0, 0, 0]) } {
        Ok(_) => {}
        Err(Errno(libc::ENOMEM)) if len > FEW * PAGE => {
            let half = len / PAGE / 2 * PAGE;
            unmap_in_pieces(start, half);
            unmap_in_pieces(start + half, len - half);
        }
        Err(errno) => user::wrong(format_args!("munmap of a few mappings failed: {errno}")),
    }
}

fn map(pages: usize, rights: Rights) -> Region {
    Region::map(Place::Anywhere, pages, rights)
        .unwrap_or_else(|errno| user::wrong(format_args!("mmap of {pages} pages failed: {errno}")))
}
