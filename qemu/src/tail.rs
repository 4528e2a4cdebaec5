//! Reading a file while another process writes it: [`Tail`].
//!
//! A machine with counted time writes its ports to files. A socket or a pipe may be full, and how full it is depends on how
//! fast the other end reads: the guest would see its port busy at another moment each time. A file takes all.

use std::fs::File;
use std::io::{ErrorKind, Read, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Between two looks at the end of the file.
const LOOK: Duration = Duration::from_millis(5);

/// A file that grows. Reads wait at its end until there is more, or its writer has ended.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    ended: Arc<AtomicBool>,
}

impl Tail {
    /// Makes the file, empty. Its writer says by `ended` that it has ended.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn new(path: &Path, ended: &Arc<AtomicBool>) -> Result<Tail> {
        File::create(path)?;
        Ok(Tail { file: File::open(path)?, ended: ended.clone() })
    }
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            // Before the look: what was written before the writer ended is seen by the look after this.
            let ended = self.ended.load(Ordering::Acquire);
            match self.file.read(buffer) {
                Ok(0) if ended => return Ok(0),
                Ok(0) => thread::sleep(LOOK),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn everything_is_read_that_was_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        let ended = Arc::new(AtomicBool::new(false));
        let mut tail = Tail::new(&path, &ended).unwrap();
        let writer = thread::spawn(move || {
            let mut file = File::options().write(true).open(&path).unwrap();
            for line in 0..50 {
                writeln!(file, "{line}").unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            ended.store(true, Ordering::Release);
        });
        let mut text = String::new();
        tail.read_to_string(&mut text).unwrap();
        writer.join().unwrap();
        assert_eq!(text.lines().count(), 50);
        assert!(text.ends_with("\n49\n"));
    }
}
