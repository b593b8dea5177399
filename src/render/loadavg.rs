//! `/proc/loadavg`: three averages, tasks running of all, and the last process id.

use crate::facts::Tasks;

pub(super) fn render(averages: [u64; 3], tasks: &Tasks) -> Vec<u8> {
    let [one, five, fifteen] =
        averages.map(|hundredths| format!("{}.{:02}", hundredths / 100, hundredths % 100));
    // Whoever reads is running, and is one of the tasks.
    let running = tasks.running.max(1);
    let total = tasks.total.max(running);
    format!("{one} {five} {fifteen} {running}/{total} {}\n", tasks.last_pid).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_and_counts() {
        let tasks = Tasks { running: 3, blocked: 1, total: 7, last_pid: 42 };
        assert_eq!(render([305, 7, 0], &tasks), b"3.05 0.07 0.00 3/7 42\n");
        let idle = Tasks { last_pid: 1, ..Tasks::default() };
        assert_eq!(render([0, 0, 0], &idle), b"0.00 0.00 0.00 1/1 1\n");
    }
}
