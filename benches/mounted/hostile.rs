//! What a hostile container does to the files that it is shown.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use anyhow::{Context, Result};
use lxcfs_rs::sys::descriptors;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::reader::read_to_eof;

/// How many descriptors it keeps open, where it may have as many.
const MOST_KEPT: usize = 4000;
/// How often it does each thing before it does the next.
const REPEAT: usize = 50;

/// Has so many threads do everything in turn until the process is killed; tells `begun` when each
/// has done all of it once.
pub(crate) fn harass(
    paths: &[PathBuf],
    threads: usize,
    begun: impl FnOnce() -> Result<()>,
) -> Result<()> {
    descriptors::raise_limit();
    let shared: Vec<File> = paths.iter().map(File::open).collect::<Result<_, _>>()?;
    let files: Arc<Vec<_>> = Arc::new(paths.iter().cloned().zip(shared).collect());
    let most_kept = MOST_KEPT.min(descriptors::limit() / 2) / threads;
    let (sender, first_turns) = channel();
    for number in 0..threads {
        let sender = sender.clone();
        let mut thread = Thread { files: Arc::clone(&files), kept: VecDeque::new(), most_kept };
        std::thread::spawn(move || {
            // Nobody listens once the process ends.
            let _ = sender.send(thread.act(number));
            for turn in number + 1.. {
                // Whatever it is answered, it goes on.
                let _ = thread.act(turn);
            }
        });
    }
    for _ in 0..threads {
        first_turns.recv()?.context("what a hostile container does")?;
    }
    begun()?;
    loop {
        std::thread::park();
    }
}

struct Thread {
    /// With a descriptor of each that all threads read.
    files: Arc<Vec<(PathBuf, File)>>,
    /// Opened, and read of each the first byte: the daemon has the rest.
    kept: VecDeque<File>,
    most_kept: usize,
}

impl Thread {
    fn act(&mut self, turn: usize) -> std::io::Result<()> {
        let (path, shared) = &self.files[turn % self.files.len()];
        read_whole(path)?;
        read_by_bytes(path)?;
        read_anywhere(shared);
        ask_whether_it_is_ready(shared)?;
        for _ in 0..REPEAT {
            let mut file = File::open(path)?;
            file.read(&mut [0]).map(drop)?;
            self.kept.push_back(file);
        }
        let too_many = self.kept.len().saturating_sub(self.most_kept);
        self.kept.drain(..too_many);
        Ok(())
    }
}

fn read_whole(path: &Path) -> std::io::Result<()> {
    let mut buffer = [0; 8192];
    (0..REPEAT).try_for_each(|_| read_to_eof(File::open(path)?, &mut buffer).map(drop))
}

fn read_by_bytes(path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    (0..REPEAT).try_for_each(|_| file.read(&mut [0]).map(drop))
}

/// On a descriptor that the other threads read too: each place is another render. lxcfs answers
/// some with EINVAL.
fn read_anywhere(file: &File) {
    let mut buffer = [0; 128];
    for place in 0..REPEAT as u64 {
        let _ = file.read_at(&mut buffer, place * 7);
    }
}

fn ask_whether_it_is_ready(file: &File) -> std::io::Result<()> {
    const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    for _ in 0..REPEAT {
        poll(&mut [PollFd::new(file, PollFlags::PRI)], Some(&AT_ONCE))?;
    }
    Ok(())
}
