//! A container's tasks, counted again and again as cheaply as the kernel allows.
//!
//! Where the cgroup has used no CPU time since the last look, and no task waited for any, no task
//! can have changed its state: all is as it was. Else the kernel counts a v1 cgroup's tasks
//! itself (CGROUPSTATS), and on v2 each thread's `stat` is read. CGROUPSTATS misses most of
//! state D, and a thread may also be moved into a cgroup or be waited for: so every 12th look is
//! at each thread whatever the counters say, and those that were then found in D are asked after
//! in between.

use crate::cgroup::dir::{CgroupDir, nothing_if_gone};
use crate::cgroup::layout::Version;
use crate::cgroup::stats::Activity;
use crate::cgroup::taskstats::{TaskStates, Taskstats};
use crate::container::{Container, Levels};
use crate::error::Result;
use crate::facts::Tasks;
use crate::kernel::{Controller, Kernel};
use crate::procfs::process;

/// Of so many looks one is at each thread: one a minute at a look every five seconds.
const LOOKS: u32 = 12;

/// A container's tasks at the last look, and what makes the next one cheap.
#[derive(Debug, Default)]
pub struct Count {
    /// Its last pid is the highest ever seen, not that of the newest thread: the host's numbers
    /// begin anew at pid_max.
    tasks: Tasks,
    /// Just before that look; none where nothing tells it.
    activity: Option<Activity>,
    /// All threads, ascending, as the daemon numbers them.
    threads: Vec<u32>,
    /// Those found in state D at the last look at each thread, and since.
    blocked: Vec<u32>,
    /// How many looks ago each thread was looked at.
    looks: u32,
}

impl Count {
    /// Counts the threads of a container's whole subtree, at any depth.
    ///
    /// # Errors
    /// [`crate::error::Error::Gone`] where the cgroup has been removed.
    pub fn first(kernel: &Kernel, container: &Container) -> Result<Count> {
        let mut count = Count::default();
        count.look_at_each(kernel, container)?;
        Ok(count)
    }

    /// What the last look found.
    #[must_use]
    pub fn tasks(&self) -> Tasks {
        self.tasks
    }

    /// Counts anew.
    ///
    /// # Errors
    /// As [`Count::first`].
    pub fn look(
        &mut self,
        kernel: &Kernel,
        container: &Container,
        taskstats: Option<&mut Taskstats>,
    ) -> Result<()> {
        let Some(levels) = task_levels(kernel, container)? else { return Ok(()) };
        self.looks += 1;
        if self.looks >= LOOKS {
            return self.look_at_each(kernel, container);
        }
        // Before the tasks are: who runs meanwhile makes it differ the next time.
        let activity = levels.version.activity(&levels.dirs[0])?;
        if activity.is_some() && activity == self.activity {
            return Ok(());
        }
        // Of cgroup2 the kernel refuses to.
        let taskstats = taskstats.filter(|_| levels.version == Version::V1);
        let counted = taskstats.map(|taskstats| counted_by_kernel(levels, taskstats));
        let Some((threads, states)) = counted.transpose()?.flatten() else {
            return self.look_at_each(kernel, container);
        };
        self.activity = activity;
        let is_still =
            |tid: &u32| threads.binary_search(tid).is_ok() && state_of(kernel, *tid) == Some(b'D');
        self.blocked.retain(is_still);
        let unnoticed = self.blocked.len() as u64;
        self.tasks.running = states.running;
        self.tasks.blocked = states.uninterruptible.saturating_add(states.io_wait).max(unnoticed);
        self.tasks.total = threads.len() as u64;
        let new = threads.iter().filter(|tid| self.threads.binary_search(tid).is_err());
        let numbers = new.map(|&tid| inner_pid(container, &status_of(kernel, tid)));
        self.tasks.last_pid = numbers.fold(self.tasks.last_pid, u32::max);
        self.finish(kernel, container, levels, threads)
    }

