//! What containers are shown across the end of a daemon, killed or asked to, and its successor.
//!
//! Needs what [`crate::who`] needs.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::collections::HashMap;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use lxcfs_rs::collect::load::boottime;
use lxcfs_rs::units::Nsec;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::byhand::{Group, Plan, Reader, eventually, full};
use crate::daemon::{Guarded, Place, serve, start};

/// How often the daemon ends.
fn restarts() -> usize {
    if full() { 200 } else { 20 }
}

fn accounted() -> Group {
    Group::new(&["memory", "cpu", "cpuacct", "cpuset"])
}

/// A container that sees the host's mounts: those of its own would not be healed yet.
fn container(group: &Group) -> Plan {
    Plan::host().pid_namespace().in_group(group).cgroup_namespace()
}

fn end(daemon: Guarded, signal: Signal) {
    daemon.signal(signal);
    daemon.end();
}

/// The numbers of each line that describes CPUs.
fn cpu_lines(stat: &str) -> HashMap<String, Vec<u64>> {
    let lines = stat.lines().filter(|line| line.starts_with("cpu"));
    lines
        .map(|line| {
            let (label, numbers) = line.split_once(' ').unwrap();
            (label.to_owned(), numbers.split(' ').filter_map(|word| word.parse().ok()).collect())
        })
        .collect()
}

/// The first number of `text`, in hundredths.
fn hundredths(text: &str) -> u64 {
    let number = text.split(' ').next().unwrap().replace('.', "");
    number.parse().unwrap()
}

/// One of its own threads once waited for an answer of another that was killed: for ever, as
/// only the end of the process would have ended the wait.
#[test]
fn killed_at_any_moment_of_its_start_it_is_gone() {
    let place = Place::new();
    let rounds = if full() { 2000 } else { 100 };
    for round in 0..rounds {
        let mut command = serve(&place.mountpoint());
        let mut daemon = Guarded(command.stderr(Stdio::null()).spawn().unwrap());
        // Some moment of the first 40 ms, another one in each round.
        thread::sleep(Duration::from_micros(round * 7919 % 40_000));
        daemon.signal(Signal::SIGKILL);
        let deadline = Instant::now() + Duration::from_secs(60);
        while daemon.0.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                // Aborts the connection, so that the rest of the test can end.
                let _ = umount2(&place.mountpoint(), MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
                panic!("killed in round {round}, it is still there");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn no_counter_goes_back() {
    let place = Place::new();
    let mut daemon = start(&place);
    let group = accounted();
    group.set("cpu.cfs_quota_us", 40_000);
    let mut init = container(&group).start(&place);
    let mut busy = Plan::host().in_group(&group).start(&place);
    busy.spin();
    let mut last = (cpu_lines(&init.read("stat")), 0);
    for round in 0..restarts() {
        let signal = if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        end(daemon, signal);
        daemon = start(&place);
        // Now one CPU, now all: a successor that knew only today's would have less to show.
        for quota in [400_000, 40_000] {
            group.set("cpu.cfs_quota_us", quota);
            let shown = cpu_lines(&init.read("stat"));
            for (label, numbers) in &shown {
                let Some(before) = last.0.get(label) else { continue };
                let is_back = numbers.iter().zip(before).any(|(now, before)| now < before);
                assert!(!is_back, "round {round}, {label}: {before:?}, then {numbers:?}");
            }
            let text = init.read("uptime");
            let idle = hundredths(text.split_once(' ').unwrap().1.trim());
            assert!(idle >= last.1, "round {round}: idle for {}, then {idle}", last.1);
            last.0.extend(shown);
            last.1 = idle;
        }
    }
    let total = &last.0["cpu"];
    assert!(total[0] + total[2] > 0, "the busy loop does not show: {total:?}");
}

/// Without the record the successor would find the younger process alone.
#[test]
fn a_birth_stays_when_the_oldest_process_has_ended() {
    let place = Place::new();
    let daemon = start(&place);
    let group = accounted();
    // With no pid namespace: the container began with the oldest process in it.
    let mut oldest = Plan::host().in_group(&group).cgroup_namespace().start(&place);
    let began = boottime();
    eventually("the next second", || boottime() - began > Nsec(Nsec::PER_SEC));
    let mut younger = Plan::host().in_group(&group).cgroup_namespace().start(&place);
    let age = |reader: &mut Reader| hundredths(&reader.read("uptime"));
    assert!(age(&mut oldest) >= 100);
    let before = age(&mut younger);
    assert!(before >= 100, "{before}");
    drop(oldest);
    end(daemon, Signal::SIGKILL);
    let _daemon = start(&place);
    assert!(age(&mut younger) >= before);
}

#[test]
fn load_averages_go_on() {
    let place = Place::new();
    let daemon = start(&place);
    let group = accounted();
    let sub = group.below("sub");
    let mut init = container(&group).start(&place);
    let mut busy: Vec<Reader> = (0..3).map(|_| Plan::host().in_group(&sub).start(&place)).collect();
    busy.iter_mut().for_each(Reader::spin);
    eventually("three that run", || hundredths(&init.read("loadavg")) >= 300);
    drop(busy);
    end(daemon, Signal::SIGKILL);
    let _daemon = start(&place);
    // Fifteen minutes are long: of 3.00 at least 2 are left unless this machine stood still.
    let text = init.read("loadavg");
    let long: Vec<u64> = text.split(' ').take(3).map(hundredths).collect();
    assert!(long[2] > 200, "{text}");
}

#[test]
fn the_records_of_what_has_ended_go() {
    let place = Place::new();
    let daemon = start(&place);
    let runtime = place.base.join("run/history");
    let records = || {
        let mut directories = fs::read_dir(&runtime).unwrap();
        fs::read_dir(directories.next().unwrap().unwrap().path()).unwrap().count()
    };
    let group = accounted();
    let mut stays = container(&group).start(&place);
    stays.read("stat");
    {
        let short = accounted();
        container(&short).start(&place).read("stat");
        assert_eq!(records(), 2);
    }
    eventually("the sweep", || {
        stays.read("stat");
        records() == 1
    });
    {
        let short = accounted();
        container(&short).start(&place).read("stat");
        assert_eq!(records(), 2);
        end(daemon, Signal::SIGKILL);
    }
    let _daemon = start(&place);
    assert_eq!(records(), 1);
}
