//! `/proc/stat`: the container's CPU lines, `btime` and task counts; the host's interrupts, context
//! switches and forks.

use crate::facts::{CpuTimes, Shown, Tasks};

use super::lines;
use super::sources::{Origin, STAT, source_in};

pub(super) fn render(
    host: &[u8],
    columns: usize,
    times: &CpuTimes,
    boot_time: Option<u64>,
    tasks: &Tasks,
) -> Vec<u8> {
    let mut text = Vec::with_capacity(host.len());
    push_cpus(&mut text, columns, times);
    for line in lines(host) {
        let key = line.split(|&byte| byte == b' ').next().unwrap_or_default();
        let value = match key {
            _ if key.starts_with(b"cpu") => continue,
            b"btime" => boot_time,
            // Whoever reads is running.
            b"procs_running" => Some(tasks.running.max(1)),
            b"procs_blocked" => Some(tasks.blocked),
            _ => None,
        };
        match value {
            Some(value) => {
                text.extend_from_slice(key);
                push_number(&mut text, value);
            }
            None if key == b"btime" || is_hosts(key) => text.extend_from_slice(line),
            None => text.extend(without_numbers(line)),
        }
        text.push(b'\n');
    }
    text
}

fn is_hosts(key: &[u8]) -> bool {
    let source = std::str::from_utf8(key).ok().and_then(|key| source_in(STAT, key));
    source.is_some_and(|source| source.origin == Origin::Host)
}

/// A line that no known kernel prints, with every number 0.
fn without_numbers(line: &[u8]) -> Vec<u8> {
    let is_number = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    let words = line.split(|&byte| byte == b' ');
    words.map(|word| if is_number(word) { b"0" } else { word }).collect::<Vec<_>>().join(&b' ')
}

/// The `cpu` line, with two blanks, and the `cpuN` lines.
fn push_cpus(text: &mut Vec<u8>, columns: usize, times: &CpuTimes) {
    text.extend_from_slice(b"cpu ");
    push_columns(text, columns, &times.total);
    for (number, shown) in &times.cpus {
        text.extend_from_slice(b"cpu");
        text.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
        push_columns(text, columns, shown);
    }
}

/// user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice: as many as the
/// host prints.
fn push_columns(text: &mut Vec<u8>, columns: usize, shown: &Shown) {
    let all = [shown.user, shown.nice, shown.system, shown.idle, 0, 0, 0, shown.steal, 0, 0];
    for value in all.into_iter().take(columns) {
        push_number(text, value);
    }
    text.push(b'\n');
}

fn push_number(text: &mut Vec<u8>, value: u64) {
    text.push(b' ');
    text.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &[u8] = b"cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 5 0 1\nctxt 7\nbtime 1000\nprocesses 9\nprocs_running 44\nprocs_blocked 3\nsoftirq 1 2\n";

    fn times() -> CpuTimes {
        let shown = Shown { user: 10, nice: 20, system: 30, idle: 40, steal: 50 };
        CpuTimes { total: shown, cpus: vec![(1, shown)] }
    }

    #[test]
    fn own_cpus_and_tasks_and_the_hosts_other_lines() {
        let tasks = Tasks { running: 2, blocked: 1, total: 9, last_pid: 9 };
        let text = String::from_utf8(render(HOST, 10, &times(), Some(1400), &tasks)).unwrap();
        assert_eq!(
            text,
            "cpu  10 20 30 40 0 0 0 50 0 0\ncpu1 10 20 30 40 0 0 0 50 0 0\nintr 5 0 1\nctxt 7\n\
             btime 1400\nprocesses 9\nprocs_running 2\nprocs_blocked 1\nsoftirq 1 2\n"
        );
    }

    #[test]
    fn a_line_that_is_not_yet_invented_counts_nothing() {
        let text = render(b"btime x\nirqs2 17 0 cpu3\n", 10, &times(), None, &Tasks::default());
        assert!(String::from_utf8(text).unwrap().ends_with("\nbtime x\nirqs2 0 0 cpu3\n"));
    }

    #[test]
    fn old_kernels_have_fewer_columns_and_a_reader_runs() {
        let text = render(HOST, 8, &times(), None, &Tasks::default());
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("cpu  10 20 30 40 0 0 0 50\ncpu1 10"));
        assert!(text.contains("\nbtime 1000\n"));
        assert!(text.contains("\nprocs_running 1\nprocs_blocked 0\n"));
    }
}