    /// Counts anew, looking at each thread.
    ///
    /// # Errors
    /// As [`Count::first`].
    pub fn look_at_each(&mut self, kernel: &Kernel, container: &Container) -> Result<()> {
        let Some(levels) = task_levels(kernel, container)? else { return Ok(()) };
        self.looks = 0;
        self.activity = levels.version.activity(&levels.dirs[0])?;
        self.blocked.clear();
        self.tasks = Tasks { last_pid: self.tasks.last_pid, ..Tasks::default() };
        let mut threads = Vec::new();
        levels.dirs[0].walk(&mut |dir| {
            threads.extend(threads_of(levels, dir)?);
            Ok(())
        })?;
        threads.sort_unstable();
        let mut found = Vec::with_capacity(threads.len());
        for tid in threads {
            let state = if self.threads.binary_search(&tid).is_ok() {
                state_of(kernel, tid)
            } else {
                let status = status_of(kernel, tid);
                let number = inner_pid(container, &status);
                self.tasks.last_pid = self.tasks.last_pid.max(number);
                process::parse_state(&status)
            };
            let Some(state) = state else { continue };
            found.push(tid);
            match state {
                b'R' => self.tasks.running += 1,
                b'D' => self.blocked.push(tid),
                _ => {}
            }
        }
        self.tasks.blocked = self.blocked.len() as u64;
        self.tasks.total = found.len() as u64;
        self.finish(kernel, container, levels, found)
    }

    fn finish(
        &mut self,
        kernel: &Kernel,
        container: &Container,
        levels: Levels<'_>,
        threads: Vec<u32>,
    ) -> Result<()> {
        self.threads = threads;
        if is_frozen(kernel, container)? {
            // v1 shows frozen tasks in state D; what can't run is no load.
            self.tasks.running = 0;
            self.tasks.blocked = 0;
            self.blocked.clear();
        }
        levels.dirs[0].check_exists()
    }
}

/// That of a hierarchy in which the container has a cgroup of its own, which lists its tasks;
/// where it can be, of one that also tells what they used. None where it has one in no hierarchy.
#[must_use]
pub fn task_controller(kernel: &Kernel, container: &Container) -> Option<Controller> {
    const ORDER: [Controller; 4] =
        [Controller::Cpuacct, Controller::Cpu, Controller::Memory, Controller::Cpuset];
    ORDER.into_iter().find(|controller| container.is_in(kernel, *controller))
}

fn task_levels<'a>(kernel: &Kernel, container: &'a Container) -> Result<Option<Levels<'a>>> {
    let controller = task_controller(kernel, container);
    controller.map(|controller| container.levels(kernel, controller)).transpose()
}

/// The threads, ascending, of a whole subtree and what the kernel says that they are doing; none
/// where it does not count them.
fn counted_by_kernel(
    levels: Levels<'_>,
    taskstats: &mut Taskstats,
) -> Result<Option<(Vec<u32>, TaskStates)>> {
    let (mut threads, mut sum) = (Vec::new(), Some(TaskStates::default()));
    levels.dirs[0].walk(&mut |dir| {
        let Some(before) = sum else { return Ok(()) };
        sum = levels.version.task_states(dir, taskstats)?.map(|states| before + states);
        threads.extend(threads_of(levels, dir)?);
        Ok(())
    })?;
    threads.sort_unstable();
    Ok(sum.map(|sum| (threads, sum)))
}

/// The threads of one cgroup. One that goes away meanwhile has none.
fn threads_of(levels: Levels<'_>, dir: &CgroupDir) -> Result<Vec<u32>> {
    let listed = dir.read_list(levels.version.threads_file()).or_else(nothing_if_gone)?;
    let listed = listed.unwrap_or_default();
    let lines = listed.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect())
}

/// The state of a thread; none where it has ended. Of its own directory, as the other `stat` sums
/// up all threads of its group; and not of `status`, which costs twice as much.
fn state_of(kernel: &Kernel, tid: u32) -> Option<u8> {
    let stat = kernel.proc.read_record(&format!("{tid}/task/{tid}/stat")).ok()?;
    Some(process::parse_stat(&stat)?.state)
}

/// The `status` of a thread; nothing where it has ended.
fn status_of(kernel: &Kernel, tid: u32) -> Vec<u8> {
    kernel.proc.read_record(&format!("{tid}/status")).unwrap_or_default()
}

/// The number that the container knows a thread by; 0 where it has ended.
fn inner_pid(container: &Container, status: &[u8]) -> u32 {
    let pids = process::parse_ns_pids(status).unwrap_or_default();
    pids.get(container.pid_level).or(pids.last()).copied().unwrap_or(0)
}

fn is_frozen(kernel: &Kernel, container: &Container) -> Result<bool> {
    let freezer = container.levels(kernel, Controller::Freezer)?;
    freezer.dirs.first().map_or(Ok(false), |dir| freezer.version.is_frozen(dir))
}
